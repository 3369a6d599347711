"""`sightlogd backup` and `restore`, run, and what has to hold between a store and a copy of it."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SIGHTLOGD = Path(sys.executable).with_name("sightlogd")


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SIGHTLOGD, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False, **options
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def limit_memory(size: int) -> None:
    """Of the process that is about to begin."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def backup(data_dir: Path, dest: Path) -> subprocess.CompletedProcess[str]:
    return run("backup", "--data-dir", data_dir, dest)


def restore(src: Path, data_dir: Path) -> subprocess.CompletedProcess[str]:
    return run("restore", "--data-dir", data_dir, src)


def verify(data_dir: Path) -> subprocess.CompletedProcess[str]:
    return run("verify", "--data-dir", data_dir)


def restored(src: Path, data_dir: Path) -> Path:
    """A store made of a backup; one that is there is thrown away."""
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    done = restore(src, data_dir)
    assert done.returncode == 0, done.stderr
    return data_dir


def manifest(dest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dest / "backup.json").read_text().splitlines()]


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
