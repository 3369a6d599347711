"""The process that decodes: pictures from strangers in, JPEGs out. The daemon starts it; nothing imports it.

    python -m sightlogd.thumbnails.reencode INCOMING TARGET PIXELS_MAX BYTES_MAX

It says `ready`, then answers each line (the name of a file in INCOMING) with one line: `ok` when TARGET is that picture
as a JPEG, durable but for its name; `no REASON` when the picture cannot be decoded; `io REASON` when a file could not
be read or written. It ends with its standard input.

A decoder has bugs that the pictures know better than we do, so it is taken for granted that this process crashes,
hangs, eats memory and lies. It has limits of its own here; the daemon watches the clock, and believes it nothing.
"""

from __future__ import annotations

import ctypes
import io
import math
import os
import resource
import signal
import sys
import warnings
from typing import Final

# By name: Pillow would load the plugins of all formats when it misses one.
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

from .formats import FORMATS

QUALITY: Final = 85
PIXELS_DECODED_MAX: Final = 24_000_000
"""Of a whole picture, as the largest common cameras make them. Every pixel takes 4 bytes and more."""
MEMORY_BYTES_MAX: Final = 512 * 1024 * 1024
CPU_SECONDS_MAX: Final = 10
"""For one picture: what ends a loop, on a busy board later than the daemon's clock and without a daemon at all."""
REASON_CHARS_MAX: Final = 200
_PR_SET_PDEATHSIG: Final = 1
_ORIENTATION: Final = 0x0112
"""EXIF's tag; its values 2 to 8 say how the picture has to be turned."""
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def confine(bytes_max: int) -> None:
    """What this process may use, and when it has to end."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A stop of the service reaches this process too; it must not look as if the picture had killed it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(19)
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_FSIZE, bytes_max),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # when the machine runs out of memory, this before the daemon
    except OSError:
        pass
    Image.MAX_IMAGE_PIXELS = PIXELS_DECODED_MAX
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def renew_cpu_limit() -> None:
    """From now on CPU_SECONDS_MAX; SIGXCPU ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS_MAX, hard))


def reencode(data: bytes, pixels_max: int, bytes_max: int) -> bytes:
    """The first frame, upright, without metadata, as a JPEG within the limits. Raises anything for a broken picture."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        turn = _TURNS.get(_orientation(opened))
        opened.draft(None, (pixels_max, pixels_max))  # libjpeg can leave out what would be thrown away
        image = _with_plain_pixels(opened)
    image.thumbnail((pixels_max, pixels_max))
    image = _flat(image)
    if turn is not None:
        image = image.transpose(turn)
    image.info.clear()
    while True:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=QUALITY)
        if out.tell() <= bytes_max:
            return out.getvalue()
        longest = max(image.size) * 3 // 4
        image.thumbnail((longest, longest))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - broken metadata does not cost the picture
        return 1


def _with_plain_pixels(image: Image.Image) -> Image.Image:
    """In a mode that can be made smaller well: no palette, 8 bit, transparency as a channel."""
    if image.mode.startswith("I"):  # 16 bit grey; a plain conversion would cut off what is above 255
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode))


def _flat(image: Image.Image) -> Image.Image:
    """Grey or RGB; what is transparent becomes white, as on the page it was drawn for."""
    if image.mode == "RGBA":
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
        return flat
    return image if image.mode == "L" else image.convert("RGB")


def answer(source: str, target: str, pixels_max: int, bytes_max: int) -> str:
    """What to say to one request."""
    try:
        with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read()
    except OSError as error:
        return f"io {error}"
    try:
        encoded = reencode(data, pixels_max, bytes_max)
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
        return f"no {type(error).__name__}: {error}"
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "wb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"io {error}"
    return "ok"


def say(text: str) -> None:
    line = "".join(c if c.isprintable() else "?" for c in text[:REASON_CHARS_MAX])
    os.write(sys.stdout.fileno(), line.encode("ascii", "replace") + b"\n")


def main() -> None:
    incoming, target, pixels_max, bytes_max = sys.argv[1:]
    confine(int(bytes_max))
    say("ready")
    for line in sys.stdin.buffer:
        renew_cpu_limit()
        say(answer(os.path.join(incoming, line.decode().rstrip("\n")), target, int(pixels_max), int(bytes_max)))


if __name__ == "__main__":
    main()
