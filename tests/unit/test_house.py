"""Who may import whom, who may print, and how prose is wrapped."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("clients/sightlog", "clients/sightlog_sensors", "daemon")
PROSE_MAX = 125
TEXTS = (
    "README.md",
    "CHANGELOG.md",
    "clients/README.md",
    "daemon/README.md",
    "systemd/README.md",
    "tests/torture/README.md",
)
FILES = sorted(str(path.relative_to(ROOT)) for place in PLACES for path in (ROOT / place).rglob("*.py"))

# What may be imported only here. A folder stands for the files in it.
ONLY_IN = {
    "zmq": (
        "clients/sightlog/protocol/keyfile.py",
        "clients/sightlog/publisher/connection.py",
        "daemon/sightlogd/transport/sockets.py",
        "daemon/sightlogd/service/loop.py",
        "daemon/sightlogd/transport/local.py",
        "daemon/sightlogd/transport/remote.py",
        "daemon/sightlogd/transport/zap.py",
    ),
    "sqlite3": ("clients/sightlog/reader/database.py", "daemon/sightlogd/store/"),
    "apsw": ("daemon/sightlogd/store/",),
    "sightlogd": ("daemon/",),
    "sightlog_sensors": ("clients/sightlog_sensors/", "clients/sightlog/cli/"),
    "msgspec": ("daemon/",),
    "structlog": ("daemon/",),
    "shtab": ("clients/sightlog/cli/commands/completion.py",),
    "PIL": ("daemon/", "clients/sightlog/adapters/"),
    "cv2": ("clients/sightlog_sensors/", "clients/sightlog/adapters/"),
    "numpy": ("clients/sightlog_sensors/", "clients/sightlog/adapters/", "clients/sightlog/reader/similarity.py"),
    "sqlite_vec": ("clients/sightlog/reader/database.py",),
}
OPTIONAL = ("numpy", "sqlite_vec")
"""Taken where they are there."""
MAY_PRINT = ("clients/sightlog/cli/", "clients/sightlog_sensors/", "daemon/sightlogd/cli/")


def within(file: str, places: tuple[str, ...]) -> bool:
    return any(file.startswith(place) if place.endswith("/") else file == place for place in places)


def imported(file: str) -> set[str]:
    """Top-level packages, whether imported at the top, in a function, or by name."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                found.add(str(node.args[0].value).partition(".")[0])
    return found


def test_there_are_files_to_look_at():
    for place in PLACES:
        assert any(file.startswith(place) for file in FILES), place


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_only_where_it_belongs(package):
    strays = [file for file in FILES if package in imported(file) and not within(file, ONLY_IN[package])]
    assert strays == []


def test_the_client_needs_pyzmq_and_msgpack_and_nothing_else():
    known = {*sys.stdlib_module_names, "zmq", "msgpack", "sightlog"}
    for file in FILES:
        if file.startswith("clients/sightlog/") and not within(
            file, ("clients/sightlog/adapters/", "clients/sightlog/cli/")
        ):
            optional = {package for package in OPTIONAL if within(file, ONLY_IN[package])}
            assert imported(file) <= known | optional, file


def test_the_store_knows_nothing_of_the_files_beside_it():
    """One direction: the loop, then files and budget, then the store."""
    strays = []
    for file in FILES:
        if file.startswith("daemon/sightlogd/store/"):
            for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                strays += [f"{file}: {name}" for name in names if "files" in name.split(".")]
    assert strays == []


@pytest.mark.parametrize("text", TEXTS)
def test_prose_is_wrapped(text):
    is_code, long = False, []
    for number, line in enumerate((ROOT / text).read_text(encoding="utf-8").splitlines(), 1):
        is_code ^= line.startswith("```")
        if not is_code and len(line) > PROSE_MAX and not line.startswith(("|", "    ")):
            long.append(number)
    assert long == []


def test_a_library_does_not_print():
    printing = []
    for file in FILES:
        if within(file, MAY_PRINT) or file.endswith("__main__.py"):
            continue
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.append(f"{file}:{node.lineno}")
    assert printing == []
