"""What other libraries hand out, made into what sightlog takes. Imports them only when it is called, or not at all."""

from .face import Face
from .face_recognition import from_face_recognition
from .frame import thumbnail_from_frame
from .hailo import from_hailo
from .imx500 import from_imx500
from .insightface import from_insightface
from .supervision import from_supervision
from .ultralytics import from_ultralytics

__all__ = [
    "Face",
    "from_face_recognition",
    "from_hailo",
    "from_imx500",
    "from_insightface",
    "from_supervision",
    "from_ultralytics",
    "thumbnail_from_frame",
]
