"""`sightlog export`."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import stored
from commands import SIGHTLOG, environment, on_a_terminal, run
from conftest import wait_for
from sample import EVENTS, event

from sightlog import Reader
from sightlog.cli import main
from sightlog.cli.render.terminal import cells


def test_an_export_is_complete_or_not_there(home, tmp_path):
    target = tmp_path / "out.json"
    assert run(home, "export", "--person", "nobody", "--to", target).returncode == 1
    assert list(tmp_path.iterdir()) == []
    done = run(home, "export", "--to", target, "--person", "Anna")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [json.loads(line)["event_id"] for line in target.read_text().splitlines()] == ["e0", "e2"]

    again = run(home, "export", "--to", target)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert len(target.read_text().splitlines()) == 2
    assert run(home, "export", "--to", target, "--force", "--person", "nobody").returncode == 1
    assert len(target.read_text().splitlines()) == 2, "nothing replaces nothing"
    assert run(home, "export", "--to", target, "--force").returncode == 0
    assert len(target.read_text().splitlines()) == len(EVENTS)
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture(params=["hard links", "no hard links"])
def file_system(request, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # what FAT says

    if request.param == "no hard links":
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_somebody_makes_meanwhile_is_theirs(home, tmp_path, monkeypatch, capsys, force):
    target = tmp_path / "out.json"
    find_events = Reader.find_events

    def then_somebody_else_is_there(reader, **filters):
        yield from find_events(reader, **filters)
        target.write_text("theirs")

    monkeypatch.setattr(Reader, "find_events", then_somebody_else_is_there)
    code = main(["export", "--to", str(target), "--data-dir", str(home), *["--force"][: int(force)]])
    if force:
        assert (code, target.read_text().count("\n")) == (0, len(EVENTS))
    else:
        assert (code, target.read_text()) == (2, "theirs")
        assert "was made by somebody else meanwhile" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.usefixtures("file_system")
def test_an_export_has_one_name_on_every_file_system(home, tmp_path):
    target = tmp_path / "out.json"
    assert main(["export", "--to", str(target), "--data-dir", str(home)]) == 0
    assert target.read_text().count("\n") == len(EVENTS)
    assert target.stat().st_nlink == 1
    assert list(tmp_path.iterdir()) == [target]


def test_an_export_that_is_there_survives_a_power_cut(home, tmp_path, monkeypatch):
    """The file before it gets its name, the directory after."""
    target, synced, fsync = tmp_path / "out.json", [], os.fsync

    def watched(descriptor):
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().suffix, target.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    assert main(["export", "--to", str(target), "--data-dir", str(home)]) == 0
    assert synced == [(".part", False), ("", True)]


def test_an_export_goes_nowhere_by_mistake(home, tmp_path):
    before = (home / "events.db").read_bytes()
    done = run(home, "export", "--to", home / "events.db", "--force")
    assert done.returncode == 2
    assert "the database itself" in done.stderr
    assert (home / "events.db").read_bytes() == before
    assert run(home, "export", "--to", tmp_path).returncode == 2
    absent = run(home, "export", "--to", tmp_path / "no" / "out.json")
    assert absent.returncode == 2
    assert "cannot make" in absent.stderr


def test_a_link_is_followed(home, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "out.json")
    assert run(home, "export", "--to", tmp_path / "link.json").returncode == 0
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "there" / "out.json").read_text().count("\n") == len(EVENTS)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More than an export writes in a moment."""
    data_dir = tmp_path_factory.mktemp("large")
    stored.write(data_dir / "events.db", [event(number, llm_description="x" * 200) for number in range(20_000)])
    return data_dir


def test_ctrl_c_leaves_no_half_of_an_export(large, tmp_path):
    process = subprocess.Popen([SIGHTLOG, "export", "--to", tmp_path / "out.json"], env=environment(large))
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.iterdir()), "it writes")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_meets_damage_is_not_there(large, tmp_path):
    whole = (large / "events.db").read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    damaged = whole[:middle] + b"\xa5" * 4096 * 64 + whole[middle + 4096 * 64 :]
    (tmp_path / "events.db").write_bytes(damaged)
    (tmp_path / "out").mkdir()
    done = run(tmp_path, "export", "--to", tmp_path / "out" / "out.json")
    assert done.returncode == 74
    assert "malformed" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("columns", [0, 20, 80])
def test_progress_is_told_on_a_terminal_and_only_there(large, tmp_path, columns):
    code, text = on_a_terminal(large, columns, "export", "--to", tmp_path / "out.json", errors_too=True)
    assert code == 0
    *_, last = text.removesuffix("\r\n").split("\r")
    assert last.startswith("20,000 of 20,000 (…" if columns == 20 else "20,000 of 20,000")
    assert all(cells(line) < (columns or 80) for line in text.removesuffix("\r\n").split("\r"))
    code, text = on_a_terminal(large, 80, "export", "--person", "nobody", "--to", tmp_path / "n.json", errors_too=True)
    assert code == 1
    assert "%" not in text, "of how many is not known"
    assert run(large, "export", "--until", "2026-03-01 12:00").stderr == ""
