"""Makes the code that follows from `sightlog.protocol.fields`: `make fields` writes it, test_fields.py compares it.

A block is what stands between the line `<made by make fields: NAME>` and the line `</made>` of a file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sightlog.protocol import fields
from sightlog.protocol.fields import (
    AMENDMENT,
    DETECTIONS,
    EMBEDDING,
    EVENT,
    FILTERS,
    ID,
    IMAGE,
    INTEGER,
    KNOWN_ID,
    METADATA,
    NAME,
    OBSERVATION,
    PERSON,
    TEXT,
    TIME,
    Field,
)  # fmt: skip

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?ms)^([^\n]*<made by make fields: (\w+)>[^\n]*\n)(.*?)(^[^\n]*</made>[^\n]*$)")
POSITIONAL = {
    "Event": ("camera_id", "event_type"),
    "Amendment": ("event_id",),
    "Person": ("name", "display_name", "site"),
    "Observation": ("content", "source", "event_id", "embedding", "embedding_model", "embedding_version", "metadata"),
}
RECORDS = {"Event": EVENT, "Amendment": AMENDMENT, "Person": PERSON, "Observation": OBSERVATION}

Code = Iterator[str]


def sent(of: tuple[Field, ...]) -> list[Field]:
    """What is in the map of a record: what is required in front, the embedding at the end."""
    found = [field for field in of if not field.by_daemon and field.kind is not IMAGE]
    return sorted(found, key=lambda field: (not field.required, field.name.startswith("embedding")))


# -- the client ------------------------------------------------------------------------------------------------------


def record(name: str) -> Code:
    """The fields of a record's dataclass."""
    of = {field.name: field for field in RECORDS[name]}
    ours = [field for field in of.values() if not field.by_daemon]
    theirs = [field for field in of.values() if field.by_daemon and name in ("Event", "Observation")]
    positional = [of[one] for one in POSITIONAL[name]]
    for field in positional:
        yield f"    {declared(name, field)}"
    if rest := [field for field in (*ours, *theirs) if field not in positional]:
        yield "    _: KW_ONLY"
        for field in rest:
            yield f"    {declared(name, field)}"


def declared(record: str, field: Field) -> str:
    is_given = field.required and (record != "Amendment" or field.name in ("event_id", "site"))
    default = field.default if is_given or field.kind is DETECTIONS else "None"
    if record == "Event" and not field.required:
        default = field.default
    if record == "Amendment" and field.name == "event_id":
        default = None
    shown = field.kind.record + (" | None" if default == "None" else "")
    if field.by_daemon:
        default = "field(default=None, compare=False)"
    elif field.kind in (EMBEDDING, IMAGE):
        default = "field(default=None, compare=False, repr=False)"
    return f"{field.name}: {shown}" + (f" = {default}" if default else "")


def encoder(name: str) -> Code:
    """A function that makes a record the map it travels as. In full: a loop over names takes three times as long."""
    of = RECORDS[name]
    yield f"def _encode_{name.lower()}(r: {name}) -> dict[str, Any]:"
    theirs = [field.name for field in of if field.by_daemon]
    if theirs and name in ("Event", "Observation"):
        named = " and ".join(", ".join(theirs).rsplit(", ", 1))
        yield f"    if {' or '.join(f'r.{one} is not None' for one in theirs)}:"
        yield f'        raise InvalidRecord("{named} are set by the daemon; leave them out")'
    yield "    value: Any"
    yield f'    packed: dict[str, Any] = {{"kind": "{name.lower()}",'
    for field in sent(of):
        if field.required:
            yield f'        "{field.name}": {encoded(field, f"r.{field.name}")},'
    yield "    }"
    for field in sent(of):
        if field.kind is DETECTIONS:
            yield f"    if r.{field.name}:"
        elif not field.required and not field.name.startswith("embedding"):
            yield f"    if (value := r.{field.name}) is not None:"
        else:
            continue
        yield f'        packed["{field.name}"] = {encoded(field, "value", optional=True)}'
    if any(field.kind is EMBEDDING for field in of):
        yield f"    if {' or '.join(f'r.{one} is not None' for one in FACE)}:"
        yield "        _add_embedding(packed, r)"
    yield "    return packed"
    yield ""
    yield ""


