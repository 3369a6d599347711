"""What a person types, as a query that FTS5 takes whatever it is. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

WORDS_MAX: Final = 32
"""Words of one search: FTS5 refuses expressions that nest too deep. What is behind them is left out."""
CHARS_MAX: Final = 1_000
"""Of one piece of what was typed: each may be a word to FTS5."""
# ASCII alone: what else parts words FTS5 knows by a table of its own, older or newer than Python's, and does so itself,
# as it did in the texts.
_word = re.compile(r"([^\x00-/:-@\[-`{-\x7f]+)(\*(?![A-Za-z0-9]))?").finditer
_has_token = re.compile(r"[A-Za-z0-9]").search


def match_of(text: str) -> str:
    """An FTS5 expression: all words have to be there, "words in quotes" side by side, word* is how a word begins.

    Everything else (operators, colons, brackets, an open quote) only parts words. Empty when there is no word.
    """
    terms: dict[str, str] = {}
    left = WORDS_MAX
    for words, begins in _phrases(text):
        some = words[:left]
        term = f'"{" ".join(some)}"{" *" if begins else ""}'
        if term.lower() not in terms:
            terms[term.lower()] = term
            left -= len(some)
        if not left:
            break
    # Side by side means AND, and lets go of a word that FTS5 does not know as one; the operator AND would not.
    return " ".join(terms.values())


def phrase_of(name: str) -> str:
    """The tokens of a site's or camera's name, side by side; empty when it has none."""
    words = " ".join(word for word, _ in _words(name))
    return f'"{words}"' if _has_token(words) else ""


def _phrases(text: str) -> Iterator[tuple[list[str], bool]]:
    """The words in one pair of quotes, or one word, each with whether a star follows."""
    parts = text.split('"')
    for number, part in enumerate(parts):
        # Odd ones are inside quotes, but for what is behind one that nobody closed.
        if number % 2 == 0 or number == len(parts) - 1:
            yield from (([word], begins) for word, begins in _words(part))
        elif words := [word for word, _ in islice(_words(part), WORDS_MAX)]:
            yield words, parts[number + 1].startswith("*")


def _words(text: str) -> Iterator[tuple[str, bool]]:
    for found in _word(text[:CHARS_MAX].encode(errors="replace").decode()):
        yield found[1], found[2] is not None
