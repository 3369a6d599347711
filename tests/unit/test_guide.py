"""The operator's guide has an entry for every message that the daemon can print, found by the message's own words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAEMON = ROOT / "daemon/sightlogd"
GUIDE = ROOT / "systemd/README.md"
LEVELS = ("info", "warning", "error", "critical")
# Which argument of what is called is a text for people. Debug is for who works on the daemon.
TEXT_OF = {
    "Stop": 1, "WriteRefused": 1, "_verdict": -1, "_warn": -1, "warn": -1, "tell": -1, **dict.fromkeys(LEVELS, 0),
}  # fmt: skip
LETTERS_MIN = 12
"""Fewer are not found by searching for them."""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """(line, the message, with … for what varies), without messages that are handed on."""
    for node in ast.walk(ast.parse(source)):
        given = []
        if isinstance(node, ast.Call):
            given = of_call(node)
        elif (
            isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "why"
        ):  # part of a text that follows
            given = [node.value]
        for text in given:
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield node.lineno, text.value
            elif isinstance(text, ast.JoinedStr):
                yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in text.values)


def of_call(node: ast.Call) -> list[ast.expr]:
    """Its arguments that are texts."""
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if name in LEVELS and not (isinstance(called, ast.Attribute) and getattr(called.value, "id", "") == "log"):
        return []
    given = [keyword.value for keyword in node.keywords if keyword.arg == "warning"]  # of a producer's session
    index = TEXT_OF.get(name)
    if index is not None and node.args and index < len(node.args):
        given.append(node.args[index])
    return given


def beginning(text: str) -> str:
    """As many of its clauses, from the first on, as say enough; nothing when it is all handed on."""
    taken = ""
    for clause in re.split(r"(?<=[.;:]) ", text):
        taken += f" {clause}"
        if sum(map(str.isalpha, taken)) >= LETTERS_MIN:
            break
    return taken.strip(" ….,:;(`")


MESSAGES = sorted(
    (f"{path.relative_to(DAEMON)}:{line}", beginning(text))
    for path in DAEMON.rglob("*.py")
    for line, text in texts(path.read_text(encoding="utf-8"))
    if beginning(text)
)


def test_messages_are_found():
    found = {text for _, text in MESSAGES}
    assert {
        "another process listens on",
        "slow commit",
        "the disk of … is full",
        "is damaged or not a database",
        "refused a producer at",
        "came without a key",
        "this user may not read",
        "cannot use a key file",
    } <= found


@pytest.mark.parametrize(("where", "text"), MESSAGES, ids=[where for where, _ in MESSAGES])
def test_the_guide_says_what_to_do(where, text):
    guide = " ".join(GUIDE.read_text(encoding="utf-8").split())
    assert text in guide, f"{where} prints “{text}”: {GUIDE.relative_to(ROOT)} needs an entry with these words"
