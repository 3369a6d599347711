"""Spools and day logs with flipped bits, torn tails and zeros: what is readable is kept, what is lost counted."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from pathlib import Path

import daylogs
import pictures
import pytest
import sample
from conftest import Daemon, wait_for
from damage import copy, damage
from lab import often

from sightlog import Event, Observation, SpoolFormatUnknown
from sightlog.protocol.messages import START, Position
from sightlog.spool.segment import HEAD_BYTES
from sightlog.spool.spool import Spool

SPOOLS = often(40, 3_000)
STORES = often(1, 10)


class Written:
    """A spool of some lives, and where each record's entry is."""

    def __init__(self, choose: random.Random, directory: Path) -> None:
        self.records: dict[Position, tuple[bytes, bytes]] = {}
        self.entries: dict[str, list[tuple[Position, int, int]]] = {}
        for _ in range(choose.choice([1, 2, 3])):
            spool = Spool(directory, "s", 1 << 20)
            for _ in range(choose.choice([1, 5, 12])):
                batch = [
                    (choose.randbytes(choose.choice([1, 90, 900])), choose.randbytes(choose.choice([0, 0, 3_000])))
                ]
                batch *= choose.choice([1, 1, 4])
                first = spool.next_position
                spool.append(batch)
                for index, (record, image) in enumerate(batch):
                    position = Position(first.epoch, first.seq + index)
                    self.records[position] = record, image
                    segment = spool._segments[-1]
                    places = self.entries.setdefault(segment.path.name, [])
                    start = places[-1][2] if places else 0
                    places.append((position, start, start + HEAD_BYTES + len(record) + len(image)))
            spool.close()


def hit(choose: random.Random, path: Path) -> list[tuple[int, int]]:
    """Damage that moves nothing; returns the ranges of bytes that are not what they were."""
    data = bytearray(path.read_bytes())
    before = bytes(data)
    for _ in range(choose.choice([1, 1, 2, 5])):
        at = choose.randrange(len(data))
        what = choose.randrange(5)
        if what <= 1:
            data[at] ^= 1 << choose.randrange(8)
        elif what == 2:
            start = at - at % 512
            data[start : start + 512] = bytes(len(data[start : start + 512]))
        elif what == 3:
            length = len(data[at : at + choose.choice([1, 64, 600])])
            data[at : at + length] = choose.randbytes(length)
        else:  # a block of elsewhere in the file
            other = choose.randrange(len(data))
            length = min(512, len(data) - max(at, other))
            data[at : at + length] = data[other : other + length]
    if choose.random() < 0.3:  # a torn tail
        del data[choose.randrange(len(data)) :]
    path.write_bytes(data)
    changed = [n for n in range(len(before)) if n >= len(data) or data[n] != before[n]]
    return [(n, n + 1) for n in changed]


