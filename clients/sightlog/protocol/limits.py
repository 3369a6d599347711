"""What a record and a message may hold at most. A producer checks it when it encodes, the daemon when it decodes."""

from __future__ import annotations

from typing import Final

# -- a record --------------------------------------------------------------------------------------------------------

ID_CHARS_MAX: Final = 128
"""Ids and names of sites, cameras, event types: characters at most."""
ID_PATTERN: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}"
"""Ids end up in file names, so: no path characters, no leading dot or dash."""
NAME_CHARS_MAX: Final = 256
"""Labels, names of people, paths: characters at most, none of what `text.is_harmful` finds."""
NAME_WITHOUT: Final = "no control characters, direction marks or line separators"
TEXT_CHARS_MAX: Final = 65_536
"""Descriptions and observations: characters at most, no NUL."""
EMBEDDING_NUMBERS_MAX: Final = 8_192
"""Numbers of one embedding: more than any model in use gives."""
METADATA_KEYS_MAX: Final = 32
"""Keys of one record's metadata; texts in it are bounded like names."""
DETECTIONS_MAX: Final = 1_000
"""Detections of one event, those that amendments add included."""
COORDINATE_MAX: Final = 1e9
"""Bound of a bbox coordinate in pixels: any finite picture fits, NaN and infinity do not."""
FACE_DISTANCE_MAX: Final = 1e6
"""Bound of a face distance, whatever its metric."""
RECORD_BYTES_MAX: Final = 256 * 1024
"""One record as it is sent, without its image."""
IMAGE_BYTES_MAX: Final = 4 * 1024 * 1024
INTEGER_MAX: Final = 2**63 - 1
"""SQLite's largest integer: no sequence number or epoch is larger."""
DOOR_ACTIONS: Final = ("unlocked", "locked", "none")

# -- a message -------------------------------------------------------------------------------------------------------

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""The body frame. A body with more than one record stays below this."""
MESSAGE_RECORDS_MAX: Final = 1_000
FRAME_BYTES_MAX: Final = IMAGE_BYTES_MAX
"""No frame of any kind is larger; the daemon's socket drops a peer that sends one."""
MESSAGE_IMAGES_MAX: Final = 64
FRAMES_MAX: Final = 2 + MESSAGE_IMAGES_MAX
"""Header, body, images."""

# -- telemetry -------------------------------------------------------------------------------------------------------

COUNTERS: Final = ("frames_processed", "motion_detected", "events_created", "events_suppressed")
INFERENCE_NAMES_MAX: Final = 16
INFERENCE_SAMPLES_MAX: Final = 100
"""Of one name between two reports; the newest are kept."""
INFERENCE_MS_MAX: Final = 1e9
