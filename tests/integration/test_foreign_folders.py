"""What is not a store, or not for writing, is refused by name and stays as it was: all verbs, all kinds of folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import backups
import folders
import pytest
from conftest import Daemon, wait_for
from folders import DATABASES, LINKS, NAMES, tree
from pictures import jpeg

from sightlog import Event
from sightlogd import __main__ as sightlogd
from sightlogd.cli import upgrade

CONFIG = 78
VERBS = {
    "run": ("run", "--endpoint", "ipc://{home}/s"),
    "purge": ("purge",),
    "purge --before": ("purge", "--before", "2030-01-01", "--force"),
    "purge --dry-run": ("purge", "--dry-run"),
    "rebuild": ("rebuild", "--from-logs"),
    "restore": ("restore", "{backup}"),
    "backup": ("backup", "{home}/dest"),
    "verify": ("verify",),
    "keys new": ("keys", "new", "yard", "--output", "{home}/yard.key_secret"),
    **{f"upgrade {step}": ("upgrade", step) for step in ("check", "keep", "undo", "forget")},
}
READS = ("backup", "verify")
"""May be asked of a backup, and of what is behind links."""


class Done(NamedTuple):
    code: int | None
    """None: it had to be killed."""
    said: str


class Place:
    """A folder, and the verbs told that it is the data directory."""

    def __init__(self, home: Path, originals: tuple[Path, Path]) -> None:
        self.home = home
        self.folder = home / "folder"
        self.store, self.backup = originals

    def run(self, verb: str) -> Done:
        values = {"home": self.home, "folder": self.folder, "store": self.store, "backup": self.backup}
        command, *arguments = (argument.format(**values) for argument in VERBS[verb])
        config = self.home / "config.toml"
        config.write_text(
            f'[store]\ndata_dir = "{self.folder}"\n[remote]\nkeys_dir = "{self.folder}/keys"\n'
            "[storage]\nkeep_free_gb = 0.0\n"
        )
        if command == "upgrade":
            return self._forked(upgrade.main, [*arguments, "--config", str(config)])
        words = [command, *([arguments.pop(0)] if command == "keys" else [])]
        return self._forked(sightlogd.main, [*words, "--config", str(config), *arguments])

    def _forked(self, main: Callable[[list[str]], int], arguments: list[str]) -> Done:
        """A process of its own, and no time spent on starting Python: there are hundreds of these."""
        output = self.home / "output"
        output.write_text("")
        child = os.fork()
        if not child:
            code = 99
            try:
                sys.stdout = sys.stderr = output.open("w", buffering=1)
                os.dup2(sys.stderr.fileno(), 2)
                code = main(arguments)
            finally:
                traceback.print_exc() if code == 99 else None
                sys.stdout.flush()
                os._exit(code)
        codes: list[int] = []

        def is_over() -> bool:
            pid, status = os.waitpid(child, os.WNOHANG)
            codes.extend([os.waitstatus_to_exitcode(status)] if pid else [])
            return bool(codes) or '"ready"' in output.read_text()

        wait_for(is_over, f"{arguments} ends")
        if not codes:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        said = output.read_text()
        assert "Traceback" not in said, said
        return Done(codes[0] if codes else None, said)

    def refuses(self, verb: str, *words: str) -> None:
        before = tree(self.folder)
        done = self.run(verb)
        assert tree(self.folder) == before, verb
        assert done.code == CONFIG, (verb, done)
        assert all(word in done.said for word in (str(self.folder), *words)), (verb, done)
        assert not (self.home / "dest").exists(), verb
        assert not (self.home / "yard.key_secret").exists(), verb


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A store that was stopped, and a backup of it."""
    daemon = Daemon(tmp_path_factory.mktemp("originals"))
    daemon.start()
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door", thumbnail=jpeg(), llm_description="a parcel"))
    assert daemon.stop() == 0
    backup = daemon.home / "backup"
    assert backups.backup(daemon.data_dir, backup).returncode == 0
    yield daemon.data_dir, backup
    daemon.end()


@pytest.fixture
def place(tmp_path: Path, originals: tuple[Path, Path]) -> Iterator[Place]:
    there = Place(tmp_path, originals)
    there.folder.mkdir()
    yield there
    while folders.LISTENING:
        folders.LISTENING.pop().close()


@pytest.fixture
def stopped(place: Place) -> Place:
    """With a store in it."""
    place.folder.rmdir()
    shutil.copytree(place.store, place.folder)
    return place


@pytest.mark.parametrize("kind", DATABASES)
def test_what_is_not_our_database_is_not_touched(place, kind):
    DATABASES[kind](place.folder)
    (place.folder / "notes.txt").write_text("mine")
    for verb in VERBS:
        place.refuses(verb)


@pytest.mark.parametrize("kind", ["rollback", "wal, closed", "wal, killed", "schema_version of our columns"])
def test_another_programs_tables_are_named(place, kind):
    DATABASES[kind](place.folder)
    for verb in VERBS:
        place.refuses(verb, "another program", "recipes")


