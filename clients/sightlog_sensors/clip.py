"""Draws the demo's clip: a known visitor and a stranger come to a door, one after the other, and look into the camera.

640x360 pixels, 10 frames a second, 20 seconds, MJPG. Nothing in it is a photograph; the proportions are such that
OpenCV's HOG detector takes the figures for people and its Haar cascade takes the faces for faces.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import process
from .picture import encode_jpeg
from .process import SensorError, Stop

if TYPE_CHECKING:
    from cv2.typing import MatLike

WIDTH: Final = 640
HEIGHT: Final = 360
FPS: Final = 10
SECONDS: Final = 20
KNOWN_NAME: Final = "Ada"

Colour = tuple[int, int, int]
"""Blue, green, red."""


@dataclass(frozen=True, slots=True)
class Looks:
    skin: Colour
    hair: Colour
    coat: Colour
    legs: Colour
    long_hair: bool = False
    glasses: bool = False
    beard: bool = False


ADA: Final = Looks((140, 165, 205), (30, 40, 55), (60, 50, 45), (50, 40, 35), long_hair=True)
STRANGER: Final = Looks((110, 135, 175), (20, 22, 25), (40, 45, 95), (45, 45, 45), glasses=True, beard=True)


@dataclass(frozen=True, slots=True)
class Visit:
    """Seconds of the clip: walking to the door, then in front of the camera."""

    looks: Looks
    walks: float
    looks_in: float
    leaves: float


VISITS: Final = (Visit(ADA, 1.5, 4.5, 8.0), Visit(STRANGER, 9.5, 13.0, 17.0))
WALK_FROM: Final = 40
WALK_TO: Final = 520
FIGURE_HEIGHT: Final = 220
FEET_Y: Final = 325


class Pen:
    """Draws in units of `size` pixels around (x, y); y grows downwards."""

    def __init__(self, image: MatLike, x: float, y: float, size: float) -> None:
        self._image = image
        self._x, self._y, self._size = x, y, size

    def _at(self, point: tuple[float, float]) -> tuple[int, int]:
        return round(self._x + point[0] * self._size), round(self._y + point[1] * self._size)

    def _long(self, length: float) -> int:
        return max(1, round(length * self._size))

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour, width: float) -> None:
        import cv2

        cv2.line(self._image, self._at(start), self._at(end), colour, self._long(width), cv2.LINE_AA)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        import cv2
        import numpy as np

        cv2.fillPoly(self._image, [np.array([self._at(point) for point in points], np.int32)], colour, cv2.LINE_AA)

    def ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: Colour,
        *,
        upper_half: bool = False,
        outline: float | None = None,
    ) -> None:
        import cv2

        axes = self._long(radii[0]), self._long(radii[1])
        start = 180 if upper_half else 0
        width = cv2.FILLED if outline is None else self._long(outline)
        cv2.ellipse(self._image, self._at(centre), axes, 0, start, 360, colour, width, cv2.LINE_AA)


def _shade(colour: Colour, factor: float) -> Colour:
    blue, green, red = (min(255, int(part * factor)) for part in colour)
    return blue, green, red


def draw_scene() -> MatLike:
    """A wall with a door, BGR (360, 640, 3). Plaster is a fixed noise: a flat wall would have no gradients."""
    import cv2
    import numpy as np

    image: MatLike = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:260] = (175, 185, 190)
    image[260:] = (120, 125, 130)
    cv2.rectangle(image, (470, 70), (570, 262), (70, 90, 120), cv2.FILLED)
    cv2.rectangle(image, (470, 70), (570, 262), (50, 60, 80), 3)
    cv2.circle(image, (556, 170), 4, (60, 200, 220), cv2.FILLED)
    plaster = np.random.default_rng(1).normal(0, 4, (HEIGHT // 4, WIDTH // 4)).astype(np.float32)
    scene: MatLike = np.clip(image + cv2.resize(plaster, (WIDTH, HEIGHT))[..., None], 0, 255).astype(np.uint8)
    return scene


def draw_figure(image: MatLike, x: float, phase: float, looks: Looks) -> None:
    """Somebody on foot at column `x`, in the middle of a step of `phase` radians."""
    pen = Pen(image, x, FEET_Y, FIGURE_HEIGHT)
    swing = math.sin(phase)
    for side in (1, -1):
        stride = 0.10 * swing * side
        knee = (side * 0.035 + stride * 0.6, -0.27)
        foot = (side * 0.04 + stride * 1.2, -0.03 - 0.02 * max(0.0, swing * side))
        pen.line((side * 0.045, -0.50), knee, looks.legs, 0.105)
        pen.line(knee, foot, looks.legs, 0.085)
        pen.line(foot, (foot[0] + 0.04, foot[1] + 0.01), (30, 30, 30), 0.05)
        elbow = (side * 0.145 - 0.035 * swing * side, -0.62)
        hand = (side * 0.14 - 0.07 * swing * side, -0.46)
        pen.line((side * 0.11, -0.78), elbow, looks.coat, 0.075)
        pen.line(elbow, hand, looks.coat, 0.065)
        pen.ellipse(hand, (0.03, 0.03), looks.skin)
    outline = [(-0.12, -0.80), (-0.06, -0.845), (0.06, -0.845), (0.12, -0.80), (0.105, -0.47), (-0.105, -0.47)]
    pen.polygon(outline, looks.coat)
    pen.line((0.0, -0.82), (0.0, -0.87), looks.skin, 0.06)
    pen.ellipse((0.0, -0.925), (0.055, 0.072), looks.skin)
    pen.ellipse((0.0, -0.955), (0.06, 0.05), looks.hair, upper_half=True)


def draw_face(image: MatLike, x: float, y: float, height: float, looks: Looks) -> None:
    """Somebody looking into the camera: a face `height` pixels tall around (x, y). The whole image is softened."""
    import cv2

    pen = Pen(image, x, y, height)
    dark, light = _shade(looks.skin, 0.72), _shade(looks.skin, 1.12)
    pen.ellipse((0.0, 1.02), (0.75, 0.42), looks.coat)
    pen.polygon([(-0.15, 0.35), (0.15, 0.35), (0.15, 0.72), (-0.15, 0.72)], dark)
    if looks.long_hair:
        pen.ellipse((0.0, 0.08), (0.48, 0.62), looks.hair)
    pen.ellipse((0.0, -0.06), (0.41, 0.52), looks.hair)
    for side in (-1, 1):
        pen.ellipse((side * 0.36, 0.03), (0.05, 0.10), dark)
    pen.ellipse((0.0, 0.04), (0.36, 0.47), looks.skin)
    pen.ellipse((0.0, -0.30), (0.31, 0.16), light)
    pen.ellipse((0.0, -0.47), (0.38, 0.17), looks.hair)
    for side in (-1, 1):
        eye = (side * 0.155, -0.06)
        pen.ellipse((side * 0.15, 0.13), (0.11, 0.09), light)
        pen.ellipse((side * 0.155, -0.07), (0.115, 0.075), dark)
        pen.ellipse(eye, (0.075, 0.034), (225, 230, 235))
        pen.ellipse(eye, (0.034, 0.036), (35, 35, 40))
        pen.line((side * 0.06, -0.145), (side * 0.25, -0.155), looks.hair, 0.04)
        if looks.glasses:
            pen.ellipse(eye, (0.115, 0.095), (25, 25, 25), outline=0.02)
    pen.ellipse((0.0, 0.04), (0.04, 0.16), light)
    pen.ellipse((0.0, 0.18), (0.075, 0.035), dark)
    for side in (-1, 1):
        pen.ellipse((side * 0.035, 0.195), (0.018, 0.012), (60, 70, 90))
    if looks.beard:
        pen.ellipse((0.0, 0.36), (0.29, 0.17), looks.hair)
    pen.ellipse((0.0, 0.31), (0.13, 0.035), (85, 85, 160))
    pen.line((-0.12, 0.305), (0.12, 0.305), (50, 50, 90), 0.014)
    # The cascade was trained on photographs: hard edges put it off.
    cv2.GaussianBlur(image, (0, 0), height * 0.012, dst=image)


def draw_frame(scene: MatLike, at: float) -> MatLike:
    """The clip's picture at `at` seconds, without the camera's noise."""
    image = scene.copy()
    for visit in VISITS:
        if visit.walks <= at < visit.looks_in:
            way = (at - visit.walks) / (visit.looks_in - visit.walks)
            draw_figure(image, WALK_FROM + (WALK_TO - WALK_FROM) * way, at * 7, visit.looks)
        elif visit.looks_in <= at < visit.leaves:
            near = min(1.0, at - visit.looks_in)
            draw_face(image, 300 + 40 * math.sin(at * 2), 190, 130 + 80 * near, visit.looks)
    return image


def draw_known() -> MatLike:
    """A picture of the known visitor, taken at another time: other size, light and place than in the clip."""
    image = draw_scene()
    draw_face(image, 250, 180, 170, ADA)
    return (image * 0.85).astype(image.dtype)


def render(path: Path) -> None:
    """Write the clip; it appears whole or not at all. Raises SensorError."""
    import cv2
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise SensorError(f"cannot write {unfinished}: is the directory writable, and does the name end with .avi?")
    noise = np.random.default_rng(2)
    scene = draw_scene()
    for number in range(FPS * SECONDS):
        image = draw_frame(scene, number / FPS).astype(np.int16) + noise.integers(-3, 4, scene.shape, np.int16)
        writer.write(np.clip(image, 0, 255).astype(np.uint8))
    writer.release()
    os.replace(unfinished, path)


def _render(options: argparse.Namespace, _stop: Stop) -> None:
    render(options.output)
    if options.known:
        options.known.mkdir(parents=True, exist_ok=True)
        (options.known / f"{KNOWN_NAME}.jpg").write_bytes(encode_jpeg(draw_known()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sightlog_sensors.clip",
        description="Draws a clip of two visitors at a door, for the demo and for tests.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.avi", help="the clip")
    parser.add_argument(
        "--known", type=Path, metavar="DIR", help="also draw a picture of the visitor who is known here"
    )
    return process.run(parser, arguments, _render)


if __name__ == "__main__":
    sys.exit(main())
