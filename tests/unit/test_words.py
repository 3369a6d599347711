"""What people type into a search, as FTS5's query language."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightlog.reader.words import WORDS_MAX, match_of

TEXTS = (
    "A person in a blue shirt",
    "Blue car, shirt on the seat",
    "Zwei Männer vor der Tür",
    "NOT a cat AND not a dog",
    "a:b c-d front_door 12.5",
    "running runners ran",
    "配達 がきた",
    "paid ₽500 to a dog🤖 \u2066Ada\u2069",
)


@pytest.fixture(scope="module")
def index():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5 (content, tokenize='porter unicode61 remove_diacritics 2')")
    connection.executemany("INSERT INTO t VALUES (?)", [(text,) for text in TEXTS])
    yield connection
    connection.close()


def found(index, text):
    match = match_of(text)
    if not match:
        return []
    query = "SELECT content FROM t WHERE t MATCH ? ORDER BY rowid"
    return [row[0] for row in index.execute(query, (f"content : ({match})",))]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("blue shirt", '"blue" "shirt"'),
        ("Blue blue BLUE", '"Blue"'),
        ('"blue shirt"', '"blue shirt"'),
        ('"to be or not to be"', '"to be or not to be"'),
        ('a "b c" d', '"a" "b c" "d"'),
        ("shi*", '"shi" *'),
        ("sh*irt", '"sh" "irt"'),
        ('"blue shi"*', '"blue shi" *'),
        ("shirt AND NOT OR NEAR(a,b)", '"shirt" "AND" "NOT" "OR" "NEAR" "a" "b"'),
        ("a:b^c{d}", '"a" "b" "c" "d"'),
        ('open "quote here', '"open" "quote" "here"'),
        ('""', ""),
        ("***", ""),
        (" \t\n", ""),
        ("😀", '"😀"'),
        ("\0\ud800", ""),
        ("₽500 dog🤖", '"₽500" "dog🤖"'),
        ("a\0b", '"a" "b"'),
        ("", ""),
    ],
)
def test_the_expression(text, match):
    assert match_of(text) == match


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("blue shirt", [0, 1]),
        ('"blue shirt"', [0]),
        ("SHIRT blu*", [0, 1]),
        ("manner tur", [2]),
        ("Ma\u0308nner", [2]),
        ("not cat", [3]),
        ("a:b", [4]),
        ("front_door", [4]),
        ('"12.5"', [4]),
        ("run", [5]),
        ("配達", [6]),
        ("person 😀 shirt", [0]),
        ("person unicorn", []),
        ("₽500", [7]),
        ("dog🤖 paid", [7]),
        ("\u2066Ada\u2069", [7]),
    ],
)
def test_it_finds_texts_that_have_all_words(index, text, numbers):
    assert found(index, text) == [TEXTS[number] for number in numbers]


@pytest.mark.parametrize(
    "text", ["w " * 500_000, "x" * 1_000_000, '"' * 1_000_000, "(" * 10_000, "🐈" * 100_000, "* " * 9_000]
)
def test_any_length_is_taken(index, text):
    assert found(index, text) == []


def test_no_more_words_than_fts5_takes(index):
    many = " ".join(f"w{n}" for n in range(1000))
    assert match_of(many).count('"') == 2 * WORDS_MAX
    assert len(match_of(f'"{many}"').split()) == WORDS_MAX
    assert found(index, many) == []


PIECES = [*'"*:^-(){}a´ ', "AND", "OR", "NOT", "NEAR(", "blue", "\0", "\u0301", "\u01c6", "\U0001e900", "\ud800"]


@settings(deadline=None, max_examples=500)
@given(st.text(st.characters(), max_size=60) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_nothing_typed_is_an_error(index, text):
    found(index, text)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(TEXTS), st.data())
def test_a_text_is_found_by_any_of_its_words_however_they_are_parted(index, text, data):
    words = data.draw(st.lists(st.sampled_from(text.split()), min_size=1, max_size=4))
    assert text in found(index, data.draw(st.sampled_from([" ", ",", " *", "("])).join(words))
