"""What the daemon tells a service manager, the socket it is handed, and taking over a changed configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SMALL_DISK, wait_for
from managed_daemon import Manager, handing_over, listener

from sightlog import Event, Publisher

STUCK = str(Path(__file__).parents[1] / "stuck_daemon.py")
WATCHDOG_SECONDS = 0.4


@pytest.fixture
def manager(tmp_path):
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def status(manager: Manager) -> str:
    return next(line for line in reversed(manager.heard) if line.startswith("STATUS=")).removeprefix("STATUS=")


def test_it_says_when_it_is_ready_how_it_is_and_when_it_stops(idle_daemon, manager):
    daemon = idle_daemon.start(env=manager.environment())
    wait_for(lambda: "READY=1" in manager.heard, "READY=1")
    assert manager.heard[0] == "STATUS=opening the database"
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
    wait_for(lambda: "1 events" in status(manager) or "Storage" in status(manager), "the figures")
    assert daemon.stop() == 0
    wait_for(lambda: status(manager) == "stopped", "the last words")
    assert manager.heard.index("STOPPING=1") > manager.heard.index("READY=1")
    assert "WATCHDOG=1" not in manager.heard, "nobody asked for it"


def test_a_start_that_fails_says_why_and_is_never_ready(idle_daemon, manager):
    idle_daemon.data_dir.mkdir()
    idle_daemon.database.write_bytes(b"not a database" * 100)
    idle_daemon.start(env=manager.environment(), wait=False)
    assert idle_daemon.process.wait(20) == 78
    wait_for(lambda: "is damaged" in status(manager), "why")
    assert "READY=1" not in manager.heard


def test_an_abstract_address_and_one_where_nobody_listens(idle_daemon, tmp_path):
    """The manager may be restarting."""
    for address in (f"@sightlog-{tmp_path.name}", str(tmp_path / "nobody")):
        idle_daemon.start(env={"NOTIFY_SOCKET": address})
        assert idle_daemon.stop() == 0


def test_the_watchdog_hears_of_an_idle_daemon(idle_daemon, manager):
    idle_daemon.start(env=manager.environment(WATCHDOG_SECONDS))
    wait_for(lambda: manager.heard.count("WATCHDOG=1") >= 8, "signs of life")


def test_the_watchdog_hears_nothing_of_a_writer_that_waits_for_a_lock(idle_daemon, manager):
    daemon = idle_daemon.start(env=manager.environment(WATCHDOG_SECONDS), program=[STUCK])
    wait_for(lambda: "WATCHDOG=1" in manager.heard, "a sign of life")
    with daemon.publisher() as publisher:
        publisher.publish(Event("door"), urgent=True)
        silent_since = quiet_for(manager, 4 * WATCHDOG_SECONDS)
        assert daemon.process.poll() is None
        assert "WATCHDOG=1" not in manager.heard[silent_since:]
        daemon.kill()
        daemon.start()  # as systemd would
        assert publisher.flush(20), "what it was given is not lost"


def quiet_for(manager: Manager, seconds: float) -> int:
    """Waits until nothing was heard for so long; returns how much was heard before."""
    heard, since = len(manager.heard), time.monotonic()

    def quiet() -> bool:
        nonlocal heard, since
        if len(manager.heard) != heard:
            heard, since = len(manager.heard), time.monotonic()
        return time.monotonic() - since >= seconds

    wait_for(quiet, "silence")
    return heard


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting and freezing a file system needs root")
@pytest.mark.parametrize("stop", [False, True])
def test_a_card_that_takes_its_time_is_waited_for(idle_daemon, manager, tmp_path, stop):
    """A real file system that answers nothing for many times as long as the watchdog waits, serving or stopping."""
    image = tmp_path / "card"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    idle_daemon.data_dir.mkdir()
    subprocess.run(["mount", "-o", "loop", image, idle_daemon.data_dir], check=True)
    frozen = False
    try:
        idle_daemon.settings = SMALL_DISK
        daemon = idle_daemon.start(env=manager.environment(WATCHDOG_SECONDS))
        with daemon.publisher() as publisher:
            publisher.insert_event(Event("door"))
            subprocess.run(["fsfreeze", "--freeze", daemon.data_dir], check=True)
            frozen = True
            receipt = publisher.publish(Event("door"), urgent=True)
            stat = Path(f"/proc/{daemon.process.pid}/stat")
            wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "D", "it waits for the card")
            if stop:
                daemon.process.send_signal(signal.SIGTERM)
            sign = "EXTEND_TIMEOUT_USEC=30000000" if stop else "WATCHDOG=1"
            heard = manager.heard.count(sign)
            wait_for(lambda: manager.heard.count(sign) >= heard + 12, "signs of life")
            assert receipt.status is None
            subprocess.run(["fsfreeze", "--unfreeze", daemon.data_dir], check=True)
            frozen = False
            if stop:
                assert daemon.process.wait(20) == 0
                daemon.start()
            assert receipt.wait(20) == "stored"
        assert daemon.stop() == 0
    finally:
        if frozen:
            subprocess.run(["fsfreeze", "--unfreeze", idle_daemon.data_dir], check=True)
        idle_daemon.end()
        subprocess.run(["umount", idle_daemon.data_dir], check=True)


def test_a_long_migration_asks_for_time(idle_daemon, manager):
    """The program burns processor time in the start, as a migration of a large database does."""
    program = [str(Path(__file__).parents[1] / "slow_start.py"), "2"]
    idle_daemon.start(env=manager.environment(), program=program)
    wait_for(lambda: "READY=1" in manager.heard, "READY=1")
    assert "EXTEND_TIMEOUT_USEC=30000000" in manager.heard[: manager.heard.index("READY=1")]


# -- the socket -----------------------------------------------------------------------------------------------------


@pytest.fixture
def handed(idle_daemon):
    """A listening socket that outlives the daemons."""
    made = listener(Path(idle_daemon.endpoint.removeprefix("ipc://")))
    yield made
    made.close()


def start_with(idle_daemon, handed, **options):
    # Popen closes other descriptors; the program moves this one to where systemd has it.
    return idle_daemon.start(program=handing_over(handed), pass_fds=(handed.fileno(),), **options)


def test_what_is_sent_before_the_daemon_exists_and_while_it_is_away_arrives(idle_daemon, handed):
    with idle_daemon.publisher() as publisher:
        early = publisher.publish(Event("door", event_id="early"), urgent=True)
        start_with(idle_daemon, handed)
        assert early.wait(20) == "stored"
        assert idle_daemon.stop() == 0
        path = Path(idle_daemon.endpoint.removeprefix("ipc://"))
        assert path.is_socket(), "it belongs to the manager"
        away = publisher.publish(Event("door", event_id="away"), urgent=True)
        start_with(idle_daemon, handed)
        assert away.wait(20) == "stored"
        idle_daemon.kill()
        killed = publisher.publish(Event("door", event_id="killed"), urgent=True)
        start_with(idle_daemon, handed)
        assert killed.wait(20) == "stored"
    assert [event.event_id for event in idle_daemon.reader().get_recent_events()] == ["killed", "away", "early"]
    assert not any("another process listens" in str(line) for line in idle_daemon.logged())


def test_the_socket_that_is_handed_over_beats_the_endpoint(idle_daemon, handed, tmp_path):
    endpoint, idle_daemon.endpoint = idle_daemon.endpoint, f"ipc://{tmp_path}/other"
    start_with(idle_daemon, handed)
    assert any("is not [ingest] endpoint" in line["event"] for line in idle_daemon.logged())
    with Publisher(endpoint, "door", idle_daemon.home / "spool") as publisher:
        assert publisher.insert_event(Event("door"))


def test_what_is_no_listening_socket_is_refused(idle_daemon, tmp_path):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        idle_daemon.start(program=handing_over(deaf), pass_fds=(deaf.fileno(),), wait=False)
        assert idle_daemon.process.wait(20) == 78
    assert "one listening stream socket" in idle_daemon.logged()[-1]["event"]


# -- reloading ------------------------------------------------------------------------------------------------------


def reload(daemon, config: str, said: str) -> None:
    count = sum(said in line["event"] for line in daemon.logged())
    (daemon.home / "config.toml").write_text(config)
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: sum(said in line["event"] for line in daemon.logged()) > count, said)


def test_a_changed_budget_and_log_level_hold_without_a_restart(idle_daemon, manager):
    small = "[storage]\nmax_storage_gb = 0.02\nkeep_free_gb = 0.0\n"
    daemon = idle_daemon.start(config=small, env=manager.environment())
    with daemon.publisher() as publisher:
        receipts = [publisher.publish(Event("door", llm_description="x" * 60_000)) for _ in range(300)]
        wait_for(lambda: any("cannot write" in line["event"] for line in daemon.logged()), "it is full")
        wait_for(lambda: status(manager).startswith("cannot write: storage_limit"), "the status says so")
        reload(daemon, '[storage]\nmax_storage_gb = 1.0\nkeep_free_gb = 0.0\n[log]\nlevel = "debug"\n', "took over")
        assert all(receipt.wait(30) == "stored" for receipt in receipts)
    assert any(line["level"] == "debug" for line in daemon.logged())
    assert not status(manager).startswith("cannot write")
    assert manager.heard.index("RELOADING=1") < len(manager.heard) - 1 - manager.heard[::-1].index("READY=1")


def test_a_wrong_configuration_is_not_taken_over_and_what_takes_a_start_is_named(daemon):
    reload(daemon, "[storage]\nmax_storage_gb = -1\n", "was not taken over")
    assert "max_storage_gb" in daemon.logged()[-1]["reason"]
    reload(daemon, "[ingest]\nlinger_ms = 7\n[store]\ntimezone = 'UTC'\n", "at the next start")
    assert daemon.logged()[-1]["keys"] == ["ingest.linger_ms", "store.timezone"]
    with daemon.publisher() as publisher:
        assert publisher.insert_event(Event("door"))
    for _ in range(50):
        daemon.process.send_signal(signal.SIGHUP)
    assert daemon.stop() == 0


def test_lines_for_the_journal_have_their_priority(idle_daemon):
    log = idle_daemon.log
    log.touch()
    there = log.stat()
    idle_daemon.start(env={"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"})
    idle_daemon.stop()
    lines = log.read_text().splitlines()
    assert lines
    assert all(line.startswith("<4>{" if "made a new store" in line else "<6>{") for line in lines)
    done = subprocess.run(
        [sys.executable, "-m", "sightlogd", "run", "--data-dir", "/proc/nowhere"],
        env={**os.environ, "JOURNAL_STREAM": "1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("{"), "a pipe is not the journal"
