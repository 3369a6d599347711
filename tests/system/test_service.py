"""The service under a real systemd: started, stopped, killed, stuck, on a slow card; who may do what."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from conftest import wait_for
from ledger import check

pytest_plugins = ["machine"]

PYTHON = "/opt/sightlog/current/bin/python"
PUBLISH = """
import sys
from sightlog import Event, Publisher
with Publisher(producer=sys.argv[1], spool_dir="/tmp/spool-" + sys.argv[1]) as publisher:
    receipt = publisher.publish(Event("door", event_id=sys.argv[2]), urgent=True)
    print(receipt.wait(float(sys.argv[3])))
"""


def publish(machine, event_id: str, user: str = "cam", seconds: float = 30.0):
    return machine.run(PYTHON, "-c", PUBLISH, user, event_id, str(seconds), user=user, check=False)


def events(machine, user: str = "dash") -> list[str]:
    text = machine.run("sightlog", "events", "-o", "json", "-n", "1000", user=user).stdout
    return [line.split('"event_id":"')[1].split('"')[0] for line in text.replace('": "', '":"').splitlines()]


def test_it_starts_stops_restarts_and_reloads(service):
    assert service.show("sightlogd", "SubState") == "running"
    assert service.show("sightlogd", "StatusText").startswith(("ready on ipc:///run/sightlog/ingest.sock", "Storage: "))
    assert publish(service, "first").stdout == "stored\n"
    inode = service.sh("stat -c %i /run/sightlog/ingest.sock")
    service.systemctl("restart", "sightlogd")
    assert publish(service, "second").stdout == "stored\n"
    assert service.sh("stat -c %i /run/sightlog/ingest.sock") == inode, "what is sent meanwhile waits in it"
    before = service.pid
    (service.root / "etc/sightlog/config.toml").write_text("[storage]\nmax_storage_gb = 3.0\n")
    service.systemctl("reload", "sightlogd")
    wait_for(lambda: "took over the configuration" in service.journal(), "it is taken over")
    assert service.pid == before
    service.systemctl("stop", "sightlogd")
    assert service.show("sightlogd", "Result") == "success"
    assert '"event": "stopped"' in service.journal()


def test_a_reload_of_a_wrong_configuration_fails_and_changes_nothing(service):
    (service.root / "etc/sightlog/config.toml").write_text("[storage]\nmax_storage_gb = -3.0\n")
    failed = service.run("systemctl", "reload", "sightlogd", check=False)
    assert failed.returncode
    assert "max_storage_gb" in service.journal()
    assert service.show("sightlogd", "SubState") == "running"
    assert publish(service, "after-reload").stdout == "stored\n"


def test_a_stop_is_a_stop_while_sensors_go_on_sending_and_a_start_takes_what_they_kept(service):
    """Without PropagatesStopTo= the first record would start it again by its socket."""
    service.systemctl("stop", "sightlogd")
    wait_for(lambda: service.systemctl("is-active", "sightlogd.socket", check=False) == "inactive", "the socket closes")
    sensor = service.root / "etc/sightlog/sensors/sleeper"
    sensor.write_text("#!/bin/sh\nexec sleep 600\n")
    sensor.chmod(0o755)
    service.systemctl("restart", "sightlog-sensor@sleeper")
    kept = publish(service, "kept", seconds=3)
    assert "AckTimeout" in kept.stderr
    assert service.systemctl("is-active", "sightlogd", check=False) == "inactive"
    service.systemctl("stop", "sightlog-sensor@sleeper")
    service.systemctl("start", "sightlogd")
    assert service.systemctl("is-active", "sightlogd.socket") == "active"
    assert publish(service, "after").stdout == "stored\n"
    assert {"kept", "after"} <= set(events(service))


def test_what_is_sent_before_the_first_start_arrives(service):
    service.systemctl("stop", "sightlogd")
    service.systemctl("start", "sightlogd.socket")
    assert service.systemctl("is-active", "sightlogd", check=False) == "inactive"
    assert publish(service, "early").stdout == "stored\n", "the record started it"
    assert service.systemctl("is-active", "sightlogd") == "active"


def test_it_is_there_after_a_boot_and_after_a_power_cut(service):
    assert publish(service, "before-boot").stdout == "stored\n"
    service.shut_down()
    service.boot()
    assert service.systemctl("is-active", "sightlogd") == "active"
    assert publish(service, "before-cut").stdout == "stored\n"
    service.cut_power()
    service.boot()
    service.has_state("active")
    assert {"before-boot", "before-cut"} <= set(events(service))
    assert (
        service.run("stat", "-c", "%a %U %G", "/run/sightlog/ingest.sock").stdout == "660 sightlog sightlog-producers\n"
    )


def test_killed_under_load_with_three_producers_of_another_user_nothing_is_lost(service):
    seed = random.randrange(1 << 30)
    print("seed", seed)  # shown when it fails
    chance = random.Random(seed)
    service.drop_in("[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=300ms\n")
    names = ["kill-a", "kill-b", "kill-c"]
    folder = service.root / "srv/shared"
    command = [*service.enter("cam"), PYTHON, "/srv/sightlog/tests/producer.py", "ipc:///run/sightlog/ingest.sock"]
    producers = [subprocess.Popen([*command, "/tmp/spool-load", name, f"/srv/shared/{name}", "1500"]) for name in names]
    kills = 0
    while any(producer.poll() is None for producer in producers) and kills < 8:
        service.has_state("active")
        acked = sum(os.stat(folder / name).st_size for name in names if (folder / name).exists())
        wait_for(
            lambda acked=acked: (
                sum(os.stat(folder / name).st_size for name in names if (folder / name).exists())
                > acked + chance.randrange(40_000)
                or all(producer.poll() is not None for producer in producers)
            ),
            "something is published",
            60,
        )
        service.systemctl("kill", "--signal=KILL", "--kill-who=main", "sightlogd", check=False)
        kills += 1
    for producer in producers:
        assert producer.wait(120) == 0
    assert kills >= 3
    assert int(service.show("sightlogd", "NRestarts")) >= 1
    check(service.database, {name: folder / name for name in names}, delivered=True)
    service.run("sightlogd", "verify", user="sightlog")


def test_a_stuck_daemon_is_killed_and_starts_again(service):
    stuck = f"{PYTHON} /srv/sightlog/tests/stuck_daemon.py run --config /etc/sightlog/config.toml"
    service.drop_in(f"[Service]\nWatchdogSec=2s\nRestartSec=200ms\nExecStart=\nExecStart={stuck}\n")
    service.systemctl("restart", "sightlogd")
    assert "AckTimeout" in publish(service, "stuck", seconds=1).stderr
    wait_for(lambda: "Watchdog timeout" in service.journal(), "the watchdog", 30)
    wait_for(lambda: int(service.show("sightlogd", "NRestarts")) >= 1, "another one runs", 30)
    assert "wait_for_ever" in service.journal(), "where it was stuck"
    service.systemctl("stop", "sightlogd")
    service.as_it_was_installed()
    assert publish(service, "after-watchdog").stdout == "stored\n"
    assert "stuck" in events(service)


def wait_for_signs_of_life(service) -> None:
    """As many as the watchdog needs in twice its time."""
    heard = set()
    wait_for(lambda: heard.add(service.show("sightlogd", "WatchdogTimestampMonotonic")) or len(heard) > 8, "signs", 60)


def test_a_daemon_that_is_well_is_not_killed_by_its_watchdog(service):
    service.drop_in("[Service]\nWatchdogSec=3s\n")
    service.systemctl("restart", "sightlogd")
    pid = service.pid
    wait_for_signs_of_life(service)
    assert service.pid == pid


def test_a_failure_that_needs_a_person_is_not_tried_again(service):
    """Not by its socket either, whatever sensors send."""
    service.systemctl("stop", "sightlogd")
    moved = service.database.with_suffix(".good")
    service.database.rename(moved)
    service.sh("yes nothing | head -c 20000 > /var/lib/sightlog/events.db; chown sightlog: /var/lib/sightlog/events.db")
    damage = service.database.read_bytes()
    try:
        assert service.run("systemctl", "start", "sightlogd", check=False).returncode
        assert "AckTimeout" in publish(service, "damaged", seconds=7).stderr  # RestartSec= is 5
        assert service.show("sightlogd", "SubState") == "failed"
        assert service.show("sightlogd", "ExecMainStatus") == "78"
        assert service.show("sightlogd", "NRestarts") == "0"
        assert service.systemctl("is-active", "sightlogd.socket", check=False) == "inactive"
        assert "is damaged" in service.show("sightlogd", "StatusText")
        assert service.database.read_bytes() == damage, "it is left as it is"
    finally:
        moved.rename(service.database)
    service.as_it_was_installed()
    assert publish(service, "mended").stdout == "stored\n"
    assert "damaged" in events(service), "its producer kept it"


def test_what_passes_is_tried_again_until_it_has_passed(service):
    service.drop_in("[Service]\nRestartSec=500ms\n")
    service.systemctl("stop", "sightlogd")
    service.sh("chmod 0440 /var/lib/sightlog/events.db")
    service.run("systemctl", "start", "sightlogd", check=False)
    wait_for(lambda: int(service.show("sightlogd", "NRestarts")) >= 2, "it is tried again", 30)
    wait_for(lambda: "cannot open" in service.show("sightlogd", "StatusText"), "why")
    service.sh("chmod 0640 /var/lib/sightlog/events.db")
    service.has_state("active")
    assert publish(service, "passed").stdout == "stored\n"


def test_readers_read_while_it_runs_after_it_was_killed_and_while_it_is_stopped(service):
    assert publish(service, "to-read").stdout == "stored\n"
    assert "to-read" in events(service)
    service.drop_in("[Service]\nRestart=no\n")
    service.systemctl("kill", "--signal=KILL", "--kill-who=main", "sightlogd")
    service.has_state("failed")
    service.systemctl("stop", "sightlogd.socket")
    assert "to-read" in events(service)
    service.as_it_was_installed()
    service.systemctl("stop", "sightlogd")
    assert "to-read" in events(service)
    assert service.run("sh", "-c", "cat /var/lib/sightlog/events/*/events.log", user="dash").stdout
    denied = "echo x >> /var/lib/sightlog/events.db || touch /var/lib/sightlog/x || rm /var/lib/sightlog/lock"
    assert "Permission denied" in service.run("sh", "-c", denied, user="dash", check=False).stderr


def test_who_is_in_no_group_can_neither_connect_nor_read(service):
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/sightlog/ingest.sock')"
    for user, may_connect, may_read in (("cam", True, False), ("dash", False, True), ("stranger", False, False)):
        connected = service.run(PYTHON, "-c", connect, user=user, check=False)
        assert (connected.returncode == 0) is may_connect, user
        assert may_connect or "PermissionError" in connected.stderr
        listed = service.run("ls", "/var/lib/sightlog", user=user, check=False)
        assert (listed.returncode == 0) is may_read, user
        shown = service.run("sightlog", "events", user=user, check=False)
        assert (shown.returncode == 0) is may_read, user
        assert "Traceback" not in shown.stderr
    assert "AckTimeout" in publish(service, "of-a-stranger", user="stranger", seconds=1).stderr
    told = service.run("sightlog", "publish", "--camera", "x", "--timeout", "1", user="stranger", check=False)
    assert "sightlog-producers" in told.stderr
    told = service.run("sightlogd", "verify", user="stranger", check=False)
    assert (told.returncode, "Traceback" in told.stderr) == (77, False)
    service.run("sightlogd", "verify", user="dash")


@pytest.fixture
def card(service, tmp_path):
    """The data directory on a file system of its own, which can be made to wait."""
    service.systemctl("stop", "sightlogd")
    service.shut_down()
    image, mount = tmp_path / "card", service.root / "var/lib/sightlog"
    aside = mount.with_name("aside")
    mount.rename(aside)
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    subprocess.run(["cp", "-a", f"{aside}/.", mount], check=True)
    subprocess.run(["chown", "--reference", aside, mount], check=True)
    mount.chmod(0o2750)
    service.boot()
    try:
        yield mount
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", mount], check=False, stderr=subprocess.DEVNULL)
        service.shut_down()
        subprocess.run(["umount", mount], check=True)
        mount.rmdir()
        aside.rename(mount)
        service.boot()


def test_a_card_that_takes_many_times_the_watchdogs_patience_is_waited_for(service, card: Path):
    service.drop_in("[Service]\nWatchdogSec=3s\n")
    service.systemctl("restart", "sightlogd")
    pid = service.pid
    subprocess.run(["fsfreeze", "--freeze", card], check=True)
    sending = subprocess.Popen(
        [*service.enter("cam"), PYTHON, "-c", PUBLISH, "cam", "slow-card", "60"], stdout=subprocess.PIPE, text=True
    )

    def state() -> str:
        return service.sh(f"cat /proc/{pid}/stat").rpartition(")")[2].split()[0]

    wait_for(lambda: state() == "D", "it waits for the card")
    wait_for_signs_of_life(service)
    subprocess.run(["fsfreeze", "--unfreeze", card], check=True)
    assert sending.communicate(timeout=60)[0] == "stored\n"
    assert service.pid == pid
    assert service.show("sightlogd", "NRestarts") == "0"


REMOTE = """
import sys
from sightlog import Event, Publisher
name, key = sys.argv[1:]
with Publisher("tcp://127.0.0.1:5570", name, "/tmp/spool-remote-" + name, key_file=key) as publisher:
    print(publisher.publish(Event("gate", event_id=name), urgent=True).wait(20))
