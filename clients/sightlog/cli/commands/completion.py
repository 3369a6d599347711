"""`sightlog completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sightlog.cli.options import add_command
from sightlog.cli.render.terminal import complain

if TYPE_CHECKING:
    from sightlog.cli.options import Commands

SHELLS: Final = ("bash", "zsh")
ABSENT: Final = 1

_TEXT: Final = """
Prints a script that makes the shell complete the commands of sightlog, their options, formats and file names. It is
made by shtab: pip install "sightlog[completion]". The script itself needs neither; after an upgrade print it again.

examples:
  sightlog completion bash > ~/.local/share/bash-completion/completions/sightlog
  sightlog completion zsh > ~/.zfunc/_sightlog      with fpath+=~/.zfunc in front of compinit in ~/.zshrc
  eval "$(sightlog completion bash)"                only in this shell

exit codes: 0 printed, 1 shtab is not installed, 2 wrong usage
"""


def add_parsers(commands: Commands) -> None:
    parser = add_command(commands, "completion", "a script for completion in bash or zsh", _TEXT, _run)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=" or ".join(SHELLS))


def _run(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        complain('completion needs shtab: pip install "sightlog[completion]"')
        return ABSENT
    from sightlog.cli import parser

    whole = parser()
    _complete_files(whole, shtab.FILE)
    print(shtab.complete(whole, options.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, how: Any) -> None:
    """Marks all options that are paths as shtab wants it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, how)
        elif action.type is Path:
            action.complete = how  # type: ignore[attr-defined]
