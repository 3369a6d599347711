"""Every verb of both commands on damaged files: an explanation, no traceback, and nothing is changed."""

from __future__ import annotations

import random
from pathlib import Path

import daylogs
import pictures
import pytest
import sample
import verbs
from conftest import Daemon, wait_for
from damage import WHOLE, copy, damage
from lab import often

from sightlog import Event, Observation

DAMAGES = often(6, 60)
GROUP = 30
READING = (
    ("sightlog", "events"),
    ("sightlog", "events", "-n", "all", "-o", "json"),
    ("sightlog", "events", "-o", "csv", "-r"),
    ("sightlog", "tail"),
    ("sightlog", "show", "e0"),
    ("sightlog", "show", "o1"),
    ("sightlog", "search", "blue", "shirt"),
    ("sightlog", "similar", "--face", "e0"),
    ("sightlog", "stats"),
    ("sightlog", "stats", "--by", "camera"),
    ("sightlog", "export"),
    ("sightlog", "export", "--observations"),
    ("sightlog", "status"),
    ("sightlog", "status", "-o", "json"),
    ("sightlogd", "verify"),
)
NEEDS_THE_DATABASE = {"events", "tail", "show", "search", "similar", "stats", "export", "verify"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Directories `data` (killed: its WAL has rows), `backup` and `keys`."""
    home = tmp_path_factory.mktemp("sound")
    daemon = Daemon(home)
    try:
        daemon.start(config="[metrics]\nmetrics_interval = 1\n")
        with daemon.publisher() as publisher:
            publisher.insert_events([*sample.EVENTS[:2], sample.EVENTS[3], sample.EVENTS[5]])
            publisher.publish_many(sample.OBSERVATIONS[:1]).wait(20)
            publisher.add_person("Anna", "Anna B.").wait(20)
            publisher.amend("e1", person_name="Ben", metadata={"late": 1}).wait(20)
            publisher.amend("never", alert_sent=True).wait(20)
            publisher.insert_events([Event("door", event_id=f"p{n}", thumbnail=pictures.jpeg(n)) for n in range(3)])
            publisher.telemetry(frames_processed=10, inference_ms={"yolo": 31.5})
            publisher.flush(20)
        metrics = daemon.data_dir / "metrics" / "metrics.json"
        wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 1, "metrics are written")
        wait_for(lambda: len(daylogs.lines(daemon.data_dir)) >= 11, "all is logged")
        with daemon.publisher("other") as publisher:
            publisher.insert_events(Event("gate", llm_description=f"later {n}") for n in range(20))
            publisher.publish(Observation("later", "vlm", "e0")).wait(20)
        config, keys = home / "config.toml", home / "keys"
        config.write_text(f'[remote]\nkeys_dir = "{keys}"\n')
        made = verbs.run(
            [
                ("sightlogd", "backup", "--data-dir", daemon.data_dir, home / "backup"),
                ("sightlogd", "keys", "new", "--config", config, "front", "--output", home / "front.key_secret"),
            ]
        )
        assert [done.code for done in made] == [0, 0], made
        daemon.kill()
        for name in ("events.db-shm", "control.sock", "ballast"):
            (daemon.data_dir / name).unlink()
    finally:
        daemon.end()
    return home


@pytest.mark.timeout(60 + DAMAGES * 3)
def test_verbs_on_damaged_stores_explain_themselves_and_change_nothing(sound, tmp_path, attack):
    attack.on("P6, P8", "every reading verb on stores with damaged files", "runs of a verb")
    choose = attack.random()
    refused = 0
    for group in range(0, DAMAGES, GROUP):
        stores = [Damaged(choose, sound / "data", tmp_path / f"data{n}", n) for n in range(min(GROUP, DAMAGES - group))]
        done = verbs.run([(*verb, "--data-dir", store.path) for store in stores for verb in READING])
        for store in stores:
            assert verbs.tree(store.path) == store.files, f"{store} or a file beside it was changed"
            for one in done[: len(READING)]:
                verbs.assert_explained(one)
                refused += one.code > 1
                if store.has_no_database and one.arguments[1] in NEEDS_THE_DATABASE:
                    assert one.code != 0, f"{store}: {one.arguments} did its work without a database"
            del done[: len(READING)]
            attack.runs += len(READING)
    attack.note = f"{refused:,} could not do their work"
    assert refused > attack.runs // 20


class Damaged:
    """A copy with one damaged file: every third time the database (first an empty one), else any but pictures."""

    def __init__(self, choose: random.Random, source: Path, path: Path, number: int) -> None:
        self.path = copy(source, path)
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".jpg")
        file = path / "events.db" if number % 3 == 0 else choose.choice(files)
        self.what = f"{damage(choose, file, '' if number else 'emptied')}: {file}"
        self.has_no_database = file.name == "events.db" and self.what.partition(":")[0] in WHOLE
        self.files = verbs.tree(path)

    def __str__(self) -> str:
        return self.what


@pytest.mark.timeout(60 + DAMAGES * 3)
def test_backups_keys_and_logs_that_are_damaged_are_told(sound, tmp_path, attack):
    attack.on("P6, P8", "verify, restore, rebuild, backup, keys and purge on damaged files", "runs of a verb")
    choose = attack.random()
    for group in range(0, DAMAGES, GROUP):
        homes = [tmp_path / f"home{n}" for n in range(min(GROUP, DAMAGES - group))]
        how = [damage_parts(choose, copy(sound, home)) for home in homes]
        before = [{place: verbs.tree(home / place) for place in ("backup", "keys")} for home in homes]
        jobs = [job for home in homes for job in jobs_on(home)]
        done = verbs.run(jobs)
        attack.runs += len(done)
        for one in done:
            verbs.assert_explained(one)
        for home, was in zip(homes, before, strict=True):
            assert {place: verbs.tree(home / place) for place in was} == was, f"changed after {how}"
        restored = [
            home / "new" for number, home in enumerate(homes) if done[number * len(jobs) // len(homes) + 1].code == 0
        ]
        for new, again in zip(
            restored, verbs.run([("sightlogd", "verify", "--data-dir", new) for new in restored]), strict=True
        ):
            assert again.code == 0, f"{new}: restored and unsound: {how}\n{again.stdout}{again.stderr}"


def damage_parts(choose: random.Random, home: Path) -> list[str]:
    """One file of each part of `home`, and often the manifest of the backup."""
    (home / "config.toml").write_text(f'[remote]\nkeys_dir = "{home / "keys"}"\n')
    (home / "new").mkdir()
    hit = [
        choose.choice(sorted(p for p in (home / place).rglob("*") if p.is_file()))
        for place in ("data", "backup", "keys")
    ]
    manifest = home / "backup" / "backup.json"
    if choose.random() < 0.3 and manifest not in hit:
        hit[1] = manifest
    return [f"{damage(choose, file)}: {file}" for file in hit]


def jobs_on(home: Path) -> list[tuple[object, ...]]:
    config = home / "config.toml"
    return [
        ("sightlogd", "verify", "--data-dir", home / "backup"),
        ("sightlogd", "restore", "--data-dir", home / "new", home / "backup"),
        ("sightlogd", "rebuild", "--from-logs", "--data-dir", home / "data", "--output", home / "rebuilt.db"),
        ("sightlogd", "purge", "--dry-run", "--data-dir", home / "data"),
        ("sightlogd", "keys", "list", "--config", config),
        ("sightlogd", "check-config", "--config", config),
        ("sightlogd", "backup", "--data-dir", home / "data", home / "second"),
    ]
