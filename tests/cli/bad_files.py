"""Good and bad media and weight files for the tests of the commands."""

from __future__ import annotations

import json
import os
import pickle
import wave
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipsync.media.writer import VideoWriter

BOX = [30, 30, 80, 90]


class Payload:
    """Makes a file when a careless loader unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def video(path: Path, frames: int = 30, seconds: float | None = 1.2, faces: bool | None = True) -> Path:
    """A clip of noise with ``seconds`` of sound (None: no stream) and annotated faces (False: none found)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sound = None
    if seconds is not None:
        sound = (rng.standard_normal(round(16000 * seconds)) * 0.1).astype(np.float32)
    with VideoWriter(path, 128, 120, Fraction(25), sound, preset="ultrafast") as writer:
        for _ in range(frames):
            writer.write(rng.integers(0, 256, (120, 128, 3), dtype=np.uint8))
    if faces is not None:
        found = [[[*BOX, 0.9, None]]] if faces else [[]]
        path.with_suffix(".faces.json").write_text(json.dumps({"fps": "25/1", "faces": found * frames}))
    return path


def sound(path: Path, samples: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        noise = np.random.default_rng(1).integers(-9000, 9000, samples)
        file.writeframes(noise.astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good and bad media files by what they are."""
    folder = tmp_path_factory.mktemp("media")
    files = {
        "good": video(folder / "good.mp4"),
        "no sound": video(folder / "silent.mp4", seconds=None),
        "no face": video(folder / "landscape.mp4", faces=False),
        "speech": sound(folder / "speech.wav", 16000),
        "no samples": sound(folder / "empty.wav", 0),
        "folder": folder / "folder.mp4",
        "empty": folder / "nothing.mp4",
        "noise": folder / "noise.mp4",
        "cut off": folder / "cut.mp4",
        "text": folder / "text.wav",
        "missing": folder / "gone.mp4",
    }
    files["folder"].mkdir()
    files["empty"].touch()
    files["noise"].write_bytes(np.random.default_rng(0).bytes(5000))
    files["cut off"].write_bytes(files["good"].read_bytes()[:3000])
    files["text"].write_text("Dear Sir or Madam,\n")
    return files


@pytest.fixture(scope="module")
def bad_weights(weights: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weight files that must not be accepted as a generator or an expert."""
    folder = tmp_path_factory.mktemp("bad weights")
    files = {
        "missing": folder / "gone.pth",
        "folder": folder,
        "damaged": folder / "damaged.pth",
        "empty": folder / "empty.pth",
        "code": folder / "code.pth",
        "web page": folder / "page.pth",
        "no weights": folder / "list.pth",
    }
    files["damaged"].write_bytes(weights["generator"].read_bytes()[:-5000])
    files["empty"].touch()
    files["code"].write_bytes(pickle.dumps({"state_dict": Payload(folder / "it ran".replace(" ", "_"))}))
    files["web page"].write_text("<!DOCTYPE html><html>sign in</html>")
    torch.save([1, 2, 3], files["no weights"])
    return files


MEDIA_OF_FACE = ["folder", "empty", "noise", "cut off", "speech", "no face"]
MEDIA_OF_AUDIO = ["folder", "empty", "noise", "no samples", "no sound", "text"]
WEIGHTS = ["missing", "folder", "damaged", "empty", "code", "web page", "no weights"]


def assert_nothing_ran(bad_weights: Mapping[str, Path]) -> None:
    assert not (bad_weights["code"].parent / "it_ran").exists(), "the pickle's code ran"
