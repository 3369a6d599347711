"""Whose keys are allowed, and the daemon's own: files in [remote] keys_dir.

`server.key_secret` is the daemon's pair, `server.key` its public half, `allowed/NAME.key` the public key of a producer
on another machine. What is not in `allowed` does not come in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from sightlog.errors import UsageError
from sightlog.protocol import keyfile
from sightlog.protocol.keyfile import KeyFile
from sightlogd import durable
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, Stop

SERVER_SECRET: Final = "server.key_secret"
"""Also the name of the credential that systemd hands over."""
SERVER: Final = "server.key"
SERVER_NAME: Final = "server"
ALLOWED: Final = "allowed"
ENDING: Final = ".key"
_SECRET_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755
"""The daemon's user reads what root wrote."""


class Allowed(NamedTuple):
    names: dict[str, str]
    """By public key."""
    unreadable: list[str]
    """What is wrong with the other files."""


class Keys:
    """`credentials` is the directory of systemd's credentials, where there is one."""

    def __init__(self, directory: Path, credentials: str | None = None) -> None:
        self.directory = directory
        self._credentials = credentials

    def _file(self, name: str) -> Path:
        return self.directory / ALLOWED / f"{name}{ENDING}"

    def allowed(self) -> Allowed:
        """As the directory is now. Raises OSError; one that is not there allows nobody."""
        names: dict[str, str] = {}
        unreadable = []
        try:
            files = sorted(self._file("").parent.iterdir())
        except FileNotFoundError:
            files = []
        for file in files:
            if file.suffix != ENDING:
                continue
            try:
                names.setdefault(keyfile.read(file, secret=False).public, keyfile.check_key_name(file.stem))
            except UsageError as error:
                unreadable.append(str(error))
        return Allowed(names, unreadable)

    def server_pair(self) -> KeyFile:
        """The credential if there is one, else the file. Raises Stop."""
        path = self.directory / SERVER_SECRET
        if self._credentials and (credential := Path(self._credentials) / SERVER_SECRET).exists():
            path = credential
        try:
            pair = keyfile.read(path, secret=True)
        except UsageError as error:
            why = str(error)
            if isinstance(error.__cause__, FileNotFoundError):
                why = f"there is no {path}. Run: sightlogd keys new NAME (it makes the daemon's own key, too)"
            elif isinstance(error.__cause__, PermissionError):
                why = (
                    f"this user may not read {path}. Install sightlogd.service.d/tcp.conf, with which systemd hands it "
                    "over (LoadCredential=), or give the file to the daemon's user"
                )
            raise Stop(EXIT_CONFIG, f"[remote] listen needs the daemon's key: {why}") from error
        if not pair.secret:
            raise Stop(EXIT_CONFIG, f"there is no secret-key in {path}. Restore the file")
        return pair

    def server_public(self) -> str | None:
        """None when the daemon has no key yet. Raises Stop."""
        for name in (SERVER, SERVER_SECRET):
            if (self.directory / name).exists():
                try:
                    return keyfile.read(self.directory / name, secret=False).public
                except UsageError as error:
                    raise Stop(EXIT_CONFIG, str(error)) from error
        return None

    def add_server(self, public: str, secret: str) -> None:
        """Raises Stop."""
        self._make_directories()
        create(self.directory / SERVER_SECRET, KeyFile(SERVER_NAME, public, secret))
        create(self.directory / SERVER, KeyFile(SERVER_NAME, public))

    def check_free(self, name: str, public: str | None = None) -> None:
        """Raises Stop when the name or the key is allowed already, or the name is none."""
        _check(name)
        if self._file(name).exists():
            raise Stop(
                EXIT_CONFIG, f"a key is allowed as {name} already. Take another name, or: sightlogd keys revoke {name}"
            )
        other = self.listed().names.get(public or "")
        if other is not None:
            raise Stop(EXIT_CONFIG, f"this key is allowed already, as {other}. Nothing was changed")

    def listed(self) -> Allowed:
        """As `allowed`, for commands. Raises Stop."""
        try:
            return self.allowed()
        except OSError as error:
            raise _stop(error, f"cannot read {self.directory / ALLOWED}") from error

    def allow(self, name: str, public: str) -> None:
        """Raises Stop."""
        self.check_free(name, public)
        self._make_directories()
        create(self._file(name), KeyFile(name, public))

    def revoke(self, name: str) -> str | None:
        """Durable. Another name by which the same key is still allowed, if somebody made such a file. Raises Stop."""
        _check(name)
        try:
            public = keyfile.read(self._file(name), secret=False).public
        except UsageError:
            public = ""  # not there, or damaged: neither lets anybody in
        try:
            self._file(name).unlink()
            durable.sync(self._file(name).parent)
        except FileNotFoundError:
            known = ", ".join(sorted(self.listed().names.values())) or "none"
            raise Stop(EXIT_CONFIG, f"no key is allowed as {name}. Allowed are: {known}") from None
        except OSError as error:
            raise _stop(error, f"cannot remove {self._file(name)}") from error
        return self.listed().names.get(public)

    def _make_directories(self) -> None:
        for directory in (*reversed(self.directory.parents), self.directory, self.directory / ALLOWED):
            if not directory.exists():
                try:
                    directory.mkdir()
                    directory.chmod(_DIRECTORY_MODE)  # whatever the umask
                    durable.sync(directory.parent)
                except OSError as error:
                    raise _stop(error, f"cannot make {directory}") from error


def create(path: Path, key: KeyFile) -> None:
    """A new key file, secret from its first byte if there is a secret in it; durable. Raises Stop."""
    mode = _SECRET_MODE if key.secret else _PUBLIC_MODE
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        raise _stop(error, f"cannot make {path}") from error
    try:
        with open(fd, "wb") as file:
            if not key.secret:
                os.fchmod(fd, mode)  # whatever the umask
            file.write(key.text().encode())
            file.flush()
            os.fsync(fd)
        durable.sync(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _stop(error, f"cannot write {path}") from error


def _check(name: str) -> None:
    try:
        keyfile.check_key_name(name)
    except UsageError as error:
        raise Stop(EXIT_CONFIG, str(error)) from error


def _stop(error: OSError, what: str) -> Stop:
    if isinstance(error, FileExistsError):
        return Stop(EXIT_CONFIG, f"{what}: it is there already. Nothing was changed; move it away first")
    if isinstance(error, PermissionError):
        return Stop(EXIT_PERMISSION, f"{what}: {error.strerror}. Run this as root, or as the owner of that directory")
    return Stop(EXIT_IO_ERROR, f"{what}: {error.strerror}. Does its directory exist, and is there room?")
