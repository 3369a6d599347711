"""`Reader.search`: what is found, whose it is, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightlog import Reader, UsageError
from sightlog.protocol.encoding import format_time
from sightlog.reader import search
from sightlogd.store.opening import create

START = datetime(2026, 3, 1, tzinfo=UTC)


class Texts:
    """A database to write texts into, as the daemon would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        create(path, lambda: "2026-01-01T00:00:00.000Z")
        self._connection = apsw.Connection(str(path))
        self._last = 0

    def event(self, text, *, site="default", camera="door", after=None):
        self._last += 1
        moment = format_time(START + timedelta(minutes=self._last if after is None else after))
        self._connection.execute(
            "INSERT INTO events (id, event_id, site, camera_id, recorded_at, event_type, llm_description, created_at) "
            "VALUES (?, ?, ?, ?, ?, 'motion', ?, ?)",
            (self._last, f"e{self._last}", site, camera, moment, text, moment),
        )
        self._index()
        return f"e{self._last}"

    def observation(self, text, *, site="default", about=None, after=None):
        self._last += 1
        moment = format_time(START + timedelta(minutes=self._last if after is None else after))
        self._connection.execute(
            "INSERT INTO observations (id, observation_id, site, recorded_at, event_id, content, source, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, 'vlm', ?)",
            (self._last, f"o{self._last}", site, moment, about, text, moment),
        )
        self._index()
        return f"o{self._last}"

    def _index(self):
        self._connection.execute(
            "INSERT INTO texts_index (rowid, site, origin, content) SELECT * FROM texts WHERE id = ?", (self._last,)
        )


@pytest.fixture
def texts(tmp_path):
    texts = Texts(tmp_path / "events.db")
    yield texts
    texts._connection.close()


@pytest.fixture
def reader(texts):
    with Reader(texts.path) as reader:
        yield reader


def names(hits):
    return [hit.event.event_id if hit.observation is None else hit.observation.observation_id for hit in hits]


def test_descriptions_and_observations_with_their_events(texts, reader):
    seen = texts.event("A person in a blue shirt rings the bell")
    remark = texts.observation("The shirt is blue", about=seen)
    alone = texts.observation("Blue sky over shirts")
    late = texts.observation("A blue shirt again", about="not-there-yet")
    texts.event("A red car")
    texts.event(None)
    hits = {name: hit for hit, name in ((hit, names([hit])[0]) for hit in reader.search("blue shirt"))}
    assert set(hits) == {seen, remark, alone, late}
    assert hits[seen].event.event_id == seen
    assert hits[seen].observation is None
    assert hits[remark].event.event_id == seen
    assert hits[remark].observation.content == "The shirt is blue"
    assert hits[alone].event is None
    assert hits[late].event is None
    assert hits[seen].excerpt == "A person in a [blue] [shirt] rings the bell"
    assert all(hit.score < 0 for hit in hits.values())


def test_best_first_and_the_newer_of_equal_ones(texts, reader):
    once = texts.event("A cat on the wall, then nothing for the rest of the night but rain and wind in the trees")
    twice = texts.event("Cat after cat")
    older, newer = texts.event("one dog"), texts.event("one dog")
    found = reader.search("cat")
    assert names(found) == [twice, once]
    assert found[0].score < found[1].score
    assert names(reader.search("dog")) == [newer, older]
    assert names(reader.search("dog", limit=1)) == [newer]
    assert reader.search("dog", limit=0) == []


def test_an_excerpt_of_a_long_text_with_marks_of_ones_own(texts, reader):
    texts.event(f"{'before ' * 50}parcel{' behind' * 50}")
    (hit,) = reader.search("parcel", marks=("<b>", "</b>"))
    assert hit.excerpt.startswith("…before")
    assert "<b>parcel</b>" in hit.excerpt
    assert hit.excerpt.endswith("behind…")
    assert len(hit.excerpt.split()) == 16


def test_a_camera_has_its_events_and_what_was_said_about_them(texts, reader):
    door, gate = texts.event("cat", camera="door"), texts.event("cat", camera="door_2")
    at_door, at_gate = texts.observation("cat", about=door), texts.observation("cat", about=gate)
    texts.observation("cat")
    observation_cam = texts.event("cat", camera="observation")
    blank = texts.event("cat", camera="_")
    assert set(names(reader.search("cat", camera_id="door"))) == {door, at_door}
    assert set(names(reader.search("cat", camera_id="door_2"))) == {gate, at_gate}
    assert names(reader.search("cat", camera_id="observation")) == [observation_cam]
    assert names(reader.search("cat", camera_id="_")) == [blank]
    assert reader.search("cat", camera_id="door 2") == []
    assert reader.search("cat", camera_id='" OR cat') == []


