"""`sightlog completion`: the scripts, and what bash makes of them."""

from __future__ import annotations

import subprocess
import sys

from commands import run

_COMPLETE = """
set -e
complete_line() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=()
    $(complete -p sightlog | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    echo "${{COMPREPLY[*]}}"
}}
source {script}
complete_line sightlog sea
complete_line sightlog events --str
complete_line sightlog events -o ''
complete_line sightlog export --to {directory}/
"""


def test_bash_completes_commands_options_formats_and_files(tmp_path):
    script = run(tmp_path, "completion", "bash")
    assert script.returncode == 0, script.stderr
    (tmp_path / "script").write_text(script.stdout)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "november.csv").touch()
    done = subprocess.run(
        ["bash", "--norc", "-c", _COMPLETE.format(script=tmp_path / "script", directory=tmp_path / "files")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "search", "--stranger", "short json table csv cat", f"{tmp_path}/files/november.csv",
    ]  # fmt: skip


def test_zsh_gets_a_script_too(tmp_path):
    done = run(tmp_path, "completion", "zsh")
    assert done.returncode == 0
    assert done.stdout.startswith("#compdef sightlog")
    assert "--min-confidence" in done.stdout


def test_without_shtab_it_says_what_to_install(tmp_path):
    script = (
        "import sys; sys.modules['shtab'] = None; from sightlog.cli import main; sys.exit(main(['completion', 'bash']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "sightlog[completion]"' in done.stderr
