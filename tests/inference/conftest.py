"""Small clips, speech and weights for the tests of inference."""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from inference_stubs import picture
from torch import nn

from lipsync.cli.infer import main
from lipsync.models.wav2lip import Wav2Lip


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_video(count, fps, name)``: a silent 128x120 H.264 clip of exactly ``count`` frames."""
    folder = tmp_path_factory.mktemp("clips")

    def make(count: int, fps: Fraction = Fraction(25), name: str | None = None) -> Path:
        path = folder / (name or f"clip_{count}_{fps.numerator}_{fps.denominator}.mp4")
        if path.exists():
            return path
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 128, 120, "yuv420p"
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture(scope="session")
def make_speech(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_speech(samples, rate, name)``: modulated noise as a mono 16-bit WAV."""
    folder = tmp_path_factory.mktemp("speech")

    def make(samples: int, rate: int = 16000, name: str | None = None) -> Path:
        path = folder / (name or f"speech_{samples}_{rate}.wav")
        time = np.arange(samples) / rate
        sound = np.sin(2 * np.pi * 180 * time) * (0.5 + 0.4 * np.sin(2 * np.pi * 4 * time))
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((sound * 20000).astype("<i2").tobytes())
        return path

    return make


@pytest.fixture(scope="session")
def generator(fill: Callable[..., nn.Module]) -> nn.Module:
    """A narrow generator whose weights let speech and face through to the output."""
    return fill(Wav2Lip(width=0.125))


@pytest.fixture(scope="session")
def checkpoint(generator: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow generator saved as the Wav2Lip trainer saves."""
    path = tmp_path_factory.mktemp("weights") / "narrow.pth"
    state = {"state_dict": generator.state_dict(), "optimizer": None, "global_step": 1, "global_epoch": 1}
    torch.save(state, path)
    return path


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """``run(*arguments)``: ``infer.py`` in this process -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call
