"""Pictures without a row and rows without a picture are found and settled, and nothing else is touched."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import daylogs
from conftest import wait_for
from pictures import jpeg

from sightlog import Event

AT = datetime.now(UTC).replace(hour=12) - timedelta(days=2)


def insert(daemon, count: int, **fields) -> list[Event]:
    events = [Event("door", recorded_at=AT, thumbnail=jpeg(), **fields) for _ in range(count)]
    with daemon.publisher() as publisher:
        assert publisher.insert_events(events).stored == count
    return events


def said(daemon, text: str) -> bool:
    return any(text in line["event"] for line in daemon.logged())


def test_a_picture_that_no_event_has_is_removed_at_the_next_start(daemon):
    events = insert(daemon, 3)
    assert daemon.stop() == 0
    folder = next(daemon.data_dir.glob("events/[0-9]*"))
    for name in ("never-stored.jpg", "other.jpg"):
        (folder / name).write_bytes(jpeg())
    (folder / "notes.txt").write_text("an owner's own file")
    daemon.start()
    wait_for(lambda: said(daemon, f"removed 2 pictures of {folder.name} that no event has"), "it is told")
    assert {path.name for path in folder.glob("*.jpg")} == {f"{event.event_id}.jpg" for event in events}
    assert (folder / "notes.txt").exists()


def test_an_event_whose_picture_is_gone_says_so_and_the_logs_too(daemon, tmp_path):
    lost, kept = insert(daemon, 2)
    assert daemon.stop() == 0
    (daemon.data_dir / str(daemon.reader().get_event(lost.event_id).thumbnail_path)).unlink()
    daemon.start()
    wait_for(lambda: said(daemon, "1 events of"), "it is told")
    assert daemon.reader().get_event(lost.event_id).thumbnail_path is None
    path = daemon.reader().get_event(kept.event_id).thumbnail_path
    assert (daemon.data_dir / str(path)).read_bytes() == jpeg()
    assert daemon.stop() == 0
    daemon.start()
    wait_for(lambda: len(daylogs.lines(daemon.data_dir)) == 3, "the logs have a new line for it")
    assert daemon.stop() == 0
    daylogs.assert_the_logs_have_everything(daemon.data_dir, tmp_path / "new.db")


def test_a_folder_that_is_away_for_a_while_costs_no_event_its_picture(daemon):
    events = insert(daemon, 2)
    assert daemon.stop() == 0
    folder = next(daemon.data_dir.glob("events/[0-9]*"))
    shutil.move(folder, daemon.home / "away")
    daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("garage"))
    wait_for((daemon.data_dir / "ballast").exists, "it has looked at everything")
    assert daemon.stop() == 0
    shutil.move(daemon.home / "away", folder)
    for event in events:
        assert (daemon.data_dir / str(daemon.reader().get_event(event.event_id).thumbnail_path)).exists()
