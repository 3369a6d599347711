"""A throw-away machine with a systemd of its own: a tree of its own, /usr of this one, no network (systemd-nspawn).

Its files outlive it in `root`, so that it can be booted again, after a shutdown or after its power was cut.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

BOOT_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
DIRECTORIES: Final = ("usr", "etc", "var", "opt", "srv", "root", "home", "tmp", "run", "proc", "sys", "dev")
ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def missing() -> str | None:
    """What this machine lacks to run one, or None."""
    if os.geteuid() != 0:
        return "root"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn (Debian's package systemd-container)"
    return None


class Container:
    """`binds`: read-only folders, by where they are seen inside."""

    def __init__(self, root: Path, binds: Mapping[str, Path]) -> None:
        self.root = root
        self._binds = binds
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._local = root.parent / "local"
        for directory in (root, self._local, self._local / "bin"):
            directory.mkdir()
        for directory in DIRECTORIES:
            (root / directory).mkdir()
        (root / "tmp").chmod(0o1777)
        for link in LINKS:
            target = Path("/usr") / link
            if target.is_dir():
                (root / link).symlink_to(f"usr/{link}")
        shutil.copy("/etc/os-release", root / "etc/os-release")

    def boot(self) -> None:
        """Until systemd says that it is up."""
        binds = [f"--bind-ro={source}:{inside}" for inside, source in {"/usr": Path("/usr"), **self._binds}.items()]
        command = ["systemd-nspawn", "--directory", self.root, "--private-network", "--register=no", "--keep-unit"]
        command += ["--console=read-only", *binds, f"--bind={self._local}:/usr/local", "--boot"]
        with (self.root.parent / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                [*command, "systemd.firstboot=off", "systemd.unit=multi-user.target"],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + BOOT_SECONDS
        while not self._is_up():
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the container did not boot: " + (self.root.parent / "console").read_text()[-2_000:])
            time.sleep(0.05)

    def _is_up(self) -> bool:
        self._leader = 0
        # nspawn's first child is one of its own; the one that stays is the container's first process.
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        leaders = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"]
        if not leaders:
            return False
        self._leader = leaders[0]
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def run(
        self, *command: str, user: str | None = None, check: bool = True, timeout: float = 60.0, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command inside; what it said is in the error when it fails and `check`."""
        done = subprocess.run(
            [*self.enter(user), *command],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            input=text,
            start_new_session=True,  # whatever is killed in there
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def sh(self, script: str, *, user: str | None = None, check: bool = True, timeout: float = 60.0) -> str:
        """What a shell script inside printed."""
        return self.run("sh", "-euc", script, user=user, check=check, timeout=timeout).stdout

    def enter(self, user: str | None = None) -> Sequence[str]:
        """What to put before a command to run it inside, as a user with all his groups."""
        entering = ["nsenter", "--target", str(self._leader), "--all", "--"]
        if user is None:
            return entering
        # Not runuser: it wants PAM, which has no configuration in there.
        users = (line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines())
        group = next(fields[3] for fields in users if fields[0] == user)
        return [*entering, "setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups"]

    def shut_down(self) -> None:
        """As an owner does it."""
        assert self._nspawn is not None
        os.kill(self._leader, signal.SIGRTMIN + 4)
        self._nspawn.wait(STOP_SECONDS)

    def cut_power(self) -> None:
        """Everything inside dies at once; what the page cache has stays."""
        assert self._nspawn is not None
        # Killing nspawn alone would leave everything in there running.
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)
        else:
            self._nspawn.terminate()
        self._nspawn.wait(STOP_SECONDS)

    def close(self) -> None:
        if self._nspawn is not None and self._nspawn.poll() is None:
            self.cut_power()
