"""The `sightlogd` command, and `sightlogd run`. The other commands: `cli`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

import sightlog
from sightlog.text import printable

try:
    from . import config as configuration
    from . import logs
    from .cli import backup, check_config, keys, purge, rebuild, restore, verify
    from .cli.options import add_command, add_endpoint
    from .config import Config
    from .errors import EXIT_IO_ERROR, Stop
    from .service import run
    from .store import DATABASE
    from .store.tools.view import naming_odd_rows
except ModuleNotFoundError as error:
    # The base install is the client alone, and brings this command all the same.
    print(f'sightlogd: the daemon needs {error.name}: pip install "sightlog[daemon]"', file=sys.stderr)
    raise SystemExit(78) from error

EXIT_INTERRUPTED: Final = 130

_EXAMPLES: Final = """
examples:
  sightlogd run --config /etc/sightlog/config.toml
  sightlogd run --data-dir ./data --endpoint ipc:///tmp/sightlog.sock
  sightlogd check-config --config config.toml
  sightlogd verify --data-dir /var/lib/sightlog && echo sound
  sightlogd backup /media/stick/sightlog
  sightlogd restore /media/stick/sightlog
  sightlogd purge --dry-run
  sightlogd purge --before 2026-01-01
  sightlogd keys new camera-front
  sightlogd rebuild --from-logs --data-dir /var/lib/sightlog --output /tmp/events.db

exit codes: 0 clean stop, 28 storage full, 74 I/O error, 75 try again later, 77 permission, 78 configuration or schema
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sightlogd",
        description="Writes down once, for good, what the sensors of a camera system saw.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sightlogd {sightlog.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_endpoint(add_command(commands, "run", "run in the foreground until SIGTERM or SIGINT", _run))
    for module in (check_config, verify, backup, restore, purge, rebuild, keys):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        config = _load(options)
        with naming_odd_rows(config.data_dir / DATABASE):
            code: int = options.run(config, options)
        sys.stdout.flush()
        return code
    except Stop as stop:
        # For `journalctl -p err`: a daemon whose configuration is wrong has no log yet.
        priority = "<3>" if logs.is_the_journal(sys.stderr.fileno()) else ""
        text = "\n".join(map(printable, str(stop).split("\n")))
        print(f"{priority}sightlogd: {text}", file=sys.stderr)
        return stop.exit_code
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_IO_ERROR
    except KeyboardInterrupt:  # of a command, or while the daemon starts; later it is a graceful stop
        print("\nsightlogd: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(config: Config, options: argparse.Namespace) -> int:
    return run.run(config, lambda: _load(options))


def _load(options: argparse.Namespace) -> Config:
    """Raises Stop."""
    installed = configuration.INSTALLED_CONFIG
    file = options.config or (installed if installed.exists() else None)
    return configuration.load(file, os.environ, data_dir=options.data_dir, endpoint=options.endpoint)


if __name__ == "__main__":
    sys.exit(main())
