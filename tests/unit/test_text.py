"""What no name may have and no output passes on: one table, for the client, the daemon and whatever prints."""

from __future__ import annotations

import csv
import json
from io import StringIO

import msgpack
import pytest

from sightlog import Amendment, Detection, Event, InvalidRecord, Observation, Person
from sightlog.cli.render.objects import csv_lines
from sightlog.protocol.encoding import encode_record
from sightlog.text import cell_safe, is_harmful, json_safe, lines_safe, printable
from sightlogd.daylogs.lines import EventLine, decode_line, encode_lines
from sightlogd.daylogs.text import entry
from sightlogd.protocol.decoder import Malformed, Refusal, decode_header, decode_record

HARMFUL = [
    *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u061c", "\u200e", "\u200f", "\u2028", "\u2029",
    "\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069", "\u206a", "\ufff9",
    "\U000e0001", "\U000e0041", "\U000e007f",
]  # fmt: skip
SOUND = [
    "Anna", "Zoë", "山田　太郎", "شاه\u200cرخ", "क्\u200dष", "👩\u200d👧", "❤\ufe0f", "דניאל", "e\u0301", "O'Brien",
    "a=b", "-5", "x\u00a0y", "=1", "…", "🫨",
]  # fmt: skip
WHEN = "2026-11-20T10:00:00.000Z"
IDS = {"event_id": "e", "site": "default"}
EVENT = {"kind": "event", **IDS, "camera_id": "front", "recorded_at": WHEN, "event_type": "motion"}
SEEN = {"kind": "observation", "observation_id": "o", "site": "default", "recorded_at": WHEN, "content": "x"}
FACE = {"embedding": b"\0\0\0\0"}
NAMES = {
    "label": lambda name: (Event("front", detections=[Detection(name, 0.5)]), {**EVENT, "detections": [[name, 0.5]]}),
    "person_name": lambda name: (Event("front", person_name=name), {**EVENT, "person_name": name}),
    "image_path": lambda name: (Event("front", image_path=name), {**EVENT, "image_path": name}),
    "amended": lambda name: (Amendment("e", person_name=name), {"kind": "amendment", **IDS, "person_name": name}),
    "metadata key": lambda name: (Event("front", metadata={name: 1}), {**EVENT, "metadata": {name: 1}}),
    "metadata": lambda name: (Event("front", metadata={"k": name}), {**EVENT, "metadata": {"k": name}}),
    "model": lambda name: (
        Event("front", embedding=[0], embedding_model=name), {**EVENT, **FACE, "embedding_model": name}
    ),
    "version": lambda name: (
        Event("front", embedding=[0], embedding_version=name), {**EVENT, **FACE, "embedding_version": name}
    ),
    "person": lambda name: (Person(name), {"kind": "person", "site": "default", "name": name}),
    "display_name": lambda name: (
        Person("p", name), {"kind": "person", "site": "default", "name": "p", "display_name": name}
    ),
    "source": lambda name: (Observation("x", name), {**SEEN, "source": name}),
}  # fmt: skip


@pytest.mark.parametrize("field", NAMES)
def test_a_name_that_acts_on_what_is_around_it_is_refused_by_client_and_daemon(field):
    for char in HARMFUL:
        record, packed = NAMES[field](f"a{char}b")
        with pytest.raises(InvalidRecord) as refused:
            encode_record(record)
        answer = decode_record(msgpack.packb(packed))
        assert isinstance(answer, Refusal), ascii(char)
        assert not is_harmful(f"{refused.value}")
        assert not is_harmful(answer.reason)


@pytest.mark.parametrize("field", NAMES)
def test_names_of_real_people_in_every_writing_are_taken(field):
    for name in SOUND:
        record, packed = NAMES[field](name)
        encode_record(record)
        assert not isinstance(decode_record(msgpack.packb(packed)), Refusal), name


def test_surrogates_are_refused():
    assert is_harmful("\ud800")
    with pytest.raises(InvalidRecord):
        encode_record(Event("front", person_name="a\ud800"))


@pytest.mark.parametrize("char", HARMFUL, ids=ascii)
def test_no_output_passes_it_on(char):
    text = f"a{char}b"
    event = EventLine(1, "e", "default", "front", WHEN, "motion", llm_description=text)
    lines = encode_lines([event, event])
    assert not is_harmful(lines.decode().replace("\n", ""))
    assert lines.count(b"\n") == 2
    assert [decode_line(line) for line in lines.splitlines()] == [event, event]
    shown = entry(event, "2026-11-20 10:00:00")
    assert not is_harmful(shown.replace("\n", ""))
    assert len(shown.splitlines()) == 3
    assert not is_harmful(printable(text))
    assert json.loads(json_safe(json.dumps([text], ensure_ascii=False))) == [text]
    assert not is_harmful(lines_safe(text).replace("\n", ""))
    assert not is_harmful(cell_safe(text).replace("\n", "").replace("\t", ""))


@pytest.mark.parametrize("char", HARMFUL, ids=ascii)
def test_a_reason_quotes_it_escaped(char):
    refused = decode_record(msgpack.packb({**EVENT, f"x{char}": 1}))
    assert isinstance(refused, Refusal)
    assert not is_harmful(refused.reason)
    with pytest.raises(Malformed) as malformed:
        decode_header(msgpack.packb({"kind": f"x{char}"}))
    assert not is_harmful(str(malformed.value))


@pytest.mark.parametrize(
    "text",
    [
        "=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\tx", "\rx", " =1", "\u00a0=1", '"=1', "'=1", '" =1',
        "＝1", "＋1", "－1", "＠x", "=cmd|'/c calc'!A0",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_cell_that_a_spreadsheet_would_take_for_a_formula_has_a_quote_before_it(text):
    (cell,) = list(csv.reader(StringIO("".join(csv_lines([{"a": text}])), newline="")))[1]
    assert cell.startswith("'")
    assert list(csv_lines([{"a": text}], raw=True))[1] in (f"{text}\r", '"' + text.replace('"', '""') + '"\r')


@pytest.mark.parametrize("text", ["a;=1", "a\t=1", "a\n=1", "a\r\n=1", 'a;"=1', "a; @x", "a\r=1"], ids=ascii)
def test_what_another_separator_would_make_a_cell_is_none_that_begins_a_formula(text):
    line = list(csv_lines([{"a": text}]))[1]
    for delimiter in ";\t,":
        for row in csv.reader(StringIO(line, newline=""), delimiter=delimiter):
            assert not any(cell.lstrip(" \"'") != cell.lstrip(' "') or cell.lstrip(' "')[:1] in "=+-@" for cell in row
                           if cell and not cell.lstrip(' "').startswith("'"))  # fmt: skip


@pytest.mark.parametrize("value", [-1.5, -1, 0.5, None, "Anna", "a=b", "a-b", "1 - 2", "a, b", "zwei\nZeilen", True])
def test_numbers_and_plain_texts_are_cells_as_they_are(value):
    assert list(csv_lines([{"a": value}]))[1] == list(csv_lines([{"a": value}], raw=True))[1]


def test_a_long_run_of_blanks_takes_no_long_time():
    for text in ("\n" * 65_536, " " * 65_536, '" ' * 32_768, "; " * 32_768, "'" * 65_536):
        assert len(cell_safe(text)) <= 65_537
