"""Installed, upgraded, taken back, interrupted, removed and installed again, on one machine, in this order."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import made_up
import pytest
from conftest import wait_for
from container import ENVIRONMENT

from sightlog.reader.database import SCHEMA_VERSION as NOW

if TYPE_CHECKING:
    from machine import Machine

pytest_plugins = ["machine"]

CHECKOUT = Path(__file__).parents[2]
NEEDED = ("clients", "daemon", "systemd", "Makefile", "pyproject.toml", "requirements.lock", "config.toml", "README.md")
INSTALL = ("install", "WHEELS=/srv/wheels", "PYTHON=/usr/bin/python3")
PIP_CONF = "[global]\nrequire-virtualenv = true\n[install]\nuser = true\ntarget = /nowhere\nrequire-hashes = true\n"
OWNERS = "[storage]\nmax_storage_gb = 3.0\n"
DROP_IN = "[Service]\nMemoryMax=300M\n"
SENDER = """
import itertools, time
from sightlog import Event, Publisher
with Publisher(producer="sender", spool_dir="/srv/pi/spool") as publisher, open("/srv/pi/sent", "w") as sent:
    for number in itertools.count():
        publisher.publish(Event("gate", event_id=f"sent-{number}"))
        print(number, file=sent, flush=True)
        time.sleep(0.05)
