"""`Reader.similar`: nearest first, the same answer with sqlite-vec, with NumPy and with neither."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from array import array
from pathlib import Path

import apsw
import numpy as np
import pytest

import sightlog
from sightlog import Reader, UsageError
from sightlogd.store.opening import create

MOMENT = "2026-01-01T00:00:00.000Z"


class Vectors:
    """A database to write embeddings into, as the daemon would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        create(path, lambda: MOMENT)
        self._connection = apsw.Connection(str(path))
        self._last = 0

    def face(self, numbers, *, site="default", model="m", version=None):
        self._last += 1
        self._connection.execute(
            "INSERT INTO events (id, event_id, site, camera_id, recorded_at, event_type, created_at) "
            "VALUES (?, ?, ?, 'door', ?, 'motion', ?)",
            (self._last, f"e{self._last}", site, MOMENT, MOMENT),
        )
        self._connection.execute(
            "INSERT INTO face_embeddings VALUES (?, ?, ?, ?, ?)",
            (self._last, site, array("f", numbers).tobytes(), model, version),
        )
        return f"e{self._last}"

    def observation(self, numbers, *, site="default", model="m", version=None, about=None):
        self._last += 1
        self._connection.execute(
            "INSERT INTO observations (id, observation_id, site, recorded_at, event_id, content, source, embedding, "
            "embedding_model, embedding_version, created_at) VALUES (?, ?, ?, ?, ?, 'x', 'vlm', ?, ?, ?, ?)",
            (self._last, f"o{self._last}", site, MOMENT, about, array("f", numbers).tobytes(), model, version, MOMENT),
        )
        return f"o{self._last}"


@pytest.fixture
def vectors(tmp_path):
    vectors = Vectors(tmp_path / "events.db")
    yield vectors
    vectors._connection.close()


@pytest.fixture
def reader(vectors):
    with Reader(vectors.path) as reader:
        yield reader


def names(hits):
    return [hit.event.event_id if hit.observation is None else hit.observation.observation_id for hit in hits]


def test_nearest_first_of_observations_and_faces(vectors, reader):
    opposite = vectors.observation([-1, 0])
    same = vectors.face([5, 0])
    askew = vectors.observation([1, 1], about=same)
    across = vectors.face([0, 2])
    hits = reader.similar([1, 0])
    assert names(hits) == [same, askew, across, opposite]
    assert [hit.distance for hit in hits] == pytest.approx([0, 1 - math.sqrt(0.5), 1, 2], abs=1e-12)
    assert hits[1].event.event_id == same
    assert hits[3].event is None
    assert {hit.metric for hit in hits} == {"cosine"}
    assert names(reader.similar([1, 0], k=2)) == [same, askew]
    assert reader.similar([1, 0], k=0) == []


@pytest.mark.parametrize(
    "make", [list, tuple, lambda some: array("d", some), np.array, lambda some: np.array(some, "f4"), iter]
)
def test_a_query_is_any_row_of_numbers(vectors, reader, make):
    found = vectors.face([1, 2, 3])
    assert names(reader.similar(make([1.0, 2.0, 3.0]))) == [found]


def test_an_embedding_that_was_read_is_a_query(vectors, reader):
    found = vectors.observation([1, 2, 3])
    (hit,) = reader.similar(reader.get_observation(found).embedding)
    assert (names([hit]), hit.distance) == ([found], 0.0)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ([], "expected 1 to 8192"),
        ([math.nan, 1], "finite"),
        ([math.inf], "finite"),
        ([1e300], "finite"),
        ([0.0, 0.0], "no direction"),
        ([[1, 2], [3, 4]], "one dimension"),
        ("abc", "one dimension"),
        (7, "one dimension"),
        ([None], "one dimension"),
    ],
)
def test_a_query_that_is_none_is_told(reader, query, says):
    with pytest.raises(UsageError, match=says):
        reader.similar(query)


def test_what_cannot_be_compared_has_to_be_named(vectors, reader):
    one = vectors.face([1, 0], model="faces")
    with pytest.raises(UsageError, match=r"3 numbers, but there is faces \(2 numbers\)"):
        reader.similar([1, 0, 0])
    two = vectors.observation([1, 0], model="texts", version="1")
    with pytest.raises(UsageError, match=r"several models: faces \(2 numbers\), texts version 1 \(2 numbers\).*model="):
        reader.similar([1, 0])
    assert names(reader.similar([1, 0], model="faces")) == [one]
    assert names(reader.similar([1, 0], model="texts")) == [two]
    three = vectors.observation([1, 0], model="texts", version="2")
    with pytest.raises(UsageError, match=r"several versions: texts version 1 .*texts version 2 .*version="):
        reader.similar([1, 0], model="texts")
    assert names(reader.similar([1, 0], model="texts", version="2")) == [three]
    assert reader.similar([1, 0], model="unknown") == []
    assert reader.similar([1, 0], model="texts", version="3") == []


