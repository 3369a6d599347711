"""The schema's file: what is in it says why."""

from __future__ import annotations

import re

import pytest

from sightlogd.store import migrate

TABLES = {
    name: body
    for migration in migrate.packaged()
    for name, body in re.findall(r"^CREATE TABLE (\w+) \(\n(.*?)^\)", migration.sql, re.MULTILINE | re.DOTALL)
}
CORNERS = {"bbox_y1", "bbox_x2", "bbox_y2"}
"""Said of the first one."""


def test_there_are_tables_to_look_at():
    assert {"events", "detections", "days", "producers"} <= TABLES.keys()


@pytest.mark.parametrize("table", TABLES)
def test_every_column_says_why_it_is_there(table):
    before, silent = "", []
    for line in TABLES[table].splitlines():
        column = re.match(r"    (\w+) +(TEXT|INTEGER|REAL|BLOB)\b", line)
        if column and "--" not in line and not before.startswith("    --") and column[1] not in CORNERS:
            silent.append(column[1])
        before = line
    assert silent == []