"""
MIGRATIONS = "daemon/sightlogd/migrations"
GOOD_MIGRATIONS = {
    "clients/sightlog/reader/database.py": (
        f"SCHEMA_VERSION: Final = {NOW}",
        f"SCHEMA_VERSION: Final = {made_up.NEWEST}",
    ),
    **{f"{MIGRATIONS}/{migration.name}": ("", migration.sql) for migration in made_up.MIGRATIONS},
}
STARTS = "        _report_start(config, store)\n"
# Building takes longest, and is the same for each version. Most are the one that is installed, with the edited files.
EDITED = """
build_release() {
    release=$ROOT/releases/$(basename "$SOURCE")-edited
    cp -a "$CURRENT/." "$release"
    rm -f "$release/started"
    chmod -R u=rwX,go=rX "$SOURCE/edited"
    cp -R "$SOURCE/edited/." "$release"/lib/python3*/site-packages/
    sed -i "1s|.*|#!$release/bin/python|" "$release"/bin/sightlog*
}
"""


def source(machine: Machine, version: str, edits: dict[str, tuple[str, str]]) -> Path:
    """A checkout of another version, as the machine sees it; `edits`: what stands in which file for what."""
    copy = machine.root / "srv" / version
    for name in (*NEEDED, "LICENSE"):
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(CHECKOUT / name, copy / name)
    versions = {"pyproject.toml": ('version = "0.1.0"', f'version = "{version}"')}
    versions["clients/sightlog/__init__.py"] = ('__version__ = "0.1.0"', f'__version__ = "{version}"')
    for name, (old, new) in {**versions, **edits}.items():
        text = (copy / name).read_text() if old else ""
        assert old in text
        (copy / name).write_text(text.replace(old, new) if old else new)
        if name.startswith(("clients/", "daemon/")):
            edited = copy / "edited" / name.partition("/")[2]
            edited.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(copy / name, edited)
    machine.sh(f"chmod -R go-rwx /srv/{version}")  # an owner with a umask of 077
    return Path("/srv") / version


def edited(machine: Machine, version: str, edits: dict[str, tuple[str, str]]) -> Path:
    """The same, installed sooner."""
    checkout = source(machine, version, edits)
    with (machine.root / f"srv/{version}/systemd/release.sh").open("a") as release:
        release.write(EDITED)
    return checkout


def make(machine: Machine, checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = machine.run("make", "-s", "-C", str(checkout), *arguments, check=False, timeout=180)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def stored(machine: Machine, camera: str) -> set[str]:
    """What a reader sees."""
    text = machine.run("sightlog", "events", "-o", "json", "-n", "100000", "--camera", camera, user="pi").stdout
    return {json.loads(line)["event_id"] for line in text.splitlines()}


def schema(machine: Machine) -> int:
    with closing(sqlite3.connect(f"file:{machine.database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT max(version) FROM schema_version").fetchone()[0]


def releases(machine: Machine) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (machine.root / "opt/sightlog/releases").iterdir())


def current(machine: Machine) -> str:
    return machine.run("sightlogd", "--version").stdout.split()[1]


def runs(machine: Machine, version: str) -> None:
    """This version, with what was sent, and with nothing of an install left over."""
    assert current(machine) == version
    assert machine.systemctl("is-active", "sightlogd.service", "sightlogd.socket") == "active\nactive"
    assert machine.systemctl("is-enabled", "sightlogd.service", "sightlogd.socket") == "enabled\nenabled"
    left = {path.name for path in (machine.root / "opt/sightlog").iterdir()}
    assert left == {"current", "releases", "lock"}
    assert list((machine.root / "var/lib/sightlog").glob("events.before-upgrade*")) == []
    assert (machine.root / "etc/sightlog/config.toml").read_text() == OWNERS
    assert (
        "max_storage_gb = 3.0"
        in machine.run("sightlogd", "check-config", "--config", "/etc/sightlog/config.toml").stdout
    )
    arrives(machine)


def arrives(machine: Machine) -> None:
    """All that the sender has sent until now, whatever happened to the daemon."""
    last = int((machine.root / "srv/pi/sent").read_text().split()[-1])
    wait_for(lambda: f"sent-{last}" in stored(machine, "gate"), "what was sent last is stored")
    assert {f"sent-{number}" for number in range(last + 1)} <= stored(machine, "gate")


@pytest.fixture(scope="module")
def machine(bare: Machine) -> Iterator[Machine]:
    """Installed by an owner whose shell and pip have opinions; he sends events all the while."""
    (bare.root / "etc/pip.conf").write_text(PIP_CONF)
    installed = bare.sh(
        "umask 077; export PIP_TARGET=/nowhere PYTHONPATH=/nowhere SIGHTLOG_DATA_DIR=/nowhere; "
        f"make -s -C /srv/sightlog {' '.join(INSTALL)}",
        timeout=180,
    )
    assert "usermod -aG sightlog-producers,sightlog-readers" in installed
    bare.sh("useradd -U -m pi; usermod -aG sightlog-producers,sightlog-readers pi; install -d -o pi /srv/pi")
    (bare.root / "srv/pi/sender.py").write_text(SENDER)
    bare.sh("systemd-run -q --unit sender --uid pi /opt/sightlog/current/bin/python /srv/pi/sender.py")
    wait_for(lambda: (bare.root / "srv/pi/sent").exists() and (bare.root / "srv/pi/sent").read_text(), "it sends")
    return bare


def test_a_first_event_as_the_guide_says(machine):
    assert current(machine) == "0.1.0"
    machine.run("sightlog", "publish", "--camera", "front_door", "--type", "motion", user="pi")
    assert len(stored(machine, "front_door")) == 1
    assert "front_door" in machine.run("sightlog", "status", user="pi").stdout + machine.sh(
        "sightlog events", user="pi"
    )
    assert "--camera" in machine.sh("cat /usr/local/share/bash-completion/completions/sightlog")
    arrives(machine)


def test_a_sensor_of_the_template_runs(machine):
    """The lock: it reads the database, and amends what it decides. With what is shipped for a camera, too."""
    sensors = machine.root / "etc/sightlog/sensors"
    (sensors / "lock").write_text(
        "#!/bin/sh\nexec /opt/sightlog/current/bin/python -m sightlog_sensors.lock "
        "--database /var/lib/sightlog/events.db\n"
    )
    (sensors / "lock").chmod(0o755)
    drop_in = machine.root / "etc/systemd/system/sightlog-sensor@lock.service.d"
    drop_in.mkdir()
    (drop_in / "override.conf").write_text("[Service]\nSupplementaryGroups=sightlog-readers\n")
    shutil.copy(CHECKOUT / "systemd/sightlog-sensor@camera.service.d/example.conf", drop_in)
    machine.sh("groupadd -f video; groupadd -f render")  # a Pi has them
    machine.sh("systemctl daemon-reload; systemctl enable --now sightlog-sensor@lock")
    machine.run("sightlog", "publish", "--camera", "door", "--type", "ding", "--person", "anna", user="pi")
    wait_for(lambda: "unlocked" in machine.sh("sightlog events --camera door -o json", user="pi"), "the lock decides")


def test_an_upgrade_keeps_what_is_the_owners(machine):
    (machine.root / "etc/sightlog/config.toml").write_text(OWNERS)
    drop_in = machine.root / "etc/systemd/system/sightlogd.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(DROP_IN)
    # As it is when the one before was ended after the start, before it could tidy up.
    (machine.root / "opt/sightlog/switching").write_text("\n" + machine.run("readlink", "/opt/sightlog/current").stdout)
    (machine.root / "opt/sightlog/releases/0.0.1-half").mkdir()
    gone = machine.root / "etc/sightlog/sensors/gone"
    gone.write_text("#!/bin/sh\nexec sleep infinity\n")
    gone.chmod(0o755)
    machine.systemctl("start", "sightlog-sensor@gone")
    gone.unlink()
    done = make(machine, source(machine, "0.2.0", {}), *INSTALL)
    assert done.returncode == 0, done
    assert "config.toml.new" in done.stdout
    assert "sightlog runs: 0.2.0" in done.stdout
    assert "a sensor did not start again" in done.stdout
    machine.systemctl("stop", "sightlog-sensor@gone")
    assert "usermod" not in done.stdout, "that is for a first install"
    assert (machine.root / "etc/sightlog/config.toml.new").read_text() == (CHECKOUT / "config.toml").read_text()
    assert drop_in.read_text() == DROP_IN
    assert machine.show("sightlogd", "MemoryMax") == str(300 << 20)
    assert releases(machine) == ["0.1.0", "0.2.0"]
    assert machine.systemctl("is-active", "sightlog-sensor@lock") == "active"
    runs(machine, "0.2.0")


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"daemon/sightlogd/service/loop.py": ("import structlog\n", "import structlog\nimport nowhere\n")}, "nowhere"),
        (
            {f"{MIGRATIONS}/002_bad.sql": ("", "CREATE TABLE t (x); INSERT INTO nowhere VALUES (1);")},
            "migration 002_bad.sql failed",
        ),
        (
            {**GOOD_MIGRATIONS, "daemon/sightlogd/service/run.py": (STARTS, '        raise Stop(74, "not today")\n')},
            "not today",
        ),
    ],
    ids=["cannot-be-loaded", "cannot-migrate", "migrates-and-does-not-start"],
)
def test_a_version_that_does_not_work_is_taken_back(machine, edits, said, request):
    before = machine.pid
    done = make(machine, edited(machine, f"0.3.{len(said)}", edits), *INSTALL)
    assert done.returncode
    assert said in done.stdout + done.stderr
    assert releases(machine) == ["0.1.0", "0.2.0"]
    assert schema(machine) == NOW
    runs(machine, "0.2.0")
    assert (machine.pid == before) is ("loaded" in request.node.name), "what is found before is found without a stop"


def test_an_install_that_was_killed_in_the_middle_is_mended_by_the_next_one(machine):
    hangs = {**GOOD_MIGRATIONS, "daemon/sightlogd/service/run.py": (STARTS, "        __import__('time').sleep(900)\n")}
    checkout = edited(machine, "0.4.0", hangs)
    command = [*machine.enter(), "make", "-s", "-C", str(checkout), *INSTALL]
    killed = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: schema(machine) == made_up.NEWEST, "the new version has migrated the database, and hangs", 120)
    machine.sh("kill -9 $(pgrep -f '[s]ystemd/install.sh')")
    killed.wait(60)
    assert (machine.root / "opt/sightlog/switching").exists()
    checkout = edited(machine, "0.5.0", {})
    # Neither version can be loaded, as after an upgrade of the system's Python; then the one before can again.
    places = [path / "lib" for path in (machine.root / "opt/sightlog/releases").iterdir() if path.name >= "0.2.0"]
    assert len(places) == 2
    for place in places:
        place.rename(place.with_name("aside"))
    done = make(machine, checkout, *INSTALL)
    assert done.returncode
    assert "could not be put back" in done.stdout
    assert (machine.root / "opt/sightlog/switching").exists()
    assert schema(machine) == made_up.NEWEST
    before = min(places)
    before.with_name("aside").rename(before)
    done = make(machine, checkout, *INSTALL)
    assert done.returncode == 0, done
    assert "interrupted" in done.stdout
    assert f"again as it was, with schema {NOW}" in done.stdout
    assert releases(machine) == ["0.2.0", "0.5.0"]
    runs(machine, "0.5.0")
    machine.cut_power()
    machine.boot()
    machine.has_state("active")
    assert current(machine) == "0.5.0"
    assert len(stored(machine, "front_door")) == 1


def test_removed_it_leaves_data_and_configuration_and_installed_again_it_finds_them(machine):
    before = stored(machine, "gate")
    done = make(machine, Path("/srv/sightlog"), "uninstall")
    assert done.returncode == 0
    assert "sightlog-sensor@lock" in done.stdout
    assert "/var/lib/sightlog" in done.stdout
    assert make(machine, Path("/srv/sightlog"), "uninstall").returncode == 0, "twice"
    left = {path for place in ("opt", "etc/sysusers.d", "etc/tmpfiles.d") for path in (machine.root / place).iterdir()}
    assert left == set()
    assert machine.sh("systemctl list-unit-files 'sightlog*' --no-legend || true; ls /usr/local/bin") == ""
    assert list((machine.root / "etc/systemd/system").rglob("sightlog*.s*[et]")) == []
    assert (machine.root / "etc/sightlog/config.toml").read_text() == OWNERS
    # With a database that does not start, it says so, and nothing is half enabled.
    hidden = machine.database.with_name("aside")
    machine.database.rename(hidden)
    machine.database.write_bytes(b"")
    done = make(machine, Path("/srv/sightlog"), *INSTALL)
    assert done.returncode
    assert "0 bytes" in done.stdout + done.stderr
    assert machine.systemctl("is-enabled", "sightlogd.service", "sightlogd.socket", check=False) == "disabled\ndisabled"
    hidden.rename(machine.database)
    done = make(machine, edited(machine, "0.6.0", {}), *INSTALL)
    assert done.returncode == 0, done
    assert "usermod" in done.stdout, "the first that works"
    assert releases(machine) == ["0.6.0"]
    assert machine.systemctl("is-active", "sightlogd") == "active"
    assert before <= stored(machine, "gate")