def test_embeddings_of_no_model_are_a_kind_too(vectors, reader):
    found = vectors.face([1, 0], model=None)
    assert names(reader.similar([1, 0])) == [found]
    vectors.observation([1, 0], model=None, version="2")
    with pytest.raises(UsageError, match=r"no model version 2 .*no model \("):
        reader.similar([1, 0])


def test_no_embeddings_are_no_hits(reader):
    assert reader.similar([1, 0]) == []


def test_only_the_site_s_own(vectors, reader):
    vectors.face([1, 0], site="shed", model="other")
    vectors.observation([1, 0], site="shed", model="m")
    ours = vectors.observation([0, 1], about="e1")
    (hit,) = reader.similar([1, 0])
    assert (names([hit]), hit.event) == ([ours], None)


SCRIPT = """
import json, sys
way, database, queries = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
if way == "plain":
    sys.modules["numpy"] = None
if way != "sqlite-vec":
    sys.modules["sqlite_vec"] = None
from sightlog import Reader
with Reader(database) as reader:
    hits = [hit for query in queries for hit in reader.similar(query, k=40)]
    found = [[(hit.observation or hit.event).id, hit.distance] for hit in hits]
    assert reader._vectors is (way == "sqlite-vec"), "sqlite-vec could not be loaded"
assert way != "numpy" or "numpy" in sys.modules, "NumPy was not asked for"
print(json.dumps(found))
"""


def python_with_extensions():
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(python, os.X_OK):
            able = "import sqlite3, sys; sys.exit(not hasattr(sqlite3.Connection, 'enable_load_extension'))"
            if subprocess.run([python, "-c", able], check=False).returncode == 0:
                return python
    pytest.fail("no Python here whose sqlite3 can load extensions: the one of Debian can (apt install python3)")


def places(*packages):
    found = [Path(sightlog.__file__).parents[1]]
    for package in packages:
        spec = importlib.util.find_spec(package)
        assert spec is not None, f"{package} is not installed: pip install sightlog[dev]"
        found.append(Path(spec.origin or next(iter(spec.submodule_search_locations))).parents[1])
    return os.pathsep.join(map(str, found))


def test_sqlite_vec_numpy_and_neither_give_the_same(vectors, tmp_path):
    chance = random.Random(7)

    def vector(scale=1.0):
        return [chance.gauss(0, scale) for _ in range(16)]

    queries = [vector() for _ in range(5)]
    vectors._connection.execute("BEGIN")
    for _ in range(300):
        vectors.observation(vector())
        vectors.face(vector(100))
    for _ in range(50):
        vectors.face(queries[0])  # the same distance: by id
        vectors.observation([number + chance.gauss(0, 1e-4) for number in queries[1]])  # too close for float32
        vectors.observation([0.0] * 16)
        vectors.observation([number * 1e-30 for number in queries[2]])
        vectors.observation([number * 1e30 for number in queries[3]])
    vectors._connection.execute("COMMIT")
    (tmp_path / "queries").write_text(json.dumps(queries))
    answers = {}
    for way, python in (
        ("plain", sys.executable), ("numpy", sys.executable), ("sqlite-vec", python_with_extensions())
    ):  # fmt: skip
        done = subprocess.run(
            [python, "-c", SCRIPT, way, vectors.path, tmp_path / "queries"],
            env={"PYTHONPATH": places("msgpack", "numpy", "sqlite_vec"), "PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers[way] = json.loads(done.stdout)
    assert len(answers["plain"]) == 5 * 40
    assert answers["numpy"] == answers["plain"]
    assert answers["sqlite-vec"] == answers["plain"]


def test_those_without_a_model_or_a_version_can_be_named(vectors, reader):
    plain = vectors.observation([1, 0], model=None)
    old = vectors.observation([1, 0])
    new = vectors.observation([1, 0], version="2")
    with pytest.raises(UsageError, match="several models"):
        reader.similar([1, 0])
    with pytest.raises(UsageError, match="several versions"):
        reader.similar([1, 0], model="m")
    assert names(reader.similar([1, 0], model="")) == [plain]
    assert names(reader.similar([1, 0], model="m", version="")) == [old]
    assert names(reader.similar([1, 0], model="m", version="2")) == [new]
