"""Small drawn videos with annotated faces, and a judge that records what it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

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
