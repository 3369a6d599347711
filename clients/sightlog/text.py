r"""What in a text acts on more than the text: on a terminal, on the lines around it, on a spreadsheet. No I/O.

One table for what names may not have and for what no output passes on: controls of seven and of eight bits, which
terminals obey; marks, overrides and isolates of direction, which show another text than is there; ends of lines and
paragraphs; deprecated format characters, annotations and tags, which hide text; surrogates, which are no characters.
Joiners are part of Persian and Indic words and of emoji, and do none of this.
"""

from __future__ import annotations

import re
from typing import Final

_HARMFUL: Final = (
    "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
_JOINERS: Final = "\u200c\u200d"

is_harmful = re.compile(f"[{_HARMFUL}]").search
"""A match where a name is refused."""

_in_cells = re.compile(rf"\r(?!\n)|(?![\t\r\n])[{_HARMFUL}]").sub
_in_lines = re.compile(rf"(?!\n)[{_HARMFUL}]").sub
_formula = re.compile(r"(^|[;\t\r\n])(?=(?:[^\S\t\r\n]|[\"'])*[=+\-@＝＋－＠])").sub
"""Where a spreadsheet could see a formula begin: at the start of a cell, also behind quotes and blanks; and behind what
it takes for the end of a cell where the separator is another than ours, as in most of Europe."""


def printable(text: str) -> str:
    r"""`text` with everything that a terminal might obey or not show escaped, line ends too (`\x1b`)."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _JOINERS else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def lines_safe(text: str) -> str:
    """Lines with a blank for each harmful character but their line feeds."""
    return text if _plain(text) else _in_lines(" ", text)


def json_safe(text: str) -> str:
    r"""Lines of JSON whose strings have no harmful character as it is: `\u009b` means the same."""
    return text if _plain(text) else _in_lines(_json_escape, text)


def _plain(text: str) -> bool:
    return text.replace("\n", "").isprintable()  # a tenth of what the pattern takes


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\u{0xD7C0 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def cell_safe(text: str) -> str:
    """A text as a cell of a file that a spreadsheet may open: `'` before what it could take for a formula, harmful
    characters escaped. Line feeds and tabs stay."""
    safe = _formula(r"\1'", _in_cells(lambda match: _escape(match[0]), text))
    return f"'{safe}" if text.startswith(("\t", "\r", "\n")) else safe
