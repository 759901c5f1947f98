"""Drawn talking heads: one :class:`Portrait` a speaker, rendered per frame from pose and mouth shape.

Geometry is in head units: origin at the centre of the face, 1 = half the height of the face, y downwards.
Shapes are polygons moved by a similarity transform and drawn anti-aliased at twice the wanted size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.types import Box, Image

Points = npt.NDArray[np.float64]
Colour = tuple[float, float, float]

_OVERSAMPLING = 2
_SHIFT = 4  # fractional bits of cv2.fillPoly
_FACE_TOP, _FACE_BOTTOM = -0.85, 1.06  # face box as detectors draw it: forehead to below the chin
_MOUTH_Y = 0.52
_MAX_OPENING = 0.30
_JAW_DROP = 0.08

_SKINS = np.array([(196, 212, 240), (150, 180, 222), (108, 142, 196), (70, 100, 152), (52, 74, 118)], float)
_HAIRS = np.array([(28, 26, 30), (30, 48, 72), (60, 104, 150), (110, 170, 205), (150, 150, 155)], float)
_INSIDE: Colour = (28, 18, 40)
_TEETH: Colour = (216, 228, 236)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the head is in a frame and what the face does."""

    x: float
    """Centre of the face, pixels."""
    y: float
    scale: float
    """Pixels of one head unit."""
    roll: float = 0.0
    """Radians, clockwise on screen."""
    yaw: float = 0.0
    """Sideways shift of the features, head units."""
    aperture: float = 0.0
    """0 closed, 1 wide open."""
    rounding: float = 0.0
    """0 spread, 1 rounded."""
    eyelids: float = 1.0
    """0 shut, 1 open."""

    def place(self, points: Points) -> Points:
        """Head units ``(n, 2)`` -> pixels ``(n, 2)``."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned * self.scale + (self.x, self.y))


@dataclass(frozen=True, slots=True)
class Portrait:
    """Looks of one speaker: colours in BGR, lengths in head units."""

    skin: Colour
    lips: Colour
    hair: Colour
    clothes: Colour
    half_width: float
    jaw: float
    """Squareness of the jaw, 0.8 to 1.3."""
    hair_length: float
    eye_distance: float
    mouth_width: float
    lip_thickness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Portrait:
        """Random looks."""
        skin = _between(_SKINS, rng.uniform(0, len(_SKINS) - 1)) * rng.uniform(0.95, 1.05)
        lips = skin * (rng.uniform(0.5, 0.65), rng.uniform(0.5, 0.65), rng.uniform(0.88, 0.98))
        return cls(
            skin=_colour(skin),
            lips=_colour(lips),
            hair=_colour(_between(_HAIRS, rng.uniform(0, len(_HAIRS) - 1))),
            clothes=_colour(rng.uniform(40, 200, 3)),
            half_width=float(rng.uniform(0.70, 0.82)),
            jaw=float(rng.uniform(0.85, 1.25)),
            hair_length=float(rng.uniform(-0.1, 1.0)),
            eye_distance=float(rng.uniform(0.29, 0.35)),
            mouth_width=float(rng.uniform(0.28, 0.34)),
            lip_thickness=float(rng.uniform(0.06, 0.09)),
        )

    def render(self, background: Image, pose: Pose) -> Image:
        """The head over ``background`` ``(H, W, 3)``; same size, uint8 BGR."""
        height, width = background.shape[:2]
        canvas: Image = cv2.resize(
            background, (width * _OVERSAMPLING, height * _OVERSAMPLING), interpolation=cv2.INTER_LINEAR
        ).astype(np.uint8, copy=False)
        self._draw_head(canvas, pose)
        self._draw_features(canvas, pose)
        self._draw_mouth(canvas, pose)
        return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def face_box(self, pose: Pose) -> Box:
        """The box a detector would draw (the mouth does not move it), pixels."""
        return _bounds(pose, self.half_width * 0.98, _FACE_TOP, _FACE_BOTTOM)

    def mouth_box(self, pose: Pose) -> Box:
        """The region in which the mouth moves, pixels."""
        return _bounds(pose, self.mouth_width * 1.15, _MOUTH_Y - 0.25, _MOUTH_Y + 0.35)

    def landmarks(self, pose: Pose) -> npt.NDArray[np.float32]:
        """Eyes, nose tip, mouth corners ``(5, 2)`` in pixels, image left before image right."""
        eye, corner = self.eye_distance, self._mouth_half_width(pose)
        points = [(-eye, -0.15), (eye, -0.15), (0.0, 0.22), (-corner, _MOUTH_Y), (corner, _MOUTH_Y)]
        return pose.place(np.array(points) + np.array([pose.yaw, 0.0])).astype(np.float32)

    def _mouth_half_width(self, pose: Pose) -> float:
        return self.mouth_width * (1.0 - 0.42 * pose.rounding)

    def _draw_head(self, canvas: Image, pose: Pose) -> None:
        shade = _scaled(self.skin, 0.78)
        torso = np.array([(-1.5, 3.5), (-1.35, 1.65), (-0.45, 1.25), (0.45, 1.25), (1.35, 1.65), (1.5, 3.5)])
        still = Pose(pose.x, pose.y, pose.scale)
        hair = _ellipse(0, -0.12, self.half_width + 0.16, 1.05)
        fall = np.array([(-1.0, -0.1), (1.0, -0.1), (0.95, self.hair_length), (-0.95, self.hair_length)])
        _fill(canvas, pose, fall * (self.half_width + 0.14, 1.0), self.hair)
        _fill(canvas, still, torso, self.clothes)
        _fill(canvas, pose, np.array([(-0.38, 0.4), (0.38, 0.4), (0.42, 1.45), (-0.42, 1.45)]), shade)
        _fill(canvas, pose, hair, self.hair)
        for side in (-1, 1):
            _fill(canvas, pose, _ellipse(side * self.half_width, 0.02, 0.1, 0.2), shade)
        _fill(canvas, pose, self._face_outline(pose), self.skin)
        fringe = _ellipse(0, -0.78, self.half_width * 0.98, 0.3)
        _fill(canvas, pose, fringe, self.hair)

    def _face_outline(self, pose: Pose) -> Points:
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (1 / self.jaw) * self.half_width
        bottom = 1.0 + _JAW_DROP * pose.aperture
        y = np.where(np.sin(angle) > 0, np.sin(angle) * bottom, np.sin(angle))
        return np.stack([x, y], axis=1)

    def _draw_features(self, canvas: Image, pose: Pose) -> None:
        yaw = np.array([pose.yaw, 0.0])
        for side in (-1, 1):
            eye = side * self.eye_distance
            _fill(
                canvas, pose, _ellipse(eye, -0.15, 0.13, 0.065 * pose.eyelids + 0.008) + yaw, (235, 235, 235)
            )
            _fill(canvas, pose, _ellipse(eye, -0.15, 0.055, 0.055 * pose.eyelids) + yaw, (40, 40, 45))
            brow = np.array([(-0.17, -0.31), (0.0, -0.36), (0.17, -0.31), (0.17, -0.27), (-0.17, -0.27)])
            _fill(canvas, pose, brow + np.array([eye + pose.yaw, 0.0]), self.hair)
        nose = np.array([(-0.03, -0.1), (0.03, -0.1), (0.11, 0.24), (0.0, 0.28), (-0.11, 0.24)])
        _fill(canvas, pose, nose + yaw, _scaled(self.skin, 0.88))

    def _draw_mouth(self, canvas: Image, pose: Pose) -> None:
        """Lips, the dark inside, and a row of teeth and a tongue whose sizes go with the opening."""
        half = self._mouth_half_width(pose)
        opening = _MAX_OPENING * pose.aperture
        lip = self.lip_thickness * (1 + 0.35 * pose.rounding)
        center = np.array([pose.yaw, _MOUTH_Y])
        _fill(
            canvas,
            pose,
            _lens(half + 0.03, 0.4 * opening + lip, 0.6 * opening + 1.15 * lip) + center,
            self.lips,
        )
        seam = 0.012  # the line between closed lips
        _fill(canvas, pose, _lens(half * 0.9, 0.4 * opening + seam, 0.6 * opening + seam) + center, _INSIDE)
        if opening > 0.02:
            teeth = _lens(half * 0.78, 0.4 * opening, -0.22 * opening)
            _fill(canvas, pose, teeth + center, _TEETH)
            tongue = _lens(half * 0.6, -0.4 * opening, 0.6 * opening)
            _fill(canvas, pose, tongue + center, (44, 36, 72))


def draw_background(size: int, rng: np.random.Generator) -> Image:
    """A smooth coloured backdrop with a few blurred shapes, ``(size, size, 3)`` uint8."""
    coarse = rng.uniform(50, 210, (1, 1, 3)) + rng.normal(0, 28, (5, 5, 3))
    picture = cv2.resize(
        np.clip(coarse, 0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(4):
        corner = rng.uniform(0, size, 2)
        extent = rng.uniform(0.08, 0.3, 2) * size
        box = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * extent + corner
        colour = _colour(rng.uniform(30, 230, 3))
        cv2.fillPoly(picture, [np.round(box).astype(np.int32)], colour, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), size / 48), dtype=np.uint8)


def _fill(canvas: Image, pose: Pose, points: Points, colour: Colour) -> None:
    # Pixel centres lie at half-integers of the continuous coordinates, hence the half pixel.
    pixels = pose.place(points) * _OVERSAMPLING - 0.5
    fixed = np.round(pixels * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], colour, cv2.LINE_AA, _SHIFT)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def _lens(half_width: float, above: float, below: float) -> Points:
    """Outline with corners at ``+-half_width``, ``above`` up and ``below`` down in the middle."""
    x = np.linspace(-1, 1, 25)
    bulge = np.sqrt(1 - x**2) * (1 - 0.25 * x**2)
    upper = np.stack([half_width * x, -above * bulge], axis=1)
    lower = np.stack([half_width * x, below * bulge], axis=1)[::-1]
    return np.concatenate([upper, lower])


def _bounds(pose: Pose, half_width: float, top: float, bottom: float) -> Box:
    """Upright box around the turned rectangle's centre, with the rectangle's own size."""
    (x, y), *_ = pose.place(np.array([(pose.yaw / 2, (top + bottom) / 2)]))
    half_height = (bottom - top) / 2
    return Box(
        float(x - half_width * pose.scale),
        float(y - half_height * pose.scale),
        float(x + half_width * pose.scale),
        float(y + half_height * pose.scale),
    )


def _between(palette: npt.NDArray[np.float64], position: float) -> npt.NDArray[np.float64]:
    low = min(int(position), len(palette) - 2)
    return np.asarray(palette[low] + (palette[low + 1] - palette[low]) * (position - low))


def _scaled(colour: Colour, factor: float) -> Colour:
    return _colour(np.array(colour) * factor)


def _colour(values: npt.NDArray[np.float64]) -> Colour:
    blue, green, red = (float(value) for value in np.clip(values, 0, 255))
    return blue, green, red
