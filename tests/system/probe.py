"""Tries what a hardened service may not do, and prints what it could: a line of JSON. Runs inside the service."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
CLONE_NEWUTS = 0x04000000
ADDR_NO_RANDOMIZE = 0x0040000
PTRACE_TRACEME = 0
SCRATCH = Path(os.environ.get("STATE_DIRECTORY", "/var/lib/sightlog"))


def status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def ok(result: int) -> bool:
    return result != -1


def can_write(*folders: str) -> bool:
    for folder in folders:
        try:
            path = Path(folder, "probe")
            path.touch()
            path.unlink()
        except OSError:
            continue
        return True
    return False


def can_set_uid_bit() -> bool:
    path = SCRATCH / "probe"
    path.touch()
    try:
        path.chmod(0o4755)
    finally:
        path.unlink()
    return True


def in_a_child(work: Callable[[], bool]) -> Callable[[], bool]:
    """What cannot be taken back happens to somebody else."""

    def run() -> bool:
        child = os.fork()
        if child == 0:
            os._exit(0 if attempt(work) else 1)
        return os.waitpid(child, 0)[1] == 0

    return run


def family(*families: socket.AddressFamily) -> bool:
    for one in families:
        try:
            socket.socket(one, socket.SOCK_DGRAM).close()
        except OSError:
            continue
        return True
    return False


def write_and_execute() -> bool:
    mmap.mmap(-1, 4_096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    return True


ATTEMPTS: dict[str, Callable[[], bool]] = {
    "NoNewPrivileges": lambda: status("NoNewPrivs") == "0",
    "CapabilityBoundingSet": lambda: int(status("CapBnd"), 16) != 0,
    "RestrictSUIDSGID": can_set_uid_bit,
    "RestrictRealtime": in_a_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) is None),
    "RestrictNamespaces": in_a_child(lambda: ok(libc.unshare(CLONE_NEWUTS)) or ok(libc.unshare(CLONE_NEWUSER))),
    "LockPersonality": in_a_child(lambda: ok(libc.personality(ADDR_NO_RANDOMIZE))),
    "MemoryDenyWriteExecute": write_and_execute,
    "ProtectSystem": lambda: can_write("/etc", "/opt", "/var", "/var/lib"),
    "ProtectHome": lambda: bool(os.listdir("/home") or os.listdir("/root")),
    "PrivateTmp": lambda: os.path.exists("/tmp/of-others"),
    "PrivateDevices": lambda: os.path.exists("/dev/console"),
    "PrivateUsers": lambda: Path("/proc/self/uid_map").read_text().split()[2] == "4294967295",
    "ProtectProc": lambda: os.path.exists("/proc/1"),
    "ProcSubset": lambda: os.path.exists("/proc/meminfo"),
    "ProtectHostname": in_a_child(lambda: socket.sethostname(socket.gethostname()) is None),
    "ProtectControlGroups": lambda: os.access("/sys/fs/cgroup/system.slice", os.W_OK),
    "RestrictAddressFamilies": lambda: family(socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET),
    "SystemCallFilter": in_a_child(lambda: ok(libc.ptrace(PTRACE_TRACEME, 0, 0, 0))),
    "SystemCallFilter: @resources": in_a_child(lambda: os.sched_setaffinity(0, {0}) is None),
    "SystemCallFilter: @privileged": in_a_child(lambda: os.chroot("/") is None),
    "User": lambda: os.getuid() == 0,
    "Group": lambda: os.getgid() == 0,
    "UMask": lambda: os.umask(0o022) != 0o027,
    "LimitCORE": lambda: resource.getrlimit(resource.RLIMIT_CORE)[1] != 0,
}


def attempt(work: Callable[[], bool]) -> bool:
    try:
        return work()
    except OSError:
        return False


if __name__ == "__main__":
    found = {name: attempt(work) for name, work in ATTEMPTS.items()}
    found["net"] = os.stat("/proc/self/ns/net").st_ino
    found["mnt"] = os.stat("/proc/self/ns/mnt").st_ino
    (SCRATCH / "probed").write_text(json.dumps(found))
