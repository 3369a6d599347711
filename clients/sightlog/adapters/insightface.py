"""insightface (ArcFace and its like)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sightlog.errors import UsageError

from .face import Face
from .values import box, same_length

METRIC: Final = "cosine"

Match = tuple[str | None, float]
"""(name, cosine distance): whom a face is nearest to, and how far that is; the name is None for a stranger."""


def from_insightface(
    faces: Iterable[Any], matches: Sequence[Match | None] | None = None, *, model: str, version: str | None = None
) -> list[Face]:
    """One `Face` of each that `FaceAnalysis(…).get(picture)` found, in their order.

    `matches` has a (name, cosine distance) for each of them, 1 - the cosine of its embedding and the known one's, or
    None where nobody was compared. insightface has no tolerance of its own: who is too far away you say, by None for
    the name. The detector's score is not taken: it says how sure a face is one, and not whose.

    `model` names the embeddings, such as "buffalo_l": it has no default, because those of different models must not be
    compared. They are stored as the network gives them.

    Raises UsageError when there are not as many matches as faces, InvalidRecord for a distance out of limits.
    """
    found = list(faces)
    whose = [None] * len(found) if matches is None else list(matches)
    same_length(faces=found, matches=whose)
    return [_face(face, match, model, version) for face, match in zip(found, whose, strict=True)]


def _face(face: Any, match: Match | None, model: str, version: str | None) -> Face:
    # An attribute that the detector did not set is None, whatever its name: hasattr is always true.
    if getattr(face, "bbox", None) is None:
        raise UsageError(f"expected the faces that FaceAnalysis.get returns, got {type(face).__name__} without a bbox")
    vector = face.embedding
    named = {"embedding": vector, "embedding_model": model, "embedding_version": version} if vector is not None else {}
    if match is None:
        return Face(None, bbox=box("bbox", face.bbox), **named)
    name, distance = match
    return Face(name, distance, METRIC, bbox=box("bbox", face.bbox), **named)