FACE = ("embedding", "embedding_model", "embedding_version")
CHECKS = {"FRACTION": "_fraction", "DISTANCE": "_distance", "FLAG": "_flag", "DOOR_ACTION": "_door_action",
          "METADATA": "_metadata", "NAME": "_name", "TEXT": "_text", "ID": "check_id"}  # fmt: skip


def encoded(field: Field, value: str, *, optional: bool = False) -> str:
    if field.kind is TIME:
        return f"format_time({value})"
    if field.kind is DETECTIONS:
        return f"_detections(r.{field.name})"
    if field.kind is KNOWN_ID:  # what needs no call is looked at here
        return f'value if type(value := {value}) is str and value in known_ids else _known_id("{field.name}", value)'
    check = next(made for name, made in CHECKS.items() if getattr(fields, name) is field.kind)
    return f'{check}("{field.name}", {value})'


def filters() -> Code:
    yield "class EventFilters(TypedDict, total=False):"
    yield '    """All that is given has to hold."""'
    yield ""
    for one in FILTERS:
        yield f"    {one.name}: {one.type}"
        yield f'    """{one.doc}"""'


# -- the daemon ------------------------------------------------------------------------------------------------------


def struct(name: str) -> Code:
    options = "frozen=True, forbid_unknown_fields=True, gc=False"
    yield f'class {name}Record(Struct, tag_field="kind", tag="{name.lower()}", {options}):'
    for field in sent(RECORDS[name]):
        if field.required:
            yield f"    {field.name}: {field.kind.wire}"
    for field in (one for one in RECORDS[name] if one in sent(RECORDS[name]) and not one.required):
        if field.kind is DETECTIONS:
            yield f"    {field.name}: {field.kind.wire} = []"
        elif name == "Event" and field.default == "False":
            yield f"    {field.name}: {field.kind.wire} = False"
        else:
            yield f"    {field.name}: {field.kind.wire} | None = None"
    yield ""
    yield ""


def check(name: str) -> Code:
    """What msgspec's bounds do not say. Most records have few fields, and a call costs more than a look."""
    given = [field for field in sent(RECORDS[name]) if field.required]
    ids = [field for field in given if field.kind in (ID, KNOWN_ID)]
    yield f"def _check_{name.lower()}(r: {name}Record) -> str | None:"
    if name == "Amendment":
        yield "    if r == AmendmentRecord(r.event_id, r.site):"
        yield '        return "the amendment changes nothing"'
    looks = [f"is_id(r.{field.name})" if field.kind is ID else f"r.{field.name} in known_ids" for field in ids]
    failed = f"not ({' and '.join(looks)})" if len(looks) > 1 else looks[0].replace(" in ", " not in ")
    yield f"    if {failed} and (reason := "
    yield " or ".join(
        f'_check_{"known_" * (field.kind is KNOWN_ID)}id("{field.name}", r.{field.name})' for field in ids
    )
    yield "    ): return reason"
    for field in (one for one in (*given, *(one for one in sent(RECORDS[name]) if not one.required)) if one not in ids):
        value = f"r.{field.name}"
        is_there = "" if field.required else f"{value} is not None and "
        if field.kind is DETECTIONS:
            yield f"    for detection in {value}:"
            yield "        if detection.label not in known_names and (reason := _check_label(detection.label)):"
            yield "            return reason"
        elif field.kind is TEXT:
            yield f'    if {is_there}"\\0" in {value}: return "{field.name}: NUL"'
        elif field.kind in (TIME, NAME, ID) and not field.name.startswith("embedding_"):
            check_of = {TIME: "check_time", NAME: "_check_name", ID: "_check_id"}[field.kind]
            yield f'    if {is_there}(reason := {check_of}("{field.name}", {value})): return reason'
        elif field.kind is METADATA:
            yield f"    if {is_there}(reason := _check_metadata({value})): return reason"
    if any(field.kind is EMBEDDING for field in RECORDS[name]):
        yield f"    if {' or '.join(f'r.{one} is not None' for one in FACE)}:"
        yield "        return _check_embedding(r)"
    yield "    return None"
    yield ""
    yield ""


