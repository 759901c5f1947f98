"""Full disks, failing encoders and interruptions leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media.writer import VideoWriter


def write(path: Path, images: np.ndarray, sound: np.ndarray) -> Path:
    with VideoWriter(path, 64, 64, Fraction(25), sound) as writer:
        for image in images:
            writer.write(image)
    return path


LIMITED = """
import resource, signal, sys
from fractions import Fraction
import numpy as np
from lipsync.errors import MediaError
from lipsync.media.writer import VideoWriter
path, limits = sys.argv[1], [int(text) for text in sys.argv[2:]]
images = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
sound = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with VideoWriter(path, 64, 64, Fraction(25), sound) as writer:
            for image in images:
                writer.write(image)
        print("whole", flush=True)
    except MediaError as error:
        print("error", str(error).replace(chr(10), "<newline>"), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are of Unix")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_disk_that_fills_up(tmp_path, suffix):
    """At whatever byte the disk is full: one line, no part, the older file."""
    path = tmp_path / f"out{suffix}"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    whole = write(path, images, sound).read_bytes()
    path.write_bytes(b"old")
    size = len(whole)
    limits = [0, 10, 1000, size // 3, size // 2, size - 3000, size - 900, size - 100, size - 1, size]
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), *map(str, limits)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == len(limits), run.stderr
    for line in lines[:-1]:
        assert line.startswith(f"error {path}: ")
        assert "<newline>" not in line
    assert lines[-1] == "whole"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == whole


class Failing:
    """A stream whose encoder gives up at a frame."""

    def __init__(self, stream, at: int, error: BaseException) -> None:
        self.stream, self.left, self.error = stream, at, error

    def encode(self, frame):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.stream.encode(frame)


def write_with_failure(path: Path, images, at: int, error: BaseException) -> None:
    with VideoWriter(path, 64, 48, Fraction(25), np.zeros(16000, np.float32)) as writer:
        writer._video = Failing(writer._video, at, error)
        for image in images:
            writer.write(image)


@pytest.mark.parametrize("at", [0, 5, 10])  # the first, in the middle, when the encoder is emptied
def test_an_encoder_that_fails_midway(tmp_path, pictures, at):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    images = [pictures[0](i) for i in range(10)]
    for error, shown in (
        (av.error.ExternalError(542398533, "Generic error in an external library"), MediaError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ):
        with pytest.raises(shown) as caught:
            write_with_failure(path, images, at, error)
        if shown is MediaError:
            assert str(caught.value) == f"{path}: writing failed (Generic error in an external library)"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
