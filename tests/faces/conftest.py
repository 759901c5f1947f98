from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from lipsync.types import Frame


@pytest.fixture(scope="session")
def clip(shared: Path) -> Callable[..., list[Frame]]:
    """``clip("raw/wild/x.mp4", count, step)`` -> frames of a real clip, one in ``step``."""

    def read(name: str, count: int, step: int = 1) -> list[Frame]:
        path = shared / "data" / name
        capture = cv2.VideoCapture(str(path))
        rate = capture.get(cv2.CAP_PROP_FPS)
        frames = []
        for index in range(count * step):
            ok, image = capture.read()
            if not ok:
                break
            if index % step == 0:
                frames.append(Frame(index, index / rate, image, path))
        assert len(frames) == count, f"{path} is too short"
        return frames

    return read
