"""What the decoder makes of pictures. It runs in a process of its own; here only its pure part does."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from pictures import BLUE, RED, bomb, encoded, is_near, jpeg, noise, opened, png
from PIL import Image

from sightlogd.thumbnails.formats import PictureLimits, check
from sightlogd.thumbnails.reencode import reencode

WHITE = (255, 255, 255)


def two_colours(size: tuple[int, int] = (80, 40)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def quality_of(data: bytes) -> list[int]:
    return Image.open(io.BytesIO(data)).quantization[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("size", [(80, 40), (2_000, 1_000), (1_000, 2_000)])
def test_every_format_becomes_a_jpeg_of_quality_85_within_the_limits(kind, size):
    data = reencode(encoded(two_colours(size), kind, **({"quality": 98} if kind == "JPEG" else {})), 640, 131_072)
    check(data, PictureLimits(640, 131_072))
    picture = opened(data)
    width, height = picture.size
    assert max(picture.size) == min(640, max(size))
    assert abs(width / height - size[0] / size[1]) < 0.01
    assert is_near(picture, (width // 4, height // 2), RED)
    assert is_near(picture, (3 * width // 4, height // 2), BLUE)
    assert quality_of(data) == quality_of(jpeg(quality=85))


def test_a_picture_of_too_many_bytes_gets_smaller_until_they_fit():
    data = reencode(encoded(noise((640, 640)), "PNG"), 640, 20_000)
    assert len(data) <= 20_000
    assert 50 < max(opened(data).size) < 640
    assert quality_of(data) == quality_of(jpeg(quality=85))
    assert len(reencode(encoded(noise((640, 640)), "PNG"), 16, 4_096)) <= 4_096


def test_what_is_transparent_becomes_white():
    clear = two_colours().convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    palette = two_colours().quantize(4)
    for data in (
        encoded(clear, "PNG"),
        encoded(clear, "WEBP", lossless=True),
        encoded(clear.convert("LA"), "PNG"),
        encoded(palette, "PNG", transparency=palette.getpixel((5, 5))),
    ):
        assert is_near(opened(reencode(data, 640, 131_072)), (5, 5), WHITE)


def test_16_bit_grey_cmyk_palettes_and_bits_keep_their_brightness():
    ramp = np.tile(np.linspace(0, 65_535, 256).astype(np.uint16), (16, 1))
    made = opened(reencode(encoded(Image.fromarray(ramp), "PNG"), 640, 131_072))
    assert [abs(made.convert("L").getpixel((x, 8)) - x) < 6 for x in (2, 64, 128, 192, 253)] == [True] * 5
    for data in (
        encoded(two_colours().convert("CMYK"), "JPEG"),
        encoded(two_colours().quantize(4), "PNG"),
        encoded(two_colours().quantize(4), "BMP"),
    ):
        assert is_near(opened(reencode(data, 640, 131_072)), (5, 5), RED)
    bits = encoded(Image.new("1", (40, 40), 1), "PNG")
    assert is_near(opened(reencode(bits, 640, 131_072)), (5, 5), WHITE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_upright_and_loses_its_metadata(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # its right side is up
    exif[0x010F] = "SECRET camera"
    options = {"exif": exif, **({"comment": b"SECRET"} if kind == "JPEG" else {})}
    data = reencode(encoded(two_colours((80, 40)), kind, **options), 640, 131_072)
    picture = opened(data)
    assert picture.size == (40, 80)
    assert is_near(picture, (20, 10), RED)
    assert is_near(picture, (20, 70), BLUE)
    assert b"SECRET" not in data
    assert not picture.getexif()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_does_not_cost_the_picture():
    data = encoded(two_colours(), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff", quality=85)
    assert is_near(opened(reencode(data, 640, 131_072)), (5, 5), RED)


def test_of_an_animation_the_first_frame_is_kept():
    later = Image.new("RGB", (80, 40), BLUE)
    for kind in ("WEBP", "PNG"):
        data = encoded(Image.new("RGB", (80, 40), RED), kind, save_all=True, append_images=[later, later])
        assert is_near(opened(reencode(data, 640, 131_072)), (5, 5), RED)


@pytest.mark.parametrize(
    "data",
    [
        bomb(),
        encoded(noise((64, 64)), "PNG")[:-200],
        encoded(noise((64, 64)), "JPEG")[:-200],
        png()[:40] + b"\xff" * 500,
        b"\x89PNG\r\n\x1a\n" + noise((300, 300)).tobytes(),
        encoded(two_colours(), "GIF"),
        encoded(two_colours(), "TIFF"),
        b"BM" + struct.pack("<IHHIIiiHHII", 99, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0),
        b"",
    ],
    ids=["bomb", "cut PNG", "cut JPEG", "damaged PNG", "noise", "GIF", "TIFF", "huge BMP", "nothing"],
)
def test_broken_and_hostile_pictures_raise(data, monkeypatch):
    import warnings

    from sightlogd.thumbnails import reencode as module

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", module.PIXELS_DECODED_MAX)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(Exception, match=r"."):
            reencode(data, 640, 131_072)
