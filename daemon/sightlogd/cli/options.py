"""What the commands share: options, and who may use them."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sightlogd.config import INSTALLED_CONFIG, Config
from sightlogd.errors import EXIT_PERMISSION, Stop
from sightlogd.store import migrate

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_command(
    commands: Commands,
    name: str,
    summary: str,
    run: Callable[[Config, argparse.Namespace], int],
    text: str = "",
) -> argparse.ArgumentParser:
    """`run` returns the exit code, and may raise Stop. `text` follows the options in --help."""
    parser = _add_parser(commands, name, summary, text)
    default = f"{INSTALLED_CONFIG} if there is one, else none"
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"config.toml; default: {default}")
    parser.add_argument("--data-dir", metavar="DIR", help="beats SIGHTLOG_DATA_DIR and the file")
    parser.set_defaults(run=run, endpoint=None)
    return parser


def add_verbs(commands: Commands, name: str, summary: str, text: str) -> Commands:
    """For a command that is followed by one of several others; add those with `add_command`."""
    return _add_parser(commands, name, summary, text).add_subparsers(required=True, metavar="VERB")


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", metavar="URL", help="beats SIGHTLOG_ENDPOINT and the file")


def _add_parser(commands: Commands, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def check_user(data_dir: Path) -> None:
    """Of what the running daemon does for its own user and for root. Raises Stop."""
    with contextlib.suppress(OSError):  # told when it is looked for
        owner = data_dir.stat().st_uid
        if os.geteuid() not in (0, owner):
            raise Stop(
                EXIT_PERMISSION,
                f"{data_dir} belongs to another user (uid {owner}). This is for its own user, and for root while the "
                "daemon runs. Run it as that user, e.g. with sudo -u",
            )


class Rights:
    """Of who runs a command in a data directory of somebody else."""

    def __init__(self, owner: os.stat_result | None) -> None:
        self._owner = owner

    @contextmanager
    def of_root(self) -> Iterator[None]:
        """For a while what root may again, where it was he who ran the command."""
        if self._owner is None:
            yield
            return
        _become(0, 0)
        try:
            yield
        finally:
            _become(self._owner.st_uid, self._owner.st_gid)


@contextmanager
def as_owner(data_dir: Path) -> Iterator[Rights]:
    """What another user makes in there the daemon could not write to afterwards: root does it as the owner, and may no
    more than he. Raises Stop for any other user."""
    owner = data_dir.stat()
    if owner.st_uid == os.geteuid():
        yield Rights(None)
        return
    if os.geteuid() != 0:
        raise Stop(
            EXIT_PERMISSION,
            f"{data_dir} belongs to another user (uid {owner.st_uid}). Run this as that user, e.g. with sudo -u",
        )
    migrate.packaged()  # they may lie where only root may look
    groups = os.getgroups()
    os.setgroups([])
    _become(owner.st_uid, owner.st_gid)
    try:
        yield Rights(owner)
    finally:
        _become(0, 0)
        os.setgroups(groups)


def _become(uid: int, gid: int) -> None:
    os.seteuid(0)
    os.setegid(gid)
    os.seteuid(uid)
