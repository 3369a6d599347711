"""What other libraries hand out, made into what sightlog takes. Imports them only when it is called."""

from .frame import thumbnail_from_frame

__all__ = ["thumbnail_from_frame"]
