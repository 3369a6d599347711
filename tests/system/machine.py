"""A container in which sightlog is installed as the operator's guide says, and the people who use it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_for
from container import Container, missing

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` takes from the network; there is none in a container."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run(["make", "-s", "wheels", f"WHEELS={folder}", "PYTHON=/usr/bin/python3"], cwd=CHECKOUT, check=True)
    return folder


class Machine(Container):
    """One where sightlog is to be installed, or is."""

    data_dir = Path("/var/lib/sightlog")

    @property
    def database(self) -> Path:
        """As seen from outside."""
        return self.root / "var/lib/sightlog/events.db"

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", *arguments, check=check).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", unit, "--property", name, "--value")

    @property
    def pid(self) -> int:
        """Of the daemon, as the container counts."""
        return int(self.show("sightlogd", "MainPID"))

    def journal(self) -> str:
        return self.run("journalctl", "--unit", "sightlogd", "--no-pager", "--output", "cat").stdout

    def has_state(self, state: str) -> None:
        wait_for(lambda: self.systemctl("is-active", "sightlogd", check=False) == state, f"sightlogd is {state}", 40)

    def drop_in(self, text: str) -> None:
        """What an owner says with `systemctl edit sightlogd`."""
        folder = self.root / "etc/systemd/system/sightlogd.service.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def as_it_was_installed(self) -> None:
        """Running, whatever the test before did."""
        shutil.rmtree(self.root / "etc/systemd/system/sightlogd.service.d", ignore_errors=True)
        shutil.copy(self.root / "etc/sightlog/config.toml.installed", self.root / "etc/sightlog/config.toml")
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed", check=False)
        self.systemctl("start", "sightlogd")


def install(machine: Machine) -> None:
    machine.run("make", "-C", "/srv/sightlog", "install", "WHEELS=/srv/wheels", timeout=120)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Machine]:
    """Booted, with nothing of sightlog."""
    if lacking := missing():
        pytest.fail(f"not tested: this needs {lacking}")
    folder = tmp_path_factory.mktemp("machine")
    machine = Machine(folder / "root", {"/srv/sightlog": CHECKOUT, "/srv/wheels": wheels})
    machine.boot()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def installed(bare: Machine) -> Machine:
    """With a producer `cam`, a reader `dash`, and `stranger` who is neither."""
    install(bare)
    shutil.copy(bare.root / "etc/sightlog/config.toml", bare.root / "etc/sightlog/config.toml.installed")
    bare.sh(
        "useradd -U -m -G sightlog-producers cam; useradd -U -m -G sightlog-readers dash; useradd -U -m stranger; "
        "mkdir -m 0777 /srv/shared"
    )
    return bare


@pytest.fixture
def service(installed: Machine) -> Machine:
    installed.as_it_was_installed()
    return installed
