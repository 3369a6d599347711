"""Which room may import which, who may print, and how texts are wrapped."""

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
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/benchmarks.md",
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


# Rooms from the bottom up: each may import those in the lines above its own, and none beside it.
LAYERS = (
    ("sightlog",),
    ("sightlog.protocol",),
    ("sightlog.spool", "sightlog.reader", "sightlog.adapters"),
    ("sightlog.publisher",),
    ("sightlog.cli.render",),
    ("sightlog.cli",),
    ("sightlog.cli.commands", "sightlog_sensors"),
    ("sightlogd",),
    ("sightlogd.protocol",),
    ("sightlogd.store",),
    ("sightlogd.store.tools",),
    ("sightlogd.daylogs",),
    ("sightlogd.retention", "sightlogd.transport"),
    ("sightlogd.metrics",),
    ("sightlogd.thumbnails",),
    ("sightlogd.recovery",),
    ("sightlogd.backups",),
    ("sightlogd.service",),
    ("sightlogd.cli",),
)
HEIGHTS = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
ENTRIES = {"sightlog": "__init__", "sightlogd": "__main__"}
"""Modules that hand on what is above them."""


def modules() -> dict[str, Path]:
    found = {}
    for place in ("clients/sightlog", "clients/sightlog_sensors", "daemon/sightlogd"):
        for path in (ROOT / place).rglob("*.py"):
            parts = (Path(place).name, *path.relative_to(ROOT / place).with_suffix("").parts)
            found[".".join(parts)] = path
    return found


def room_of(module: str, there: dict[str, Path]) -> str | None:
    """The folder that has it; None for what is none of ours."""
    if f"{module}.__init__" in there:
        return module
    return module.rpartition(".")[0] if module in there else None


def arrows() -> set[tuple[str, str, str]]:
    """(room, room, the module that imports), without what types alone need."""
    there, found = modules(), set()
    for module, path in there.items():
        room = module.rpartition(".")[0]
        if ENTRIES.get(room) == module.rpartition(".")[2]:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in for_types or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                above = module.split(".")[: -node.level] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                names = [f"{base}.{alias.name}" for alias in node.names] + [base]
            found |= {(room, other, module) for name in names if (other := room_of(name, there)) and other != room}
    return found


def test_each_room_has_its_layer():
    assert {module.rpartition(".")[0] for module in modules()} - {"sightlogd.migrations"} == set(HEIGHTS)


def test_rooms_are_imported_from_above_only():
    upward = {
        f"{module} imports {other}"
        for room, other, module in arrows()
        if room in HEIGHTS and other in HEIGHTS and HEIGHTS[other] >= HEIGHTS[room]
    }
    assert upward == set()


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
