"""Which SQLite may write: those without the WAL-reset bug."""

from __future__ import annotations

import apsw
import pytest

from sightlogd.errors import EXIT_CONFIG, Stop
from sightlogd.store import Store
from sightlogd.store.opening import check_library, corrupts_wal

CORRUPTS = ["3.7.0", "3.34.1", "3.40.1", "3.43.2", "3.44.0", "3.44.5", "3.45.0", "3.46.1", "3.49.2", "3.50.0", "3.50.6"]
CORRUPTS += ["3.51.0", "3.51.2", "3.52.0", "3.52.1"]
SOUND = ["3.44.6", "3.44.7", "3.50.7", "3.50.12", "3.51.3", "3.51.10", "3.53.0", "3.54.1", "3.100.0", "4.0.0"]


@pytest.mark.parametrize(
    ("version", "corrupts"), [*((version, True) for version in CORRUPTS), *((version, False) for version in SOUND)]
)
def test_a_version_corrupts_a_wal_or_it_does_not(version, corrupts):
    assert corrupts_wal(tuple(map(int, version.split(".")))) is corrupts


@pytest.mark.parametrize("version", SOUND)
def test_a_sound_library_is_accepted(version):
    check_library(version)


@pytest.mark.parametrize("version", CORRUPTS)
def test_a_library_that_corrupts_is_refused_before_anything_is_opened(version, tmp_path, monkeypatch):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    with pytest.raises(Stop, match=f"SQLite {version} can corrupt.*Nothing was opened.*Install apsw") as stop:
        Store(tmp_path)
    assert stop.value.exit_code == EXIT_CONFIG
    assert list(tmp_path.iterdir()) == []


def test_the_library_in_use_is_sound():
    check_library(apsw.sqlite_lib_version())
