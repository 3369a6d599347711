"""`sightlogd keys`: whose producers on other machines may come in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sightlog.errors import UsageError
from sightlog.protocol import keyfile
from sightlog.protocol.keyfile import KeyFile
from sightlogd.config import Config
from sightlogd.errors import EXIT_CONFIG, EXIT_IO_ERROR, EXIT_PERMISSION, EXIT_TRY_AGAIN, Stop
from sightlogd.service import control, datadir
from sightlogd.service.control import RevokeRequest
from sightlogd.store import DATABASE
from sightlogd.store.lock import is_held
from sightlogd.store.signature import Owner, signature_of
from sightlogd.transport.keys import Keys, create
from sightlogd.transport.remote import make_pair

from .options import add_command, add_verbs

if TYPE_CHECKING:
    from .options import Commands

_TEXT: Final = """
examples:
  sudo sightlogd keys new camera-front --config /etc/sightlog/config.toml
  sightlogd keys list
  sudo sightlogd keys allow camera-yard yard.key
  sudo sightlogd keys revoke camera-front
"""


def add_parser(commands: Commands) -> None:
    verbs = add_verbs(commands, "keys", "let producers on other machines in, or no more", _TEXT)
    new = add_command(verbs, "new", "make a producer's key file and allow it", _new)
    new.add_argument("name", metavar="NAME")
    new.add_argument(
        "--output", type=Path, metavar="FILE", help="the file to carry to the camera; default: NAME.key_secret, here"
    )
    add_command(verbs, "list", "show whose keys are allowed, and the daemon's own", _list)
    allow = add_command(verbs, "allow", "allow a key that was made before or elsewhere", _allow)
    allow.add_argument("name", metavar="NAME")
    allow.add_argument("key", metavar="KEY", help="a public key of 40 characters, in single quotes, or a key file")
    revoke = add_command(verbs, "revoke", "let a key in no more; its connections are dropped at once", _revoke)
    revoke.add_argument("name", metavar="NAME")


def _keys(config: Config) -> Keys:
    """To be changed. Raises Stop."""
    if config.keys_dir.resolve().is_relative_to(config.data_dir.resolve()):
        datadir.check_writable(config.data_dir)
    return Keys(config.keys_dir)


def _new(config: Config, options: argparse.Namespace) -> int:
    keys = _keys(config)
    output = options.output or Path(f"{options.name}.key_secret")
    keys.check_free(options.name)
    if output.exists():
        raise Stop(EXIT_CONFIG, f"{output} is there already. Nothing was changed; give another --output")
    server = keys.server_public()
    if server is None:
        server, secret = make_pair()
        keys.add_server(server, secret)
        print(f"made the daemon's own key in {keys.directory}")
    public, secret = make_pair()
    create(output, KeyFile(options.name, public, secret, server))
    try:
        keys.allow(options.name, public)
    except Stop:
        output.unlink()
        raise
    print(
        f"{output}: the key of {options.name}, which is allowed from now on. Carry this file to the camera, remove it\n"
        f"here, and give it to the producer: key_file=…, --key-file or SIGHTLOG_KEY_FILE"
    )
    if not config.remote.listen:
        print("the daemon listens on no port yet: set [remote] listen in config.toml, and start it again")
    return 0


def _list(config: Config, _options: argparse.Namespace) -> int:
    keys = Keys(config.keys_dir)
    allowed = keys.listed()
    print(f"the daemon's own key: {keys.server_public() or 'none yet; sightlogd keys new NAME makes it'}")
    width = max(map(len, allowed.names.values()), default=0)
    for public, name in allowed.names.items():
        print(f"{name:{width}}  {public}")
    if not allowed.names:
        print("no key is allowed: nobody comes in")
    for what in allowed.unreadable:
        print(what)
    return EXIT_CONFIG if allowed.unreadable else 0


def _allow(config: Config, options: argparse.Namespace) -> int:
    public = options.key
    if not keyfile.is_key(public):
        try:
            public = keyfile.read(Path(public), secret=False).public
        except UsageError as error:
            raise Stop(EXIT_CONFIG, f"{error} Expected a key of 40 characters in single quotes, or its file") from error
    _keys(config).allow(options.name, public)
    print(f"{options.name} is allowed from now on")
    return 0


def _revoke(config: Config, options: argparse.Namespace) -> int:
    keys = _keys(config)
    if (other := keys.revoke(options.name)) is not None:
        raise Stop(EXIT_CONFIG, f"the same key is allowed as {other}, too. Run: sightlogd keys revoke {other}")
    print(f"{options.name} is not allowed any more")
    try:
        is_store = signature_of(config.data_dir / DATABASE).owner is Owner.US
        code = control.ask(config.data_dir, RevokeRequest(), print) if is_store else None
    except PermissionError as error:
        raise Stop(
            EXIT_PERMISSION,
            "but the daemon drops connections for its own user and for root only: what is connected stays. "
            "Run as root: systemctl restart sightlogd",
        ) from error
    except OSError as error:
        raise Stop(
            EXIT_IO_ERROR, f"but the daemon did not answer: {error}. Look at its log, and start it again"
        ) from error
    if code is None and is_held(config.data_dir):
        raise Stop(
            EXIT_TRY_AGAIN,
            f"but the daemon on {config.data_dir} does not listen on its {control.NAME}: what is connected stays. "
            "Start it again, or wait a minute and run this again",
        )
    if code is None:
        print(f"no daemon runs on {config.data_dir}: it holds from the next start")
    return code or 0
