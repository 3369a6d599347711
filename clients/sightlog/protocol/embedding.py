"""Embeddings as they travel and are stored: float32, little-endian, one after the other. No I/O."""

from __future__ import annotations

import math
from array import array
from typing import Final

from sightlog.errors import InvalidRecord
from sightlog.records import Embedding

from .limits import EMBEDDING_NUMBERS_MAX

EMBEDDING_BYTES_MAX: Final = 4 * EMBEDDING_NUMBERS_MAX


def pack(embedding: Embedding) -> bytes:
    """1 to 8,192 finite numbers, each rounded to the nearest float32. Raises InvalidRecord."""
    # NumPy's arrays, tensors and array.array give their numbers like this, many times faster than one by one.
    given = getattr(embedding, "tolist", None)
    try:
        if isinstance(embedding, (str, bytes, bytearray, memoryview)):
            raise TypeError
        numbers = array("f", given() if given is not None else embedding)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRecord(
            f"embedding={embedding!r:.80}: expected a sequence of numbers in one dimension, such as a list or an array"
        ) from None
    if not 0 < len(numbers) <= EMBEDDING_NUMBERS_MAX:
        raise InvalidRecord(f"embedding: {len(numbers)} numbers; expected 1 to {EMBEDDING_NUMBERS_MAX}")
    if not all(map(math.isfinite, numbers)):
        raise InvalidRecord("embedding: expected finite numbers that float32 can hold")
    return numbers.tobytes()


def unpack(packed: bytes) -> array[float]:
    """The numbers, exactly. Raises ValueError when `packed` is no whole number of them."""
    numbers = array("f")
    numbers.frombytes(packed)
    return numbers
