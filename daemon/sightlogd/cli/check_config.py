"""`sightlogd check-config`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from sightlogd.config import Config

from .options import add_command, add_endpoint

if TYPE_CHECKING:
    from .options import Commands


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "check-config", "check the configuration, print what is in force, and exit", _run)
    add_endpoint(parser)


def _run(config: Config, _options: argparse.Namespace) -> int:
    for section in config.__struct_fields__:
        print(f"[{section}]")
        table = getattr(config, section)
        for key in table.__struct_fields__:
            value = getattr(table, key)
            print(f"{key} = {json.dumps(value)}")
    return 0
