"""A data directory, or a spool, that is gone with the power: said, and never refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from commands import run
from conftest import Daemon, wait_for

from sightlog import Event, volatile

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
GONE = "gone when the power is"


@contextmanager
def mounted(place: Path, kind: str, *options: str) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, *options, kind, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def overlaid(place: Path, layers: Path) -> Iterator[None]:
    for name in ("lower", "upper", "work"):
        (layers / name).mkdir()
    options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
    with mounted(place, "overlay", "-o", options):
        yield


@pytest.fixture(params=["tmpfs", "ramfs", "overlay", "overlay on a comma, and a space"])
def in_memory(request, tmp_path) -> Iterator[tuple[Path, str]]:
    place, kind = tmp_path / "place", request.param
    with ExitStack() as held:
        if kind in ("tmpfs", "ramfs"):
            held.enter_context(mounted(place, kind))
            yield place, f"on {kind}"
            return
        layers = tmp_path / ("a, b" if "comma" in kind else "layers")
        held.enter_context(mounted(layers, "tmpfs"))
        if "," in str(layers):  # mount(8) takes commas for its own
            layers = layers / "within"
            layers.mkdir()
            (tmp_path / "link").symlink_to(layers)
            held.enter_context(overlaid(place, tmp_path / "link"))
        else:
            held.enter_context(overlaid(place, layers))
        yield place, "on an overlay whose upper layer is on tmpfs"


@needs_root
def test_a_store_in_memory_is_told_in_log_status_and_metrics(idle_daemon: Daemon, in_memory):
    place, on = in_memory
    idle_daemon.data_dir = place / "data"
    daemon = idle_daemon.start(config="[storage]\nkeep_free_gb = 0.0\n")
    try:
        (warning,) = [entry for entry in daemon.logged() if GONE in entry["event"]]
        assert warning["level"] == "warning"
        assert f"{daemon.data_dir} is {on}: " in warning["event"]
        metrics = daemon.data_dir / "metrics"
        wait_for((metrics / "sightlog.prom").exists, "metrics")
        assert "\nsightlog_storage_volatile 1\n" in (metrics / "sightlog.prom").read_text()
        assert json.loads((metrics / "metrics.json").read_text().splitlines()[0])["volatile"] == on.removeprefix("on ")
        said = run(daemon, "status").stdout
        assert f"not durable   what is stored is gone when the power is: it is {on}\n" in said
        with daemon.publisher() as publisher:  # and nothing is refused
            assert publisher.insert_event(Event("door"))
        assert daemon.stop() == 0
    finally:
        daemon.end()


@needs_root
def test_a_spool_in_memory_is_told_once_by_the_publisher(idle_daemon: Daemon, in_memory, caplog):
    place, on = in_memory
    idle_daemon.home = place
    with caplog.at_level(logging.WARNING, "sightlog.spool"), idle_daemon.publisher() as publisher:
        publisher.publish(Event("door"))
        publisher.publish(Event("door"))
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"is {on}: " in told
    assert GONE in told


@needs_root
def test_a_store_on_a_disk_is_not_warned_of_nor_one_on_an_overlay_that_is(idle_daemon: Daemon, tmp_path, caplog):
    if volatile.why(tmp_path):
        pytest.skip("temporary files are in memory here")
    place, layers = tmp_path / "place", tmp_path / "layers"
    layers.mkdir()
    with overlaid(place, layers):
        for data_dir in (place / "data", tmp_path / "data"):
            idle_daemon.data_dir = data_dir
            daemon = idle_daemon.start()
            wait_for((data_dir / "metrics" / "sightlog.prom").exists, "metrics")
            assert "\nsightlog_storage_volatile 0\n" in (data_dir / "metrics" / "sightlog.prom").read_text()
            assert "not durable" not in run(daemon, "status").stdout
            with daemon.publisher() as publisher:
                publisher.insert_event(Event("door"))
            assert daemon.stop() == 0
    assert not [entry for entry in daemon.logged() if GONE in entry["event"]]
    assert not caplog.records


# -- what other machines' mounts look like ---------------------------------------------------------------------------

DISK = "30 1 {at} / / rw - ext4 /dev/mmcblk0p2 rw\n"
ROOT = "30 1 {at} / / rw - overlay overlay rw,lowerdir=/lower,upperdir={upper},workdir=/w\n"
RASPI_CONFIG = "31 30 0:25 / /media/root-rw rw - tmpfs tmpfs-root rw\n" + ROOT
MEMORY = "an overlay whose upper layer is on tmpfs"


@pytest.mark.parametrize(
    ("mounts", "upper", "command_line", "found"),
    [
        (DISK, "", "", None),
        (DISK, "", "boot=overlay", None),
        (RASPI_CONFIG, "/media/root-rw/overlay", "", MEMORY),
        (RASPI_CONFIG, "/media/root-rw-disk/overlay", "", None),
        (ROOT, "/upper/data", "console=tty1 boot=overlay", "an overlay whose upper layer is in memory"),
        (ROOT, "/upper/data", "overlayroot=tmpfs:recurse=0", "an overlay whose upper layer is in memory"),
        (ROOT, "/upper/data", "overlayroot=/dev/sda1", None),
        (ROOT, "/var/lib/docker/overlay2/1/diff", "console=tty1", None),
        ("30 1 {at} / / rw shared:1 master:2 - ext4 /dev/zram0 rw\n", "", "", "/dev/zram0"),
        ("30 1 {at} / / rw - ext4 /dev/ram1 rw\n", "", "", "/dev/ram1"),
        ("31 30 0:25 / /a\\040b rw - tmpfs x rw\n" + ROOT, "/a\\040b/upper", "", MEMORY),
        # What was mounted later in the same place hides what was there.
        ("31 30 0:25 / /up rw - tmpfs x rw\n32 30 8:1 / /up rw - ext4 /dev/sda1 rw\n" + ROOT, "/up/u", "", None),
        ("what is this", "", "", None),
    ],
)  # fmt: skip
def test_mounts_of_other_machines(tmp_path, monkeypatch, mounts, upper, command_line, found):
    device = tmp_path.stat().st_dev
    at = f"{os.major(device)}:{os.minor(device)}"
    monkeypatch.setattr(volatile, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(volatile, "COMMAND_LINE", tmp_path / "cmdline")
    volatile.MOUNTS.write_text(mounts.format(at=at, upper=upper))
    volatile.COMMAND_LINE.write_text(command_line)
    assert volatile.why(tmp_path / "not" / "yet") == found
    monkeypatch.setattr(volatile, "MOUNTS", tmp_path / "none")
    assert volatile.why(tmp_path) is None