def test_an_observation_about_an_event_of_another_site_has_none(texts, reader):
    theirs = texts.event("cat", site="shed")
    ours = texts.observation("cat", about=theirs)
    (hit,) = reader.search("cat")
    assert names([hit]) == [ours]
    assert hit.event is None
    assert reader.search("cat", camera_id="door") == []


def test_sites_that_have_the_same_words(texts):
    sites = ("a.b", "a_b", "a-b", "A.b", "a.b.c", "_", "__")
    for site in sites:
        texts.event("cat", site=site)
        texts.observation("cat", site=site)
    for site in sites:
        with Reader(texts.path, site) as reader:
            assert {(hit.observation or hit.event).site for hit in reader.search("cat")} == {site}
            assert len(reader.search("cat")) == 2


def test_the_score_of_a_text_is_its_own_site_s(texts, reader):
    texts.event("a cat and a dog")
    texts.event("a cat")
    before = reader.search("cat")
    for _ in range(50):
        texts.event("cat " * 20, site="shed")
    assert reader.search("cat") == before


def test_a_time_range(texts, reader):
    found = [texts.event("cat") for _ in range(10)]
    remark = texts.observation("cat", after=3)
    late = texts.event("cat", after=2)
    since, until = START + timedelta(minutes=2), START + timedelta(minutes=5)
    assert set(names(reader.search("cat", since=since, until=until))) == {*found[1:4], remark, late}
    assert set(names(reader.search("cat", since=since))) == {*found[1:], remark, late}
    assert set(names(reader.search("cat", until=until))) == {*found[:4], remark, late}
    assert reader.search("cat", since=until, until=since) == []


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=40),
    st.none() | st.integers(0, 40),
    st.none() | st.integers(0, 40),
    st.integers(0, 5),
)
def test_wide_ranges_give_what_narrow_ones_give(tmp_path_factory, rows, since, until, narrow):
    texts = Texts(tmp_path_factory.mktemp("wide") / "events.db")
    expected = set()
    for minute, observed in rows:
        name = (texts.observation if observed else texts.event)("cat", after=minute)
        if (since is None or minute >= since) and (until is None or minute < until):
            expected.add(name)
    with Reader(texts.path) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_NARROW", narrow)
        found = reader.search(
            "cat",
            limit=100,
            since=None if since is None else START + timedelta(minutes=since),
            until=None if until is None else START + timedelta(minutes=until),
        )
    texts._connection.close()
    assert set(names(found)) == expected


def test_of_a_common_word_the_newest_are_ranked_and_of_a_rare_one_all(texts, reader):
    rare = texts.event("cat cat cat unicorn")
    texts._connection.execute("BEGIN")
    for _ in range(search.RANKED):
        texts.event("a cat")
    texts._connection.execute("COMMIT")
    assert rare not in names(reader.search("cat"))
    assert names(reader.search("cat unicorn")) == [rare]
    assert len(reader.search("cat", limit=10_000)) == search.RANKED + 1


def test_of_long_texts_fewer_are_ranked_but_as_many_as_were_asked_for(texts, reader):
    for _ in range(30):
        texts.event("cat " * 12_500)
    assert len(reader.search("cat", limit=30)) == 30
    assert len(reader.search("cat", limit=5)) == 5


ODD = [
    "",
    "   ",
    "*",
    '"',
    "AND",
    "cat AND",
    "NOT",
    "NEAR(",
    "site:cat",
    "^",
    "😀",
    "\0",
    "\udcff",
    "(" * 9999,
    "x" * 10**6,
]


@pytest.mark.parametrize("text", ODD, ids=[repr(text[:9]) for text in ODD])
def test_whatever_is_typed_is_no_error(texts, reader, text):
    texts.event("a cat")
    assert reader.search(text) == []
    assert reader.search(text, camera_id="door", since=START) == []


def test_mistakes_of_a_program_are_told(reader):
    with pytest.raises(UsageError, match="as text"):
        reader.search(7)
    with pytest.raises(UsageError, match="whole number"):
        reader.search("cat", limit=-1)
    with pytest.raises(UsageError, match="time zone"):
        reader.search("cat", since=START.replace(tzinfo=None))
