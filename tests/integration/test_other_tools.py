"""What others' tools are told about the store is true of a real one: docs/datasette.json, the diagram of the tables."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon

from sightlog import Detection, Event, Observation

ROOT = Path(__file__).parents[2]
DATASETTE = json.loads((ROOT / "docs/datasette.json").read_text(encoding="utf-8"))["databases"]["events"]
README = (ROOT / "clients/README.md").read_text(encoding="utf-8")
PARAMETERS = {"site": "", "words": "jacket"}


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    daemon = Daemon(tmp_path_factory.mktemp("tools")).start()
    try:
        with daemon.publisher() as publisher:
            seen = [Detection("person", 0.9)]
            publisher.insert_event(
                Event("door", detections=seen, llm_description="a blue jacket", door_action="unlocked")
            )
            assert publisher.publish(Observation("a grey jacket", "me")).wait(20) == "stored"
        with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as opened:
            opened.row_factory = sqlite3.Row
            # Datasette's own: each word of what somebody typed in quotes.
            quoted = lambda text: " ".join(f'"{word}"' for word in text.split())  # noqa: E731
            opened.create_function("escape_fts", 1, quoted)
            yield opened
    finally:
        daemon.end()


def names(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Columns by table and view, without the index's own tables."""
    found = connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')").fetchall()
    return {
        name: [row["name"] for row in connection.execute(f"SELECT name FROM pragma_table_info('{name}')")]
        for (name,) in found
        if not name.startswith("texts_index_")
    }


@pytest.mark.parametrize("query", DATASETTE["queries"])
def test_a_ready_made_query_of_datasette_finds_something(connection, query):
    sql = DATASETTE["queries"][query]["sql"]
    assert connection.execute(sql, PARAMETERS).fetchall()
    assert_by_an_index(connection, sql)


def assert_by_an_index(connection: sqlite3.Connection, sql: str) -> None:
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", PARAMETERS)]
    assert not [step for step in plan if re.match("SCAN (events|observations|detections|texts)$", step)]


@pytest.mark.parametrize("table", DATASETTE["tables"])
def test_what_datasette_is_told_of_a_table_is_there(connection, table):
    told: dict[str, Any] = DATASETTE["tables"][table]
    columns = names(connection)[table]
    assert {told[key] for key in ("sort_desc", "label_column", "fts_pk") if key in told} <= set(columns)
    assert set(told.get("facets", ())) <= set(columns)
    if "fts_table" in told:  # the statement that Datasette makes of a search
        sql = (
            f"SELECT * FROM {table} WHERE {told['fts_pk']} IN "
            f"(SELECT rowid FROM {told['fts_table']} WHERE {told['fts_table']} MATCH escape_fts(:words)) "
            f"ORDER BY {told['sort_desc']} DESC LIMIT 101"
        )
        assert len(connection.execute(sql, PARAMETERS).fetchall()) == 1
        assert_by_an_index(connection, sql)


def test_every_table_is_either_for_people_or_hidden(connection):
    hidden = {name for name, told in DATASETTE["tables"].items() if told.get("hidden")}
    (own,) = re.findall(r"^(`schema_version`.*) are the daemon's own\.$", README, re.M)
    assert set(re.findall(r"`(\w+)`", own)) <= hidden
    assert next(iter(DATASETTE["tables"])) == "events_with_objects"
    assert set(DATASETTE["tables"]) | {"cameras", "producers"} == set(names(connection))


def test_the_diagram_is_of_the_tables(connection):
    (diagram,) = re.findall(r"```mermaid\nerDiagram\n(.*?)```", README, re.S)
    there = names(connection)
    there["texts_index"].append("rowid")
    enforced = set()
    for line in diagram.splitlines():
        left, _, right, said = re.fullmatch(r'    (\w+) ([|o{}-]+) (\w+) : "(.*)"', line).groups()
        if "FK" in said:
            enforced.add((right, left))
        words = set(re.findall(r"\b[a-z_]+\b", said)) - {"until", "it", "comes"}
        assert words <= {*there[left], *there[right]}, line
    own = {name for name, told in DATASETTE["tables"].items() if told.get("hidden")}
    reflected = {
        (table, row["table"])
        for table in there
        for row in connection.execute(f"SELECT \"table\" FROM pragma_foreign_key_list('{table}')")
        if table not in own or table == "face_embeddings"
    }
    assert enforced == reflected
    drawn = set(re.findall(r"^    (\w+)|[|o{}] (\w+) :", diagram, re.M))
    drawn = {name for pair in drawn for name in pair if name}
    assert set(there) - own <= drawn | {"schema_version"}
