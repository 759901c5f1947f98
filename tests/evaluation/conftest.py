"""Small drawn videos with annotated faces, and a judge that records what it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clip_lists import NAMES
from watching import BOX

from lipsync.media.writer import VideoWriter

Corners = tuple[float, float, float, float]


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """``make_video(path, frames, size, fps, sound, faces)``: frame i has grey level ``20 + i % 200``.

    ``faces(i)`` gives the annotated corners of frame i; without it no annotation is written.
    """

    def make(
        path: Path,
        frames: int = 40,
        size: tuple[int, int] = (64, 48),
        *,
        fps: Fraction = Fraction(25),
        sound: bool = True,
        faces: Callable[[int], Iterable[Corners]] | None = None,
        level: Callable[[int], int] = lambda index: 20 + index % 200,
    ) -> Path:
        samples = int(16000 * frames / fps)
        waveform = (np.random.default_rng(frames).standard_normal(samples) * 0.1).astype(np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, *size, fps, waveform if sound else None, preset="ultrafast") as writer:
            for index in range(frames):
                writer.write(np.full((size[1], size[0], 3), level(index), dtype=np.uint8))
        if faces is not None:
            content = {
                "fps": str(fps),
                "faces": [[[*box, 0.99, None] for box in faces(index)] for index in range(frames)],
            }
            path.with_name(f"{path.stem}.faces.json").write_text(json.dumps(content))
        return path

    return make


class Recorder:
    """A judge that keeps every crop and waveform; its features are noise, one row a frame.

    No sound is too short for it and none ends: the picture decides how many rows count.
    """

    def __init__(self, view: str = "scene", size: int = 32) -> None:
        self.name, self.kind, self.sha256 = "recorder", "lse" if view == "scene" else "expert", "0" * 64
        self.view, self.size, self.vshift, self.padding = view, size, 15, 0.0
        self.crops: list[np.ndarray] = []
        self.waveforms: list[np.ndarray] = []

    def look(self, frames):
        self.crops.append(np.stack(list(frames)))
        yield from self._noise(len(self.crops), len(self.crops[-1])).split(7)

    def windows(self, waveform, start, stop, *, last=False):
        if start == stop:  # only asked whether it is long enough
            return torch.empty(0, 8)
        if start == 0:
            self.waveforms.append(waveform)
        number = next(n for n, known in enumerate(self.waveforms, 1) if known is waveform)
        return self._noise(-number, stop)[start:]

    def hear(self, windows):
        return windows

    def _noise(self, seed, rows):
        """The same first rows whatever their number."""
        rng = np.random.default_rng(abs(2 * seed) + (seed > 0))
        return torch.from_numpy(rng.standard_normal((rows, 8)).astype(np.float32))


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def make_textured():
    """``make(path, frames, size, faces, paint)``: texture with a face box; ``paint(i, image)`` changes it."""

    def make(path, frames=12, size=(96, 80), *, fps=Fraction(25), faces=lambda i: [BOX], paint=None, seed=0):
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        texture = cv2.GaussianBlur(noise, (0, 0), 1.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, *size, fps, None, crf=4, preset="ultrafast") as writer:
            for index in range(frames):
                image = texture.copy()
                if paint is not None:
                    paint(index, image)
                writer.write(image)
        if faces is not None:
            found = [[[*box, 0.99, None] for box in faces(index)] for index in range(frames)]
            path.with_name(f"{path.stem}.faces.json").write_text(
                json.dumps({"fps": str(fps), "faces": found})
            )
        return path

    return make


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """LRS2 layout: four clips of 10 to 13 frames, one of them as .mkv."""
    root = tmp_path_factory.mktemp("corpus")
    for number, name in enumerate(NAMES):
        make_video(root / "main" / f"{name}.{'mkv' if name == 'ben/1' else 'mp4'}", 10 + number, (32, 32))
    (root / "filelists").mkdir()
    (root / "filelists" / "test.txt").write_text("".join(f"{name} NF\n" for name in NAMES))
    return root
