"""`sightlog search`, `similar` and `stats`."""

from __future__ import annotations

import made_up
import pytest
import stored
from commands import objects, on_a_terminal, run
from sample import HOSTILE, event

from sightlogd.store import Store


def test_search_finds_events_and_observations(home):
    done = run(home, "search", "blue", "shirt")
    assert done.returncode == 0
    assert "a man in a [blue] [shirt] rings" in done.stdout
    assert "the man wears a [blue] [shirt]" in done.stdout
    heads = [line.split() for line in done.stdout.splitlines() if not line.startswith("    ")]
    assert sorted(heads) == [
        ["2026-03-01", "11:00:00", "door", "ding", "Anna", "e0"],
        ["2026-03-01", "11:00:00", "door", "observation", "of", "vlm", "Anna", "o1"],
    ]
    found = objects(run(home, "search", "blue", "shirt", "-o", "json"))
    assert {hit["event"]["event_id"] for hit in found} == {"e0"}
    assert [bool(hit["observation"]) for hit in found].count(True) == 1
    assert [hit["score"] for hit in found] == sorted(hit["score"] for hit in found)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("blue",), 3),
        (("blue", "-n", "1"), 1),
        (("blue", "-n", "0"), 0),
        (("blue", "-n", "all"), 3),
        (("blue", "--camera", "yard"), 1),
        (("blue", "--camera", "door"), 2),
        (("blue", "--since", "2026-03-01 11:30"), 1),
        (("blue", "--until", "2026-03-01 11:30"), 2),
        (("blue", "--site", "elsewhere"), 0),
        (("green",), 0),
        (('"shirt blue"',), 0),
        (('"blue shirt"',), 2),
        (("bl*",), 3),
        (("AND", "NEAR(", '"', "*"), 0),
    ],
)
def test_search_is_narrowed(home, arguments, count):
    done = run(home, "search", *arguments, "-o", "json")
    assert len(done.stdout.splitlines()) == count
    assert (done.returncode, done.stderr) == (0 if count else 1, "")


def test_hit_words_are_bold_on_a_terminal(home):
    assert "\x1b[1mblue\x1b[0m" in on_a_terminal(home, 80, "search", "blue").text
    assert "[blue]" in on_a_terminal(home, 80, "search", "blue", NO_COLOR="1").text
    # For programs they are the same everywhere.
    assert "[blue]" in on_a_terminal(home, 80, "search", "blue", "-o", "json").text


@pytest.mark.parametrize("face", ["e0", "events/2026-03-01/e0.jpg", "/data/events/2026-03-01/e0.jpg", "e0.jpg"])
def test_similar_faces_are_the_nearest_first_without_the_event_itself(home, face):
    found = objects(run(home, "similar", "--face", face, "-o", "json"))
    assert [(hit["observation"] or {}).get("observation_id") or hit["event"]["event_id"] for hit in found] == [
        "e2",
        "o1",
        "e3",
    ]
    assert [hit["distance"] for hit in found] == pytest.approx([0.0061, 0.2929, 1.0], abs=1e-4)
    lines = run(home, "similar", "--face", face, "-n", "2").stdout.splitlines()
    assert lines[0].split() == [
        "cosine",
        "0.0061",
        "2026-03-01",
        "13:00:00",
        "yard",
        "motion",
        "Anna",
        "unlocked",
        "e2",
    ]
    assert lines[1].strip() == "yard motion: Anna, unlocked"
    assert lines[2].split()[:2] == ["cosine", "0.2929"]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("face", "said"),
    [("e1", "e1 has no embedding"), ("e99", "no event e99"), ("events/2026-03-01/e98.jpg", "no event")],
)
def test_similar_to_nothing_says_what_to_do(home, face, said):
    done = run(home, "similar", "--face", face)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "`sightlog events" in done.stderr


def test_of_many_that_are_the_same_no_more_are_shown_than_asked_for(tmp_path):
    stored.write(tmp_path / "events.db", [event(number, embedding=[1, 2]) for number in range(4)])
    assert len(objects(run(tmp_path, "similar", "--face", "e3", "-n", "1", "-o", "json"))) == 1
    assert len(objects(run(tmp_path, "similar", "--face", "e3", "-n", "all", "-o", "json"))) == 3


def test_similar_compares_exactly_what_the_event_says_of_its_embedding(tmp_path):
    """Also where it names no model, or no version, and others do."""
    kinds = [{}, {"embedding_model": "a"}, {"embedding_model": "a", "embedding_version": "2"}, {"embedding_model": "b"}]
    faces = [event(number, embedding=[1, number], **kind) for number, kind in enumerate(kinds * 2)]
    stored.write(tmp_path / "events.db", faces)
    for number in range(4):
        done = run(tmp_path, "similar", "--face", f"e{number}", "-o", "json")
        assert (done.returncode, done.stderr) == (0, "")
        assert [hit["event"]["event_id"] for hit in objects(done)] == [f"e{number + 4}"]


def test_an_embedding_of_zeros_is_named(tmp_path):
    stored.write(tmp_path / "events.db", [event(0, embedding=[0, 0]), event(1, embedding=[1, 0])])
    done = run(tmp_path, "similar", "--face", "e0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the embedding of event e0 is all zeros" in done.stderr


def test_a_store_of_a_newer_version_is_told(tmp_path):
    stored.write(tmp_path / "events.db", [event(0)])
    with made_up.later():
        Store(tmp_path).close()
    for command in (("events",), ("search", "blue"), ("stats",), ("similar", "--face", "e0")):
        done = run(tmp_path, *command)
        assert (done.returncode, done.stdout) == (78, "")
        assert f"has schema {made_up.NEWEST}" in done.stderr
        assert "Upgrade sightlog here" in done.stderr
    for command in ("events", "tail", "show", "search", "similar", "stats", "export"):
        assert (
            "78 it is of another version of sightlog, or not one of sightlog's"
            in run(tmp_path, command, "--help").stdout
        )


# -- stats -------------------------------------------------------------------------------------------------------------


def test_stats_count_days_cameras_and_persons(home):
    assert run(home, "stats").stdout.split("\n\n") == [
        "by day\n2026-03-01  5\n2026-03-03  1",
        "by camera\ndoor  2\ngate  2\nyard  2",
        "by person\n" + "\n".join(run(home, "stats", "--by", "person").stdout.splitlines()) + "\n",
    ]
    persons = {one["person"]: one["events"] for one in objects(run(home, "stats", "--by", "person", "-o", "json"))}
    assert persons == {"Anna": 2, None: 2, "Ben": 1, HOSTILE: 1}
    labels = {one["label"]: one["events"] for one in objects(run(home, "stats", "--by", "label", "-o", "json"))}
    assert labels["dog"] == 1
    days = run(home, "stats", "--by", "day", "--since", "2026-03-02").stdout
    assert days == "2026-03-03  1\n"
    assert run(home, "stats", "--since", "-2h").returncode == 1


def test_bars_where_they_can_be_shown(home):
    assert "█" in on_a_terminal(home, 80, "stats").text
    assert "█" not in run(home, "stats").stdout
    plain = on_a_terminal(home, 80, "stats", "--by", "camera", PYTHONIOENCODING="ascii", NO_COLOR="1").text
    assert plain == run(home, "stats", "--by", "camera").stdout.replace("\n", "\r\n")