"""


def test_cameras_elsewhere_come_in_by_their_keys_and_the_rest_stays_closed(service):
    shipped = (Path(__file__).parents[2] / "systemd/sightlogd.service.d/tcp.conf").read_text()
    (service.root / "etc/sightlog/config.toml").write_text('[remote]\nlisten = "tcp://0.0.0.0:5570"\n')
    config = ("--config", "/etc/sightlog/config.toml")
    for name in ("gate", "garden"):
        service.run("sightlogd", "keys", "new", name, *config, "--output", f"/srv/shared/{name}.key_secret")
        service.sh(f"chown cam /srv/shared/{name}.key_secret")
    assert service.sh("stat -c '%a %U' /etc/sightlog/keys/server.key_secret") == "600 root\n"
    assert service.run("systemctl", "restart", "sightlogd", check=False).returncode
    assert "sightlogd.service.d/tcp.conf" in service.show("sightlogd", "StatusText")
    credential = "server.key_secret:/etc/sightlog/keys/server.key_secret"
    service.drop_in(f"[Service]\nLoadCredential={credential}\n")
    assert service.run("systemctl", "restart", "sightlogd", check=False).returncode
    assert "may use no network" in service.show("sightlogd", "StatusText")
    service.drop_in(shipped)
    service.systemctl("restart", "sightlogd")

    def publish_from_elsewhere(name: str, key: str):
        return service.run(PYTHON, "-c", REMOTE, name, f"/srv/shared/{key}.key_secret", user="cam", check=False)

    assert publish_from_elsewhere("gate", "gate").stdout == "stored\n"
    assert publish_from_elsewhere("garden", "garden").stdout == "stored\n"
    pid = service.pid
    service.run("sightlogd", "keys", "revoke", "garden", *config)
    assert "AccessDenied" in publish_from_elsewhere("late", "garden").stderr
    assert publish_from_elsewhere("still", "gate").stdout == "stored\n"
    assert publish(service, "local").stdout == "stored\n"
    assert service.pid == pid
    service.as_it_was_installed()
    service.systemctl("restart", "sightlogd")
    assert service.sh(f"grep -c : /proc/{service.pid}/net/dev") == "1\n", "without the drop-in it has loopback alone"
