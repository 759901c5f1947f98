"""What a face detector is, and the ones that come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lipsync.faces.annotated import AnnotatedDetector
from lipsync.faces.mtcnn import MtcnnDetector
from lipsync.faces.s3fd import S3FDDetector
from lipsync.faces.yunet import YunetDetector
from lipsync.types import Face, Frame

__all__ = [
    "AnnotatedDetector",
    "FaceDetector",
    "MtcnnDetector",
    "RefindingDetector",
    "S3FDDetector",
    "YunetDetector",
]


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces in single frames; holds no memory of earlier ones."""

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        """Faces of each frame in that frame's pixels, highest score first; an empty list where none is.

        Boxes are not clipped to the image. The frames may differ in size.
        """
        ...


@runtime_checkable
class RefindingDetector(FaceDetector, Protocol):
    """A detector that is much quicker where it is told about where the faces are."""

    def refind(self, frame: Frame, faces: Sequence[Face]) -> list[Face | None]:
        """Where each of the faces is now, None where it is not found.

        Args:
            frame: Where they are looked for.
            faces: Where each of them is expected, in pixels of the frame.
        """
        ...
