"""Turn a face upright and to a fixed size by five points, and find the way back.

Points are pixels with ``(0, 0)`` in the middle of the first pixel, as OpenCV's warping counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
_Picture = TypeVar("_Picture", bound=npt.NDArray[Any])

ARCFACE_TEMPLATE: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
"""``(5, 2)`` pixels of a 112 x 112 picture: eyes (image left, image right), nose tip, mouth corners. Face
recognition networks (ArcFace and its kin, SFace) learn from faces put there."""

FFHQ_SIZE = 512
FFHQ_TEMPLATE: Floats = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.19360],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ],
    dtype=np.float32,
)
"""``(5, 2)`` pixels of a 512 x 512 picture, in the same order. Networks that restore faces (GFP-GAN, GPEN,
CodeFormer) learn from pictures laid out like those of FFHQ (Karras et al., "A Style-Based Generator
Architecture for Generative Adversarial Networks", 2019); the points are facexlib's."""

_FINEST = 16
"""Most samples a side that one pixel of a shrunk picture is averaged from."""


def similarity(points: npt.ArrayLike, template: npt.ArrayLike) -> Matrix:
    """The turn, scale and shift that bring ``points`` nearest to ``template``, in the sense of least squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, in two
    dimensions. Never a reflection: a mirrored face is turned, not flipped.

    Args:
        points: ``(n, 2)``, n >= 2, for instance :attr:`lipsync.types.Face.landmarks`.
        template: ``(n, 2)``, where they should come to lie, for instance ``ARCFACE_TEMPLATE``.

    Returns:
        ``(2, 3)`` float64 for :func:`transform` and :func:`warp`.

    Raises:
        ValueError: Other shapes, values that are not finite, or points that all coincide.
    """
    source, target = np.asarray(points, np.float64), np.asarray(template, np.float64)
    if source.ndim != 2 or source.shape != target.shape or source.shape[1] != 2:
        raise ValueError(f"need two arrays of (n, 2) points, got {source.shape} and {target.shape}")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("points must be finite")
    # As complex numbers a turn with scale is one factor, and least squares has a closed form for it.
    x, y = (points @ np.array([1, 1j]) for points in (source, target))
    centred, wanted = x - x.mean(), y - y.mean()
    spread = float(np.sum(np.abs(centred) ** 2))
    if spread <= 1e-12 * (1 + float(np.sum(np.abs(x) ** 2))):
        raise ValueError("the points coincide")
    factor = np.sum(np.conj(centred) * wanted) / spread
    shift = y.mean() - factor * x.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def inverse(matrix: npt.ArrayLike) -> Matrix:
    """``(2, 3)``: the affine map that undoes ``matrix``.

    Raises:
        ValueError: Another shape, or a map that cannot be undone.
    """
    forward = np.asarray(matrix, np.float64)
    if forward.shape != (2, 3):
        raise ValueError(f"need a (2, 3) matrix, got {forward.shape}")
    if abs(np.linalg.det(forward[:, :2])) < 1e-12:
        raise ValueError("the map flattens the picture and cannot be undone")
    back = np.linalg.inv(forward[:, :2])
    return np.hstack([back, -back @ forward[:, 2:]])


def transform(points: npt.ArrayLike, matrix: npt.ArrayLike) -> Floats:
    """Where ``matrix`` ``(2, 3)`` puts the points ``(..., 2)``; float32 of the same shape."""
    affine = np.asarray(matrix, np.float64)
    return (np.asarray(points, np.float64) @ affine[:, :2].T + affine[:, 2]).astype(np.float32)


def resized(matrix: npt.ArrayLike, factor: float) -> Matrix:
    """``(2, 3)``: ``matrix`` followed by a resize of the picture by ``factor``, pixels taken as areas."""
    scaled = np.asarray(matrix, np.float64) * factor
    scaled[:, 2] += (factor - 1) / 2
    return scaled


def warp(
    image: _Picture,
    matrix: npt.ArrayLike,
    size: int | tuple[int, int],
    fill: Sequence[float] = (0, 0, 0),
    enlarge: int = cv2.INTER_LINEAR,
) -> _Picture:
    """The picture that ``matrix`` makes of the image: interpolated, and averaged where it is shrunk.

    A network's small input taken from a large face by bilinear sampling alone would skip pixels, and flicker.

    Args:
        image: ``(H, W, 3)`` uint8, or ``(H, W)`` float32.
        matrix: ``(2, 3)``, from pixels of the image to pixels of the result.
        size: Side of the result, or ``(width, height)``.
        fill: Colour of what lies outside the image.
        enlarge: OpenCV's interpolation where the image is not shrunk.

    Returns:
        ``(height, width, 3)`` or ``(height, width)``, as the image.
    """
    width, height = (size, size) if isinstance(size, int) else size
    affine = np.asarray(matrix, np.float64)
    scale = math.sqrt(abs(float(np.linalg.det(affine[:, :2]))))
    finer = min(_FINEST, max(1, math.ceil(1 / scale - 1e-6))) if scale > 0 else 1
    sampled = cv2.warpAffine(
        image,
        # The centres of the finer grid's pixels: those of one pixel lie evenly around its own.
        resized(affine, finer),
        (width * finer, height * finer),
        flags=cv2.INTER_LINEAR if finer > 1 else enlarge,
        borderValue=tuple(fill),
    )
    if finer > 1:
        sampled = cv2.resize(sampled, (width, height), interpolation=cv2.INTER_AREA)
    return cast(_Picture, np.asarray(sampled, dtype=image.dtype))