def line_fields(of: list[Field], *, keep_required: bool = True) -> Code:
    optional = False
    for field in of:
        optional = optional or not (field.required or field.kind is INTEGER)
        if field.kind is INTEGER:
            yield f"    {field.name}: int | None"
        elif field.required and keep_required:
            yield f"    {field.name}: {field.kind.line}" + (' = ""' if optional else "")
        elif field.kind is DETECTIONS:
            yield f"    {field.name}: {field.kind.line} = []"
        elif field.default == "False" and keep_required:
            yield f"    {field.name}: bool = False"
        else:
            yield f"    {field.name}: {field.kind.line} | None = None"


def of_line(of: tuple[Field, ...]) -> list[Field]:
    """The columns in their order, then what is beside."""
    found = [field for field in of if field.kind is not IMAGE]
    return sorted(found, key=lambda field: field.stored == "beside")


def line_head(name: str, kind: str, doc: str = "") -> Code:
    yield f'class {name}(Struct, tag_field="kind", tag="{kind}", frozen=True, omit_defaults=True, gc=False):'
    if doc:
        yield f'    """{doc}"""'
        yield ""


def lines() -> Code:
    yield from line_head("EventLine", "event", "The columns of `events` in their order, the detections, and the face.")
    yield from line_fields(of_line(EVENT))
    yield "    stored: bool = True"
    yield ""
    yield ""
    yield from line_head("AmendmentLine", "amendment", "`camera_id` and so on are the event's, where it has come.")
    yield "    at: str"
    given = [field for field in EVENT if field.required]
    for field in given:
        yield f"    {field.name}: str" + (" | None = None" if field not in AMENDMENT else "")
    # What an amendment sets, and what the daemon does later.
    later = [field for field in EVENT if field.amendable or field.name == "thumbnail_path"]
    yield from line_fields(of_line(tuple(later)), keep_required=False)
    yield "    waiting: bool = False"
    yield "    producer_id: str | None = None"
    yield "    epoch: int | None = None"
    yield "    seq: int | None = None"
    yield "    stored: bool = True"
    yield ""
    yield ""
    yield from line_head("PersonLine", "person")
    for field in PERSON:
        is_open = field.name in ("id", "display_name")
        yield f"    {field.name}: {field.kind.line}{' | None' if is_open else ''}"
    yield "    stored: bool = True"
    yield ""
    yield ""
    yield from line_head("ObservationLine", "observation", "The columns of `observations` in their order.")
    yield from line_fields(list(OBSERVATION))
    yield "    stored: bool = True"


def event_line() -> Code:
    made = {"id": "row_id", "thumbnail_path": "thumbnail_path", "created_at": "now", "detections": "found"}
    yield "def event_line(r: EventRecord, row_id: int, thumbnail_path: str | None, now: str) -> EventLine:"
    yield '    """Of an event that was stored."""'
    yield "    found = [Box(d.label, d.confidence, d.bbox) for d in r.detections]"
    yield f"    return EventLine({', '.join(made.get(field.name, f'r.{field.name}') for field in of_line(EVENT))})"