@pytest.mark.parametrize("kind", NAMES)
def test_things_under_our_names_are_not_touched(place, kind):
    NAMES[kind](place.folder)
    name = kind.partition(":")[0]
    name = f"events/{name}" if name in ("incoming", "trash") else name
    before = tree(place.folder)
    place.refuses("run", str(place.folder / name))
    for verb in VERBS:
        done = place.run(verb)
        after = tree(place.folder)
        # Some go on where it is in nobody's way.
        assert {path: after.get(path) for path in before if path.startswith(name)} == {
            path: was for path, was in before.items() if path.startswith(name)
        }, (verb, done)
        if done.code == CONFIG:
            assert after == before, (verb, done)
        shutil.rmtree(place.folder / "keys", ignore_errors=True)
        (place.home / "yard.key_secret").unlink(missing_ok=True)
        os.utime(place.folder, ns=(0, before["."][1]))
        if name != "lock":
            (place.folder / "lock").unlink(missing_ok=True)
            os.utime(place.folder, ns=(0, before["."][1]))


def test_things_of_other_names_stay_beside_a_store(place):
    (place.folder / "notes.txt").write_text("mine")
    (place.folder / "lost+found").mkdir()
    (place.folder / "photos").mkdir()
    (place.folder / "photos" / "a.jpg").write_bytes(jpeg())
    before = {name: was for name, was in tree(place.folder).items() if name != "."}
    for verb in ("restore", "verify", "purge --dry-run", "purge", "upgrade check", "backup"):
        assert place.run(verb).code == 0, verb
    assert place.run("run").code is None
    after = tree(place.folder)
    assert {name: after[name] for name in before} == before