@pytest.mark.timeout(120 + SPOOLS // 20)
def test_a_damaged_spool_gives_every_readable_record_as_it_was_and_counts_the_others(tmp_path, attack):
    attack.on("P2, P8", "spools with flipped bits, overwritten blocks and torn tails", "spools")
    choose = attack.random()
    readable = missing = refused = 0
    for _ in range(SPOOLS):
        directory = tmp_path / "spool"
        shutil.rmtree(directory, ignore_errors=True)
        written = Written(choose, directory)
        whole: set[Position] = set(written.records)
        uncountable = 0
        for name, places in written.entries.items():
            if choose.random() < 0.8:
                changed = {start for start, _ in hit(choose, directory / name)}
                broken = {position for position, start, end in places if any(n in changed for n in range(start, end))}
                whole -= broken
                # What is lost at the end of a file is at least one record, or a write that was never finished.
                for position, _, _ in reversed(places):
                    if position not in broken:
                        break
                    uncountable += 1
        attack.runs += 1
        try:
            spool = Spool(directory, "s", 1 << 20)
        except SpoolFormatUnknown:
            # What damage to one byte looks like, where it leaves a segment no entry: nothing is touched, nothing lost.
            assert any(whole.isdisjoint(position for position, _, _ in places) for places in written.entries.values())
            refused += 1
            continue
        found: dict[Position, tuple[bytes, bytes]] = {}
        after = START
        while chunk := spool.read_after(after, choose.choice([1, 7, 1_000]), 1 << 20):
            assert chunk.first > after
            for index, pair in enumerate(zip(chunk.records, chunk.images, strict=True)):
                found[Position(chunk.first.epoch, chunk.first.seq + index)] = pair
            after = Position(chunk.first.epoch, chunk.first.seq + len(chunk.records) - 1)
        assert all(written.records[position] == pair for position, pair in found.items()), "a wrong record"
        assert whole <= found.keys(), "a record that is whole on the disk was not given back"
        lost = len(written.records) - len(found)
        # A copy of the last record, written over the one before, is taken for it: what it was is counted then.
        counted = spool.lost
        assert lost - uncountable <= counted <= lost + len(written.entries), f"{lost} lost, {counted} counted"
        spool.drop_through(Position(spool.epoch, 0))
        assert spool.append([(b"goes on", b"")]) == (spool.epoch, 1)
        spool.close()
        readable, missing = readable + len(found), missing + lost
    attack.note = f"{readable:,} records read, {missing:,} lost, {refused} refused"
    assert refused <= 2 + SPOOLS // 50
    assert missing > SPOOLS
    assert readable > SPOOLS


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Daemon:
    """A daemon's store, killed before its logs were marked to be durable, and stopped in a copy."""
    daemon = Daemon(tmp_path_factory.mktemp("killed"))
    daemon.settings = "[storage]\nkeep_free_gb = 0.0\n"
    daemon.start()
    try:
        with daemon.publisher() as publisher:
            publisher.insert_events([*sample.EVENTS[:2], sample.EVENTS[3], sample.EVENTS[5]])
            publisher.insert_events(Event("yard", event_id=f"n{n}", llm_description=f"blue {n}") for n in range(40))
            publisher.insert_events([Event("yard", event_id="p", thumbnail=pictures.jpeg(1))])
            publisher.amend("e1", person_name="Ben").wait(20)
            publisher.publish_many([*sample.OBSERVATIONS[:1], Observation("later", "vlm", "e0")]).wait(20)
            publisher.add_person("Anna", "Anna B.").wait(20)
        daemon.kill()
        (daemon.data_dir / "control.sock").unlink()
        (daemon.data_dir / "ballast").unlink(missing_ok=True)
        yield daemon
    finally:
        daemon.end()


@pytest.mark.timeout(120 + STORES * 20)
@pytest.mark.parametrize("is_marked", [False, True], ids=["killed", "stopped"])
def test_a_daemon_starts_on_damaged_day_logs_and_completes_them(killed, tmp_path, attack, is_marked):
    marked = "marked to be durable" if is_marked else "of a killed daemon"
    attack.on("P8", f"damaged events.json and events.log, {marked}", "stores")
    choose = attack.random()
    daemon = Daemon(tmp_path)
    daemon.settings = killed.settings
    try:
        for _ in range(STORES):
            copy(killed.data_dir, daemon.data_dir)
            if is_marked:
                daemon.start()
                wait_for(lambda: daylogs.are_marked(daemon.database), "the logs are marked")
                assert daemon.stop() == 0
            logs = sorted(daemon.data_dir.glob("events/*/events.json" if is_marked else "events/*/events.*"))
            hit = choose.sample(logs, choose.choice([1, 2, len(logs)]))
            if is_marked:
                hit = [max(logs, key=lambda file: file.read_bytes().count(b"\n")), *hit]
            how = [f"{spoil(choose, file, is_marked)}: {file}" for file in dict.fromkeys(hit)]
            unreadable = bad_lines(daemon.data_dir)
            daemon.start()
            wait_for(lambda: daylogs.are_marked(daemon.database), f"the logs have caught up after {how}")
            assert daemon.stop() == 0
            assert "Traceback" not in daemon.log.read_text(), how
            made, said = rebuilt(daemon, tmp_path / "new.db")
            if unreadable and not is_marked:
                assert re.search(r"events\.json:\d+: |could not be read|cut off", said + daemon.log.read_text()), how
            stored = daylogs.rows(daemon.database)
            moved = {row[0] for row in stored["events"] if row not in made["events"]}
            for table, rows in stored.items():
                # A flipped bit makes another event of a line, which has the id of the first: that one gets a new id.
                there = {row[1:] for row in made[table]} if table in ("events", "observations") else made[table]
                missing = [row for row in rows if row not in there and row[1:] not in there]
                if table in ("detections", "face_embeddings"):
                    missing = [row for row in missing if row[0] not in moved]
                assert is_marked or table in ("cameras", "clock_days") or not missing, (
                    f"{table}: {missing!s:.300} after {how}"
                )
                if is_marked and table == "events":
                    assert len(missing) <= len(how), f"{missing!s:.300} after {how}"
            attack.runs += 1
    finally:
        daemon.end()


def spoil(choose: random.Random, file: Path, is_marked: bool) -> str:
    """A zero in the middle, which is what a flipped bit makes of a blank, or any damage where all is compared again."""
    if is_marked:
        data = bytearray(file.read_bytes())
        blanks = [n for n, byte in enumerate(data) if byte == 0x20] or [0]
        data[choose.choice(blanks[: len(blanks) // 2 + 1])] = 0
        file.write_bytes(data)
        return "a zero"
    kind = damage(choose, file)
    if kind == "a folder":  # no file can take its place; it is told and tried again
        file.rmdir()
    return kind


def bad_lines(data_dir: Path) -> int:
    count = 0
    for file in data_dir.glob("events/*/events.json"):
        for line in file.read_bytes().split(b"\n")[:-1] if file.is_file() else []:
            try:
                daylogs.json.loads(line)
            except ValueError:
                count += 1
    return count


def rebuilt(daemon: Daemon, new: Path) -> tuple[dict, str]:
    new.unlink(missing_ok=True)
    done = daylogs.rebuild(daemon.data_dir, new)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 74), done.stderr
    assert sqlite3.sqlite_version
    return daylogs.rows(new), done.stdout
