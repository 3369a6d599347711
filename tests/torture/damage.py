"""Files, damaged as bad cards, crashes and people damage them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

WHOLE = {"emptied", "garbage", "text", "removed", "a folder"}
"""After these nothing of the file is left."""


KINDS = [
    "a bit", "a bit", "bits", "bits", "a sector", "a page", "zeros", "cut off", "appended", "swapped", "doubled",
    *sorted(WHOLE),
]  # fmt: skip


def damage(choose: random.Random, path: Path, what: str = "") -> str:
    """Returns what was done to it: `what`, or any of KINDS."""
    data = bytearray(path.read_bytes())
    what = what or choose.choice(KINDS)
    at = choose.randrange(max(1, len(data)))
    if what in ("a bit", "bits"):
        for _ in range(1 if what == "a bit" else choose.choice([8, 64, 512])):
            if data:
                data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    elif what in ("a sector", "a page", "zeros"):
        size = 4096 if what == "a page" else 512
        at -= at % size
        length = min(size, len(data) - at)
        data[at : at + length] = bytes(length) if what == "zeros" else choose.randbytes(length)
    elif what == "cut off":
        del data[at:]
    elif what == "appended":
        data += choose.randbytes(choose.choice([1, 100, 5_000]))
    elif what == "swapped":
        data[:] = data[at:] + data[:at]
    elif what == "doubled":
        data[:] = bytes(data) * 2
    elif what == "emptied":
        data.clear()
    elif what == "garbage":
        data[:] = choose.randbytes(len(data) or 100)
    elif what == "text":
        data[:] = b"this is not the file you are looking for\n" * 20
    elif what in ("removed", "a folder"):
        path.unlink()
        if what == "a folder":
            path.mkdir()
        return what
    path.write_bytes(data)
    return what


def copy(source: Path, target: Path) -> Path:
    """A tree to damage, in the place of an earlier one."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))
