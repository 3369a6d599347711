"""Which JPEG is kept as it is, without decoding it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, jpeg, jpeg_of, noise, opened
from PIL import Image

from sightlogd.thumbnails.formats import NotAcceptable, PictureLimits, check, size_of

GREY_FRAME = b"\x08\0\x08\0\x08\x01\x01\x11\0"
"""8 bit, 8 x 8 pixels, one component."""
LIMITS = PictureLimits(pixels_max=640, bytes_max=131_072)
PLAIN = jpeg(size=(40, 30))


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2) + body


def with_frame(frame: bytes) -> bytes:
    """PLAIN with another frame header."""
    at = PLAIN.index(b"\xff\xc0")
    return PLAIN[:at] + frame + PLAIN[at + 2 + int.from_bytes(PLAIN[at + 2 : at + 4]) :]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}, {"comment": b"x" * 65_533},
        {"exif": b"Exif\0\0" + b"\xff" * 99},
    ],
    ids=lambda options: next(iter(options), "baseline"),
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (333, 500)])
def test_what_a_camera_makes_is_acceptable_and_its_size_is_known(size, mode, options):
    data = encoded(noise(size).convert(mode), "JPEG", **options)
    assert size_of(data) == size


def test_what_opencv_makes_is_acceptable():
    cv2 = pytest.importorskip("cv2")
    import numpy as np

    assert size_of(cv2.imencode(".jpg", np.asarray(noise((100, 80))))[1].tobytes()) == (100, 80)


def test_limits_are_the_largest_that_is_taken():
    check(jpeg(size=(640, 10)), LIMITS)
    check(jpeg(size=(10, 640)), LIMITS)
    for size in ((641, 10), (10, 641)):
        with pytest.raises(NotAcceptable, match="at most 640"):
            check(jpeg(size=size), LIMITS)
    check(jpeg_of(131_072), LIMITS)
    with pytest.raises(NotAcceptable, match="131073 bytes; at most 131072"):
        check(jpeg_of(131_073), LIMITS)


@pytest.mark.parametrize(
    ("data", "why"),
    {
        "nothing": (b"", "not a JPEG"),
        "a fake": (b"\xff\xd8\xff\xe0 a picture \xff\xd9", "damaged or cut short"),
        "only its ends": (b"\xff\xd8\xff\xd9", "cut short"),
        "a PNG": (encoded(Image.new("RGB", (8, 8)), "PNG"), "not a JPEG"),
        "CMYK": (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "8 bit and 4 components"),
        "12 bit": (with_frame(segment(0xC0, b"\x0c\0\x08\0\x08\x01\x01\x11\0")), "12 bit and 1"),
        "lossless": (with_frame(segment(0xC3, GREY_FRAME)), "marker C3"),
        "arithmetic coding": (with_frame(segment(0xC9, GREY_FRAME)), "marker C9"),
        "no width": (with_frame(segment(0xC0, b"\x08\0\x08\0\0\x01\x01\x11\0")), "width or height"),
        "no frame": (with_frame(b""), "without its size"),
        "two frames": (with_frame(2 * segment(0xC0, GREY_FRAME)), "marker C0"),
        "a short frame": (with_frame(segment(0xC0, b"\x08\0")), "frame header"),
        "a long frame": (with_frame(segment(0xC0, GREY_FRAME + b"\0")), "frame header"),
        "no tables": (b"\xff\xd8" + segment(0xC0, GREY_FRAME) + segment(0xDA, b"x") + b"\x01\xff\xd9", "tables"),
        "bytes behind the end": (PLAIN + b"\0", "1 bytes behind"),
        "two pictures": (PLAIN + PLAIN, "bytes behind"),
        "an end and no scan": (PLAIN[: PLAIN.index(b"\xff\xda")] + b"\xff\xd9", "cut short"),
        "segments without end": (b"\xff\xd8" + b"\xff\xfe\0\2" * 30_000, "more than 1000 segments"),
        "a segment of no length": (b"\xff\xd8" + b"\xff\xfe\0\0" * 30_000, "damaged"),
    }.values(),
    ids=lambda value: None if isinstance(value, bytes) else value,
)  # fmt: skip
def test_anything_else_is_refused_with_the_reason(data, why):
    with pytest.raises(NotAcceptable, match=why):
        size_of(data)


def test_a_picture_cut_short_anywhere_is_refused():
    for length in range(len(PLAIN)):
        with pytest.raises(NotAcceptable):
            size_of(PLAIN[:length])


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: b"\xff\xd8\xff" + data))
def test_hostile_bytes_are_refused_and_nothing_else_happens(data):
    with contextlib.suppress(NotAcceptable):
        size_of(data)


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255), st.integers(0, 3))
def test_a_changed_picture_is_refused_or_says_a_size_that_a_decoder_agrees_with(at, value, skipped):
    data = PLAIN[:at] + bytes([value]) + PLAIN[at + skipped :]
    try:
        size = size_of(data)
    except NotAcceptable:
        return
    with contextlib.suppress(OSError):  # what is between the markers is not looked at
        assert opened(data).size == size


@pytest.mark.timeout(20)
@pytest.mark.parametrize("filler", [b"\xff", b"\xff\0", b"\xff\xd0", b"\xff\xfe\0\2"])
def test_bytes_made_to_keep_the_writer_busy_are_looked_at_once(filler):
    head = PLAIN[: PLAIN.index(b"\xff\xda")] + segment(0xDA, b"\x03\x01\0\x02\x11\x03\x11\0\x3f\0")
    # Looked at again from each byte, this would take hours.
    with pytest.raises(NotAcceptable):
        size_of(head + filler * (4 * 1024 * 1024 // len(filler)) + b"\0\0")