def columns() -> Code:
    for name, of in (("Event", EVENT), ("Observation", OBSERVATION), ("Person", PERSON)):
        yield f"class {name}Columns(NamedTuple):"
        yield f'    """A row of `{name.lower()}s`; times and metadata are text. The id 0: it gets one."""'
        yield ""
        for field in of:
            if field.stored == "column":
                kind = "str" if field.kind is METADATA else field.kind.line
                is_open = not (field.required or field.name in ("id", "created_at", "alert_sent"))
                yield f"    {field.name}: {kind}{' | None' if is_open else ''}"
        yield ""
        yield ""
    for name, of in (("Event", EVENT), ("Observation", OBSERVATION)):
        more = {"id": "row_id", "created_at": "now", "metadata": "json_text(r.metadata) if r.metadata else None"}
        path = ""
        if name == "Event":
            more["thumbnail_path"], path = "thumbnail_path", ", thumbnail_path: str | None"
        yield f"def {name.lower()}_row(r: {name}Record, row_id: int{path}, now: str) -> tuple[Any, ...]:"
        yield f'    """The values of `{name}Columns`. A plain tuple: a batch has a thousand of them."""'
        values = [more.get(field.name, f"r.{field.name}") for field in of if field.stored == "column"]
        yield f"    return ({', '.join(values)})"
        yield ""
        yield ""


# -- the reference ---------------------------------------------------------------------------------------------------


def reference(name: str) -> Code:
    yield "| field | value | |"
    yield "|---|---|---|"
    for field in RECORDS[name]:
        if field.by_daemon or (name == "Amendment" and not field.amendable):
            continue
        notes = [
            field.doc,
            "required" if field.required else "",
            "not in an amendment" if name == "Event" and not field.amendable else "",
        ]
        yield f"| `{field.name}` | {field.kind.doc} | {'; '.join(note for note in notes if note)} |"


def table_of_filters() -> Code:
    yield "| filter | events | option |"
    yield "|---|---|---|"
    for one in FILTERS:
        yield f"| `{one.name}` | {one.doc} | `{one.option}` |"


def joined(*parts: Code) -> str:
    return "\n".join(line for part in parts for line in part).rstrip("\n") + "\n"


RECORDS_FILE, README = "clients/sightlog/records.py", "clients/README.md"
MADE: dict[str, dict[str, Callable[[], str]]] = {
    RECORDS_FILE: {name: lambda name=name: joined(record(name)) for name in RECORDS},
    "clients/sightlog/protocol/encoding.py": {"encoders": lambda: joined(*map(encoder, RECORDS))},
    "clients/sightlog/reader/filters.py": {"filters": lambda: joined(filters())},
    "daemon/sightlogd/protocol/decoder.py": {
        "structs": lambda: joined(*map(struct, RECORDS)),
        "checks": lambda: joined(*map(check, RECORDS)),
    },
    "daemon/sightlogd/daylogs/lines.py": {"lines": lambda: joined(lines()), "event_line": lambda: joined(event_line())},
    "daemon/sightlogd/store/columns.py": {"columns": lambda: joined(columns())},
    README: {
        "Filters": lambda: joined(table_of_filters()),
        **{name: lambda name=name: joined(reference(name)) for name in ("Event", "Observation", "Person")},
    },
}


def made(file: str) -> str:
    """The text of a file with its blocks made anew."""
    blocks = MADE[file]
    text = (ROOT / file).read_text(encoding="utf-8")
    there = [name for _, name, _, _ in BLOCK.findall(text)]
    if there != list(blocks):
        raise SystemExit(f"{file}: has the blocks {there}, expected {list(blocks)}")
    gap = "\n\n" if file.endswith(".py") and file != RECORDS_FILE else ""
    text = BLOCK.sub(lambda found: f"{found[1]}{gap}{blocks[found[2]]()}{gap}{found[4]}", text)
    if file.endswith(".py"):
        ruff = [sys.executable, "-m", "ruff", "format", "-q", "--stdin-filename", str(ROOT / file), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    for file in MADE:
        before, after = (ROOT / file).read_text(encoding="utf-8"), made(file)
        if before != after:
            (ROOT / file).write_text(after, encoding="utf-8")
            print(f"{file}: made anew")
