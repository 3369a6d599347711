"""Whether a directory is kept in memory: what is written there is gone with the power, however often it is fsynced.

That is a tmpfs, a disk in memory, or an overlay whose upper layer is one of them: raspi-config's "overlay file system"
makes the whole root one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

MOUNTS: Final = Path("/proc/self/mountinfo")
COMMAND_LINE: Final = Path("/proc/cmdline")
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_DISK_IN_MEMORY: Final = re.compile(r"/dev/z?ram\d+")
_UPPER: Final = "upperdir="
_ROOT_IN_MEMORY: Final = ("boot=overlay", "overlayroot=tmpfs")
"""How raspi-config and overlayroot tell the kernel. Their upper layer may have been mounted before the root was."""
_escaped: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    device: str
    """MAJOR:MINOR, as stat(2) has it."""
    point: str
    type: str
    source: str
    upper: str | None
    """Of an overlay: the folder that what is written goes to."""


def why(directory: Path) -> str | None:
    """What it is on, for people; None: on a disk, as far as can be seen. `directory` need not be there yet."""
    try:
        device = _device_of(directory)
        mounts = _mounts(os.fsdecode(MOUNTS.read_bytes()))
        command_line = COMMAND_LINE.read_text(errors="replace").split()
    except (OSError, ValueError):  # no /proc: nobody can tell
        return None
    mount = next((one for one in reversed(mounts) if one.device == device), None)
    if mount is None or mount.upper is None:
        return mount and _kind(mount)
    below = _holding(mounts, os.path.realpath(mount.upper))  # never an overlay: Linux refuses that
    if below is None or below.device == mount.device:  # hidden by the overlay itself, or in another container
        is_told = any(word.startswith(_ROOT_IN_MEMORY) for word in command_line)
        return "an overlay whose upper layer is in memory" if is_told else None
    kind = _kind(below)
    return kind and f"an overlay whose upper layer is on {kind}"


def _kind(mount: Mount) -> str | None:
    """Of memory."""
    if mount.type in _IN_MEMORY:
        return mount.type
    return mount.source if _DISK_IN_MEMORY.fullmatch(mount.source) else None


def _device_of(directory: Path) -> str:
    there = directory.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    number = there.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _holding(mounts: list[Mount], path: str) -> Mount | None:
    """By name: only root may look at raspi-config's. Of those in one place the last one hides the others."""
    above = [one for one in mounts if _is_below(path, one.point)]
    return max(reversed(above), key=lambda one: len(one.point), default=None)


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _mounts(text: str) -> list[Mount]:
    """See proc_pid_mountinfo(5). Raises ValueError."""
    found = []
    for line in text.splitlines():
        place, _, rest = line.partition(" - ")
        _, _, device, _, point, *_ = place.split(" ")
        kind, source, options = rest.split(" ", 2)
        upper = next((one.removeprefix(_UPPER) for one in options.split(",") if one.startswith(_UPPER)), None)
        found.append(Mount(device, _text(point), kind, _text(source), None if upper is None else _text(upper)))
    return found


def _text(escaped: str) -> str:
    return _escaped.sub(lambda matched: chr(int(matched[1], 8)), escaped)