def test_a_store_begins_where_our_own_leftovers_are(daemon):
    wait_for(lambda: (daemon.data_dir / "metrics/metrics.json").exists(), "there are metrics")
    daemon.kill()
    for path in daemon.data_dir.glob("events*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    for name in ("events", "events/incoming", "events/trash"):
        (daemon.data_dir / name).mkdir(exist_ok=True)
    (daemon.data_dir / "events.new").touch()
    (daemon.data_dir / "notes.txt").write_text("mine")
    assert {path.name for path in daemon.data_dir.iterdir()} >= {"lock", "ballast", "metrics", "control.sock"}
    daemon.start()
    assert (daemon.data_dir / "notes.txt").read_text() == "mine"


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What links lead to."""
    path = tmp_path / "outside"
    (path / "2026-03-01.5").mkdir(parents=True)
    (path / "2026-03-01.5" / "thesis.txt").write_text("mine")
    (path / "metrics.json").write_text("mine")
    return path


def no_verb_follows(place: Place, link: Path, outside: Path) -> None:
    before = tree(outside)
    for verb in VERBS:
        is_told = link.relative_to(place.folder).parts[0] in ("ballast", "events", "metrics")
        if (is_told and (place.folder / "events.db").exists()) or (verb in READS and link.name != "events.db"):
            place.run(verb)
            shutil.rmtree(place.home / "dest", ignore_errors=True)
        else:
            place.refuses(verb, f"{link} is a link to")
        assert tree(outside) == before, verb


@pytest.mark.parametrize("name", LINKS)
def test_no_link_is_written_through_from_a_store(stopped, outside, name):
    link = stopped.folder / name
    target = outside / Path(name).name
    if link.exists():
        link.rename(target)
    else:
        target.write_text("mine")
    link.symlink_to(target)
    no_verb_follows(stopped, link, outside)


@pytest.mark.parametrize("name", LINKS)
def test_no_link_is_written_through_from_an_empty_folder(place, outside, name):
    link = place.folder / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside / ("gone" if name == "events.db-shm" else ""))
    no_verb_follows(place, link, outside)


@pytest.mark.parametrize(
    "name",
    [
        "events/2030-01-01",
        "events/trash/2026-03-01.5",
        "events/incoming/e01",
        "metrics/metrics.json",
        "metrics/latest.json",
        "metrics/sightlog.prom.tmp",
    ],
)
def test_no_link_in_our_folders_is_written_through(stopped, outside, name):
    link = stopped.folder / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside / ("metrics.json" if name[0] == "m" or "incoming" in name else "2026-03-01.5"))
    no_verb_follows(stopped, link, outside)


def test_no_log_that_is_a_link_is_written_through(stopped, outside):
    (log,) = stopped.folder.glob("events/*/events.json")
    log.rename(outside / "log")
    log.symlink_to(outside / "log")
    no_verb_follows(stopped, log, outside)


def test_the_data_directory_itself_may_be_a_link(place, tmp_path):
    (tmp_path / "disk").mkdir()
    place.folder.rmdir()
    place.folder.symlink_to(tmp_path / "disk")
    for verb in ("restore", "verify", "purge --dry-run", "purge"):
        assert place.run(verb).code == 0, verb
    assert place.run("run").code is None
    place.folder.unlink()
    place.folder.symlink_to(tmp_path / "unplugged")
    for verb in VERBS:
        done = place.run(verb)
        assert done.code == CONFIG
        assert "Is the disk mounted?" in done.said
        assert not (tmp_path / "unplugged").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_the_day_folders_may_be_on_another_disk(idle_daemon, tmp_path):
    data_dir = idle_daemon.data_dir
    (data_dir / "events").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "disk", data_dir / "events"], check=True)
    try:
        idle_daemon.start()
        with idle_daemon.publisher() as publisher:
            publisher.insert_event(Event("door"))
        assert idle_daemon.stop() == 0
        assert list((tmp_path / "disk").glob("*/events.json"))
        assert backups.verify(data_dir).returncode == 0
    finally:
        idle_daemon.end()
        subprocess.run(["umount", data_dir / "events"], check=True)


# -- backups ----------------------------------------------------------------------------------------------------------


def complete(place: Place) -> None:
    shutil.copytree(place.backup, place.folder, dirs_exist_ok=True)


def interrupted(place: Place) -> None:
    header, *_ = (place.backup / "backup.json").read_text().splitlines(keepends=True)
    (place.folder / "backup.json").write_text(header)
    shutil.copytree(place.backup / "events", place.folder / "events")


def hardly_begun(place: Place) -> None:
    (place.folder / "backup.json.new").write_text("")


def damaged(place: Place) -> None:
    complete(place)
    (place.folder / "backup.json").write_bytes(b"\0" * 100)


def lost(place: Place) -> None:
    """What leads to it is gone."""
    complete(place)
    (place.folder / "backup.json").unlink()
    (place.folder / "backup.json").symlink_to("/nowhere")


@pytest.mark.parametrize("made", [complete, interrupted, hardly_begun, damaged, lost], ids=lambda made: made.__name__)
def test_a_backup_is_never_written_to(place, made):
    made(place)
    before = tree(place.folder)
    for verb in VERBS:
        if verb in READS:
            place.run(verb)
            assert tree(place.folder) == before, verb
            shutil.rmtree(place.home / "dest", ignore_errors=True)
        else:
            place.refuses(verb, "is a backup", "sightlogd restore")
    into_it = "rebuild", "--from-logs", "--data-dir", place.store, "--output", place.folder / "new.db"
    assert backups.run(*into_it).returncode == CONFIG
    assert tree(place.folder) == before
    if made is complete:
        (elsewhere := place.home / "elsewhere").mkdir()
        assert backups.restore(place.folder, elsewhere).returncode == 0


def test_a_database_can_be_rebuilt_of_a_backups_day_folders(place):
    complete(place)
    before = tree(place.folder)
    output = place.home / "new.db"
    done = backups.run("rebuild", "--from-logs", "--data-dir", place.folder, "--output", output)
    assert done.returncode == 0, done.stderr
    assert output.is_file()
    assert tree(place.folder) == before


def test_a_rebuild_clears_away_nothing_that_is_not_its_own(place, originals):
    (place.home / "new.new").write_text("mine")
    done = backups.run("rebuild", "--from-logs", "--data-dir", originals[0], "--output", place.home / "new.db")
    assert done.returncode == CONFIG
    assert (place.home / "new.new").read_text() == "mine"
    assert not (place.home / "new.db").exists()


def test_a_rebuild_makes_no_database_beside_the_wal_of_another(daemon):
    with daemon.publisher() as publisher:
        publisher.insert_event(Event("door"))
    wait_for(lambda: list(daemon.data_dir.glob("events/*/events.json")), "it is logged")
    daemon.kill()
    daemon.database.unlink()
    before = tree(daemon.data_dir)
    done = backups.run("rebuild", "--from-logs", "--data-dir", daemon.data_dir)
    assert done.returncode == CONFIG
    assert "events.db-wal is there" in done.stderr
    assert tree(daemon.data_dir) == before


# -- nothing there ----------------------------------------------------------------------------------------------------


def test_no_verb_makes_more_than_the_last_folder(place):
    place.folder.rmdir()
    place.folder = place.home / "not" / "mounted"
    for verb in VERBS:
        done = place.run(verb)
        assert done.code == CONFIG, verb
        assert str(place.home / "not") in done.said
        assert "Is the disk mounted?" in done.said
        assert not (place.home / "not").exists(), verb


def test_only_a_start_makes_the_data_directory(place):
    place.folder.rmdir()
    for verb in VERBS:
        if verb == "run":
            continue
        done = place.run(verb)
        assert not place.folder.exists(), verb
        if not verb.startswith("upgrade"):  # before the first start
            assert done.code == CONFIG, verb
            assert str(place.folder) in done.said


def test_a_file_is_no_data_directory(place):
    place.folder.rmdir()
    place.folder.write_text("mine")
    for verb in VERBS:
        done = place.run(verb)
        assert done.code == CONFIG
        assert "is not a directory" in done.said
        assert place.folder.read_text() == "mine"


def test_a_new_store_is_a_warning(idle_daemon):
    idle_daemon.start()
    (said,) = [line for line in idle_daemon.logged() if line["event"].startswith("made a new store")]
    assert said["level"] == "warning"
    assert said["path"] == str(idle_daemon.database)
    assert "mounted" in said["event"]
    assert idle_daemon.stop() == 0
    idle_daemon.start()
    assert len([line for line in idle_daemon.logged() if line["event"].startswith("made a new store")]) == 1
