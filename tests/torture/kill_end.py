"""What must hold at the end of a campaign of kills, when everything is delivered and the daemon has stopped."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import daylogs
from kill_books import require

if TYPE_CHECKING:
    from kill_machine import Campaign


def check(campaign: Campaign) -> None:
    """Pictures, day logs and, where there was one, the backup are those of the database."""
    _check_pictures(campaign)
    _check_logs(campaign)
    if campaign.plan.backups:
        _check_backup(campaign)


def _check_pictures(campaign: Campaign) -> None:
    """The books have looked at what is in each."""
    data_dir = campaign.data_dir
    with closing(sqlite3.connect(f"file:{campaign.books.database}?mode=ro", uri=True)) as connection:
        named = {path for (path,) in connection.execute("SELECT thumbnail_path FROM events") if path}
    there = {str(path.relative_to(data_dir)) for path in data_dir.glob("events/*/*.jpg")}
    require(named == there, f"pictures without a row: {there - named}; rows without a picture: {named - there}")
    left = [path.name for path in data_dir.glob("events/incoming/*")]
    require(not left, f"left in incoming: {left}")


def _check_logs(campaign: Campaign) -> None:
    """A database made from the logs alone is the same, row for row."""
    new = campaign.home / "new.db"
    _run(campaign, "rebuild", "--from-logs", "--output", str(new))
    made, original = daylogs.rows(new), daylogs.rows(campaign.books.database)
    # What came before its event waits again when the day of that event, and the line that it came, went.
    waiting = set(original["pending"])
    made["pending"] = [row for row in made["pending"] if row in waiting or not campaign.books.may_be_purged(row[1])]
    # The logs do not know when a camera that is purged was first seen.
    unknown = ("cameras", "clock_days") if campaign.plan.purges else ()
    for table in made.keys() - set(unknown):
        require(made[table] == original[table], f"the logs have other {table} than the database")
    new.unlink()
    daylogs.assert_the_view_names_the_lines(campaign.data_dir)
    _run(campaign, "verify")


def _check_backup(campaign: Campaign) -> None:
    """It is the store, and a store can be made of it, whatever became of those before it."""
    dest = campaign.home / "backup"
    _run(campaign, "backup", str(dest))
    original = daylogs.rows(campaign.books.database)
    require(daylogs.rows(dest / "events.db") == original, "the backup has other rows")
    campaign.data_dir.rename(campaign.home / "before")
    campaign.data_dir.mkdir(mode=0o750)
    _run(campaign, "restore", str(dest))
    require(daylogs.rows(campaign.books.database) == original, "what was restored has other rows")
    _run(campaign, "verify")


def _run(campaign: Campaign, *arguments: str) -> None:
    code = campaign.command(*arguments).wait()
    require(code == 0, f"{arguments[0]} ended with {code}: {campaign.logged()}")
