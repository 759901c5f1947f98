"""Small clips for the tests of ``evaluate.py``, and what it writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from lipsync.media.writer import VideoWriter

Rows: TypeAlias = dict[str, dict[str, str]]
REPORT = ["report.html", "report.md", "scores.csv", "summary.json"]
FRAMES = 40


def clip(
    path: Path,
    frames: int = FRAMES,
    size: tuple[int, int] = (96, 96),
    *,
    fps: int = 25,
    sound: float | None = None,
    loudness: float = 0.1,
    faces: int = 1,
) -> Path:
    """A textured clip with ``sound`` seconds of noise (None: as long as the picture, 0: no stream).

    ``faces`` boxes are annotated side by side, the same in every frame.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(frames)
    seconds = frames / fps if sound is None else sound
    noise = (rng.standard_normal(round(16000 * seconds)) * loudness).astype(np.float32)
    width, height = size
    texture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    with VideoWriter(
        path, width, height, Fraction(fps), noise if seconds else None, preset="ultrafast"
    ) as out:
        for index in range(frames):
            image = texture.copy()  # the same scene throughout, with a mouth that moves
            image[height // 2 : height // 2 + 8, :] = 20 + 7 * (index * index % 29)
            out.write(image)
    step = width / max(1, faces)
    boxes = [[n * step + 2, 4, (n + 1) * step - 2, height - 4, 0.9 - 0.1 * n, None] for n in range(faces)]
    path.with_name(f"{path.stem}.faces.json").write_text(
        json.dumps({"fps": f"{fps}/1", "faces": [boxes] * frames})
    )
    return path


def rows(folder: Path, system: str = "videos") -> Rows:
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file) if row["system"] == system}


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def run(command: Any, weights: Mapping[str, Path]) -> Callable[..., Any]:
    """``run(videos=..., protocol=...)`` with a narrow expert as judge; the report goes to ``out``."""

    def call(*more: str, **changes: object) -> Any:
        given: dict[str, object] = {
            "output": "out",
            "judge": weights["cosine"],
            "detector": "annotated",
            "metrics": "lse",
            "protocol": "lrs",
            "device": "cpu",
        }
        return command("evaluate", *(f"{key}={value}" for key, value in {**given, **changes}.items()), *more)

    return call
