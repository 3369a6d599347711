"""Key files for tcp: CURVE keys in the certificate format of CZMQ, which `zmq.auth.load_certificate` reads too.

A producer's file holds its pair and the daemon's public key; the daemon's allow-list holds public keys alone.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sightlog.errors import UsageError

KEY_FILE_BYTES_MAX: Final = 4_096
_KEY_BYTES: Final = 32
_is_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}").fullmatch
_entry = re.compile(r'\s*(name|server-key|public-key|secret-key)\s*=\s*"?([^"\s]*)"?\s*').fullmatch


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a file says. Keys are text of 40 characters (Z85), "" where the file has none."""

    name: str
    public: str
    secret: str = ""
    server: str = ""

    def text(self) -> str:
        secret = f'    secret-key = "{self.secret}"\n' if self.secret else ""
        server = f'    server-key = "{self.server}"\n' if self.server else ""
        warning = "#   SECRET: who can read this file can publish in its name.\n" if self.secret else ""
        return (
            f"#   sightlog: key of {self.name}\n{warning}\n"
            f'metadata\n    name = "{self.name}"\n{server}curve\n    public-key = "{self.public}"\n{secret}'
        )


def check_key_name(name: str) -> str:
    """Raises UsageError for what could not be the name of a file, or would be one elsewhere."""
    if not _is_name(name):
        raise UsageError(
            f"{name!r} is no name of a key: expected 1 to 64 letters, digits and - _ . , not beginning with - or ."
        )
    return name


def is_key(text: str) -> bool:
    """Whether it is Z85 of 32 bytes."""
    from zmq.utils import z85  # loads libzmq, which few need who look at a key file

    try:
        return len(z85.decode(text)) == _KEY_BYTES
    except (ValueError, KeyError, struct.error):  # another length, another character, a group beyond 32 bits
        return False


def parse(text: str, name: str) -> KeyFile:
    """`name` holds where the file has none. Raises UsageError."""
    found = {"name": name, "public-key": "", "secret-key": "", "server-key": ""}
    for line in text.splitlines():
        if (entry := _entry(line)) is not None:
            found[entry[1]] = entry[2]
    if not found["public-key"]:
        raise UsageError("there is no public-key in it. Is it a key file?")
    for kind in ("public-key", "secret-key", "server-key"):
        if found[kind] and not is_key(found[kind]):
            raise UsageError(f"its {kind} is not one (40 characters of Z85). Was the file cut off or edited?")
    return KeyFile(check_key_name(found["name"]), found["public-key"], found["secret-key"], found["server-key"])


def read(path: Path, *, secret: bool) -> KeyFile:
    """A key file. `secret`: nobody but its owner may have a right to it, or the service that systemd gave it to.

    Raises UsageError that names the file.
    """
    try:
        # A pipe of that name would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise UsageError("it is no ordinary file")
            others = mode & _others(path)
            text = file.read(KEY_FILE_BYTES_MAX + 1)
        if len(text) > KEY_FILE_BYTES_MAX:
            raise UsageError(f"it has more than {KEY_FILE_BYTES_MAX} bytes. Is it a key file?")
        key = parse(text.decode(), path.name.removesuffix(".key").removesuffix(".key_secret"))
    except OSError as error:
        raise UsageError(
            f"cannot read the key file {path}: {error.strerror}. Is the path right, and may this user read it?"
        ) from error
    except (UsageError, UnicodeDecodeError) as error:
        raise UsageError(f"key file {path}: {error}") from error
    if secret and others:
        raise UsageError(f"other users may read the secret key in {path}. Run: chmod 600 {path}")
    return key


def _others(path: Path) -> int:
    """The modes of a secret file that let somebody else at it."""
    # systemd gives credentials to a service with an ACL, which shows as the group's right to read.
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    is_credential = credentials is not None and path.parent == Path(credentials)
    return stat.S_IRWXO if is_credential else stat.S_IRWXO | stat.S_IRWXG
