"""Sharpness without a reference: cumulative probability of blur detection (CPBD).

Narvekar & Karam, "A No-Reference Image Blur Metric Based on the Cumulative Probability of Blur Detection
(CPBD)", IEEE Transactions on Image Processing 20(9), 2011. An edge of width w in a block whose just
noticeable blur is ``w_jnb`` wide is seen as blurred with probability ``P = 1 - exp(-(w / w_jnb) ** 3.6)``.
CPBD is the share of edge pixels with ``P <= 1 - 1/e``, where blur is not noticed: as P grows with w, that is
the share with ``w <= w_jnb``.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.types import Image

BLOCK = 64
"""Side of the blocks in pixels, about: sides that are no multiple are divided evenly."""
WIDTHS = (5, 3)
"""Just noticeable widths in pixels, of blocks of low and of high contrast."""
LOW_CONTRAST = 50
"""Grey levels between the darkest and the brightest pixel of a block, up to which its contrast is low."""
EDGE_SHARE = 0.002
"""A block with no greater share of edge pixels is smooth and does not count."""
MIN_SIDE = 16
"""Shortest side of a picture that is measured, pixels."""


def cpbd(picture: Image) -> float | None:
    """Sharpness in [0, 1]; falls with blur. None where the picture has no edge to measure.

    Edges are those along which the grey level changes from left to right (Sobel, threshold at twice the root
    mean square, thinned), their width is the way from the local minimum to the local maximum of the row
    (Marziliano et al., ICIP 2002). Differs from the authors' program in the edge threshold, and covers
    pictures that are no multiple of 64; noise and compression blocks have edges, too, and count as sharp.

    Args:
        picture: ``(H, W, 3)`` uint8 BGR.

    Raises:
        ValueError: A side is shorter than 16 pixels.
    """
    if min(picture.shape[:2]) < MIN_SIDE:
        raise ValueError(f"picture of {picture.shape[1]} x {picture.shape[0]} is too small for its sharpness")
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    rows, columns, rising = _edges(grey)
    widths = _widths(grey, rows, columns, rising)
    row_starts, column_starts = (_starts(side) for side in grey.shape)
    block_row = np.searchsorted(row_starts, rows, side="right") - 1
    block_column = np.searchsorted(column_starts, columns, side="right") - 1
    counts = np.zeros((len(row_starts), len(column_starts)), dtype=np.int64)
    np.add.at(counts, (block_row, block_column), 1)
    areas = np.outer(_sides(row_starts, grey.shape[0]), _sides(column_starts, grey.shape[1]))
    counted = (counts > EDGE_SHARE * areas)[block_row, block_column]
    if not counted.any():
        return None
    limits = np.where(_contrast(grey, row_starts, column_starts) <= LOW_CONTRAST, *WIDTHS)
    return float(np.mean((widths <= limits[block_row, block_column])[counted]))


def _edges(
    grey: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Rows and columns of edge pixels, and whether the grey level rises from left to right there."""
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3)
    strength = across * across
    edge = strength > 4 * np.mean(strength, dtype=np.float64)
    edge[:, 1:] &= strength[:, 1:] >= strength[:, :-1]
    edge[:, :-1] &= strength[:, :-1] > strength[:, 1:]
    edge &= np.abs(down) <= np.float32(np.tan(np.pi / 8)) * np.abs(across)  # within 22.5 degrees
    edge[:, [0, -1]] = False
    rows, columns = np.nonzero(edge)
    return rows, columns, across[rows, columns] > 0


def _widths(
    grey: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    rising: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """Steps of the monotonic run of grey levels around each edge pixel, at least one to either side."""
    signs = np.sign(np.diff(grey.astype(np.int16), axis=1)).astype(np.int8)
    position = np.arange(signs.shape[1], dtype=np.int32)
    changes = np.ones(signs.shape, dtype=bool)
    changes[:, 1:] = signs[:, 1:] != signs[:, :-1]
    first = np.maximum.accumulate(np.where(changes, position, 0), axis=1)
    changes[:, :-1] = changes[:, 1:]
    changes[:, -1] = True
    backwards = np.where(changes, position, signs.shape[1])[:, ::-1]
    last = np.minimum.accumulate(backwards, axis=1)[:, ::-1]
    wanted = np.where(rising, 1, -1)
    before, after = columns - 1, columns  # the differences to the left and to the right of the pixel
    left = np.where(signs[rows, before] == wanted, before - first[rows, before] + 1, 1)
    right = np.where(signs[rows, after] == wanted, last[rows, after] - after + 1, 1)
    return (left + right).astype(np.int64)


def _starts(side: int) -> npt.NDArray[np.intp]:
    """First pixel of every block along a side."""
    blocks = max(1, round(side / BLOCK))
    return (np.arange(blocks) * side) // blocks


def _sides(starts: npt.NDArray[np.intp], side: int) -> npt.NDArray[np.intp]:
    return np.diff(np.append(starts, side))


def _contrast(
    grey: npt.NDArray[np.uint8], rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> npt.NDArray[np.int64]:
    """Brightest minus darkest pixel of every block."""
    brightest = np.maximum.reduceat(np.maximum.reduceat(grey, rows, axis=0), columns, axis=1)
    darkest = np.minimum.reduceat(np.minimum.reduceat(grey, rows, axis=0), columns, axis=1)
    return brightest.astype(np.int64) - darkest
