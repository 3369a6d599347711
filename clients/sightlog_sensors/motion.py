"""Motion in a stream of frames: how much of the picture moves, and when that is worth an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cv2.typing import MatLike

WIDTH: Final = 320
"""Frames are scaled to this many pixels across before they are compared."""
WARM_UP_FRAMES: Final = 10
"""The background model only learns from these."""
CONTOUR_SHARE_MIN: Final = 0.001
"""A smaller contour, as a share of the picture, is noise."""
FULL_SHARE: Final = 0.1
"""So large a share of the picture in motion is confidence 1: somebody close to the camera."""
FOREGROUND: Final = 255
"""MOG2 marks what moves with 255 and shadows with 127."""


class MotionMeter:
    """MOG2 background subtraction."""

    def __init__(self) -> None:
        import cv2

        self._model = cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=25, detectShadows=True)
        self._kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
        self._seen = 0

    def confidence(self, frame: MatLike) -> float:
        """The share of an 8-bit BGR or grey frame (height, width[, 3]) that moves, over FULL_SHARE, in [0, 1]."""
        import cv2

        height: int = max(1, round(frame.shape[0] * WIDTH / frame.shape[1]))
        small = cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_AREA)
        mask = self._model.apply(small)
        self._seen += 1
        if self._seen <= WARM_UP_FRAMES:
            return 0.0
        _, moving = cv2.threshold(mask, FOREGROUND - 1, 255, cv2.THRESH_BINARY)
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, self._kernel)
        moving = cv2.dilate(moving, self._kernel, iterations=2)
        contours, _ = cv2.findContours(moving, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        shares = [float(cv2.contourArea(contour)) / (WIDTH * height) for contour in contours]
        moved = sum(share for share in shares if share >= CONTOUR_SHARE_MIN)
        return min(1.0, moved / FULL_SHARE)


class MotionGate:
    """When motion is an event: in two frames running, and not within `cooldown` seconds of the last event."""

    def __init__(self, threshold: float, cooldown: float) -> None:
        self._threshold = threshold
        self._cooldown = cooldown
        self.moved = False
        """Whether the last frame moved."""
        self.suppressed = False
        """Whether it was an event but for the cooldown."""
        self._closed_until = float("-inf")

    def passes(self, confidence: float, at: float) -> bool:
        """`at` is the frame's time in seconds on a clock that only goes forward."""
        moved_before, self.moved = self.moved, confidence >= self._threshold
        is_event = self.moved and moved_before
        self.suppressed = is_event and at < self._closed_until
        if not is_event or self.suppressed:
            return False
        self._closed_until = at + self._cooldown
        return True
