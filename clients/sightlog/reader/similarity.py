"""Embeddings that point the same way. Whoever calls holds the transaction."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from sightlog.errors import UsageError
from sightlog.protocol.embedding import pack, unpack
from sightlog.records import Embedding

from .rows import Connection

_MORE: Final = 32
"""Rows beyond k that are compared in double precision: float32 may have changed the order of so many at the end."""
_SAFE: Final = 1e-15
"""A number of this size, or its inverse, keeps its square in float32."""
_AT_ONCE: Final = 2_000
_TABLES: Final = (("observations", "id", "embedding IS NOT NULL"), ("face_embeddings", "event_id", "1"))
"""Table, its column with the id of an observation or event, and the condition of its partial index."""
_OF: Final = "FROM {0} INDEXED BY {0}_by_model WHERE site = ? AND {1}"
_LIKE: Final = "AND embedding_model IS ? AND embedding_version IS ? AND length(embedding) = ?"


class Kind(NamedTuple):
    """What embeddings can be compared with each other."""

    model: str | None
    version: str | None
    numbers: int

    def __str__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        return f"{'no model' if self.model is None else self.model}{version} ({self.numbers} numbers)"


def vector_of(embedding: Embedding) -> array[float]:
    """As it would be stored. Raises UsageError for what could not be, or has no direction."""
    numbers = unpack(pack(embedding))
    if not any(numbers):
        raise UsageError("the embedding is all zeros: it has no direction that others could be near to")
    return numbers


def kinds(connection: Connection, site: str) -> list[Kind]:
    """What the site has embeddings of."""
    found = {
        Kind(model, version, size // 4)
        for table, _, condition in _TABLES
        for model, version, size in connection.execute(
            f"SELECT DISTINCT embedding_model, embedding_version, length(embedding) {_OF.format(table, condition)}",
            (site,),
        )
    }
    return sorted(found, key=lambda kind: tuple(map(str, kind)))


def chosen(there: list[Kind], numbers: int, model: str | None, version: str | None) -> Kind | None:
    """The one kind that a vector of so many numbers is compared with; None: there is none of that model and version.

    A model or version None is any of them, "" is none. Raises UsageError, saying what is there, when there are several,
    or none has as many numbers.
    """
    of_model = [kind for kind in there if model in (None, kind.model or "")]
    if len({kind.model for kind in of_model}) > 1:
        raise UsageError(f"there are embeddings of several models: {_list(of_model)}. Name one with model=, '' is none")
    wanted = [kind for kind in of_model if version in (None, kind.version or "")]
    if len({kind.version for kind in wanted}) > 1:
        raise UsageError(f"there are several versions: {_list(wanted)}. Name one with version=, '' is none")
    fitting = [kind for kind in wanted if kind.numbers == numbers]
    if wanted and not fitting:
        raise UsageError(f"the embedding has {numbers} numbers, but there is {_list(wanted)}. Is it of the same model?")
    return fitting[0] if fitting else None


def _list(some: list[Kind]) -> str:
    return ", ".join(map(str, some))


def nearest(
    connection: Connection, site: str, kind: Kind, query: array[float], k: int, *, in_sqlite: bool
) -> list[tuple[float, int]]:
    """(1 - cos, id) of the k nearest, the smaller id first where they are equal.

    Measured quickly (by sqlite-vec where it is loaded, else NumPy, else one by one), then the first of them again, in
    double precision: so it is the same answer everywhere.
    """
    measure = _by_sqlite if in_sqlite else _by_numpy if _has_numpy() else _one_by_one
    final: list[tuple[float, int]] = []
    for table, key, condition in _TABLES:
        source = f"{_OF.format(table, condition)} {_LIKE}"
        one = f"SELECT embedding FROM {table} WHERE {key} = ?"
        measured = measure(connection, key, source, one, (site, kind.model, kind.version, kind.numbers * 4), query)
        for _, number in heapq.nsmallest(k + _MORE, measured):
            final.append((_distance(query, _vector(connection, one, number)), number))
    return heapq.nsmallest(k, final)


_Measured = Iterator[tuple[float, int]]


def _vector(connection: Connection, query: str, number: int) -> array[float]:
    return unpack(connection.execute(query, (number,)).fetchone()[0])


def _by_sqlite(
    connection: Connection, key: str, source: str, one: str, of_kind: tuple[object, ...], query: array[float]
) -> _Measured:
    for distance, number in connection.execute(
        f"SELECT vec_distance_cosine(embedding, ?), {key} {source}", (_unit(query).tobytes(), *of_kind)
    ):
        if distance is not None and -0.01 < distance < 2.01 and distance != 1:
            yield distance, number
            continue
        # Tiny and huge numbers lose their squares in float32; what is at right angles is exactly 1 as well.
        vector = _vector(connection, one, number)
        largest = max(max(vector), -min(vector))
        if distance == 1 and _SAFE < largest < 1 / _SAFE:
            yield 1.0, number
        elif largest:
            yield _distance(query, vector), number


def _by_numpy(
    connection: Connection, key: str, source: str, _one: str, of_kind: tuple[object, ...], query: array[float]
) -> _Measured:
    import numpy as np

    vector = np.array(_unit(query), np.float64)
    rows = connection.execute(f"SELECT {key}, embedding {source}", of_kind)
    while some := rows.fetchmany(_AT_ONCE):
        matrix = np.frombuffer(b"".join(blob for _, blob in some), "<f4").reshape(len(some), -1).astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        directed = lengths > 0
        distances = 1 - (matrix[directed] @ vector) / lengths[directed]
        numbers = np.array([number for number, _ in some])[directed]
        yield from zip(distances.tolist(), numbers.tolist(), strict=True)


def _one_by_one(
    connection: Connection, key: str, source: str, _one: str, of_kind: tuple[object, ...], query: array[float]
) -> _Measured:
    for number, blob in connection.execute(f"SELECT {key}, embedding {source}", of_kind):
        vector = unpack(blob)
        if any(vector):
            yield _distance(query, vector), number


def _unit(query: array[float]) -> array[float]:
    length = math.hypot(*query)
    return array("f", (number / length for number in query))


def _distance(one: array[float], other: array[float]) -> float:
    """1 - cos, from 0 to 2, whatever the order of summation. Both have a direction."""
    lengths = math.sqrt(math.fsum(a * a for a in one)) * math.sqrt(math.fsum(b * b for b in other))
    return min(2.0, max(0.0, 1 - math.fsum(a * b for a, b in zip(one, other, strict=True)) / lengths))


def _has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True
