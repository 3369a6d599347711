"""What follows from the table of fields is what is committed, and the table is what the schema has."""

from __future__ import annotations

import dataclasses
from importlib import resources

import apsw
import fields_code
import pytest

from sightlog import Amendment, Event, Observation, Person
from sightlog.protocol import fields
from sightlog.reader.filters import events_filter
from sightlogd.protocol.decoder import AmendmentRecord, EventRecord, ObservationRecord, PersonRecord


@pytest.mark.parametrize("file", fields_code.MADE)
def test_the_code_is_what_the_table_says(file):
    assert (fields_code.ROOT / file).read_text(encoding="utf-8") == fields_code.made(file), "run `make fields`"


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("events", fields.EVENT_COLUMNS),
        ("observations", fields.OBSERVATION_COLUMNS),
        ("persons", fields.PERSON_COLUMNS),
        ("detections", fields.DETECTION_COLUMNS),
    ],
)
def test_the_schema_has_these_columns(table, columns):
    connection = apsw.Connection(":memory:")
    for migration in sorted(resources.files("sightlogd.migrations").iterdir(), key=lambda file: file.name):
        if migration.name.endswith(".sql"):
            connection.execute(migration.read_text(encoding="utf-8"))
    there = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    assert set(there) == set(columns)


@pytest.mark.parametrize(
    ("record", "struct", "table"),
    [
        (Event, EventRecord, fields.EVENT),
        (Amendment, AmendmentRecord, fields.AMENDMENT),
        (Person, PersonRecord, fields.PERSON),
        (Observation, ObservationRecord, fields.OBSERVATION),
    ],
)
def test_both_ends_have_the_fields_of_the_table(record, struct, table):
    ours = {field.name for field in table if not field.by_daemon}
    assert set(struct.__struct_fields__) == ours - {"thumbnail"}
    declared = {field.name for field in dataclasses.fields(record)}
    assert declared - {field.name for field in table if field.by_daemon} == ours


def test_an_unknown_filter_is_an_error_of_the_call():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        events_filter(colour="red")
