"""Mutated media: whatever a file holds, it is read, or one line says why not; nothing hangs or crashes.

Run as a program (``python test_media_fuzz.py FOLDER FIRST COUNT``) it is the worker: it reads mutants of the
files of FOLDER under a limit of memory and writes one line of JSON for each, so that a hang or a crash of the
native libraries ends the worker, not the tests, and the last line names the seed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media.probe import has_audio, probe
from lipsync.media.reader import VideoReader
from lipsync.media.still import read_image
from lipsync.media.waveform import load_waveform

MEMORY = 4 << 30
"""Bytes of address space; libraries and threads alone take more than one gigabyte."""
SECONDS = 20.0
"""CPU time that one mutant may take; all take less than one."""
MOST_FRAMES = 20_000

KINDS: dict[str, tuple[str | None, str | None, int, dict[str, str]]] = {
    "a.mp4": ("libx264", "aac", 16000, {}),
    "front.mp4": ("libx264", "aac", 16000, {"movflags": "faststart"}),
    "fragments.mp4": ("libx264", "aac", 16000, {"movflags": "frag_keyframe+empty_moov"}),
    "a.mkv": ("libx264", "aac", 16000, {}),
    "lossless.mkv": ("ffv1", "pcm_s16le", 16000, {}),
    "a.webm": ("libvpx", "libopus", 48000, {}),
    "a.mpg": ("mpeg1video", "mp2", 44100, {}),
    "a.ts": ("mpeg2video", "mp2", 44100, {}),
    "h264.ts": ("libx264", "aac", 44100, {}),
    "a.avi": ("mpeg4", "libmp3lame", 44100, {}),
    "jpeg.avi": ("mjpeg", "pcm_s16le", 16000, {}),
    "a.mov": ("prores_ks", "pcm_s16le", 16000, {}),
    "a.flv": ("flv", "libmp3lame", 44100, {}),
    "a.wav": (None, "pcm_s16le", 16000, {}),
    "a.mp3": (None, "libmp3lame", 44100, {}),
    "a.flac": (None, "flac", 16000, {}),
    "a.m4a": (None, "aac", 16000, {}),
    "a.ogg": (None, "libopus", 48000, {}),
}
FORMATS = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}
PICTURES = (".png", ".jpg", ".bmp", ".webp", ".tif")


def write_originals(folder: Path) -> None:
    """One second of a moving picture and of a warbling tone in every container."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = np.asarray(cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC))
    for name, (video, sound, rate, options) in KINDS.items():
        with av.open(str(folder / name), "w", options=options) as container:
            streams = []
            if video is not None:
                stream = container.add_stream(video, rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, FORMATS.get(video, "yuv420p")
                stream.codec_context.gop_size = 8
                frames = [av.VideoFrame.from_ndarray(np.roll(picture, k, 1), "bgr24") for k in range(24)]
                streams.append((stream, frames))
            if sound is not None:
                stream = container.add_stream(sound, rate=rate)
                stream.codec_context.layout = "mono"
                t = np.arange(rate) / rate
                tone = 0.4 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 3 * t)
                frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), "fltp", "mono")
                frame.sample_rate = rate
                streams.append((stream, [frame]))
            for stream, items in streams:
                for item in (*items, None):
                    container.mux(stream.encode(item))
    for suffix in PICTURES:
        (folder / f"picture{suffix}").write_bytes(cv2.imencode(suffix, picture)[1].tobytes())


def mutate(data: bytearray, others: list[bytes], rng: np.random.Generator) -> bytearray:
    """One fault: flipped bits, cut off, a block emptied, copied, doubled or lost, numbers changed."""
    size = len(data)
    at = int(rng.integers(size))
    block = min(size - at, int(2 ** rng.uniform(0, np.log2(size))))
    kind = int(rng.integers(9))
    if kind == 0:
        for i in rng.integers(0, size, int(2 ** rng.uniform(0, 7))):
            data[i] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data = data[: at + 1]
    elif kind in (2, 3):
        data[at : at + block] = (b"\x00" if kind == 2 else b"\xff") * block
    elif kind == 4:
        start = int(rng.integers(size))
        data[at : at + block] = data[start : start + block]
    elif kind == 5:
        data[at:at] = data[at : at + block]
    elif kind == 6:
        del data[at : at + block]
    elif kind == 7:
        header = min(size, 1024)
        start = 0 if rng.random() < 0.6 else size - header  # MP4 and Matroska index at the end
        for i in rng.integers(start, start + header, int(2 ** rng.uniform(0, 5))):
            data[i] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    else:
        other = others[int(rng.integers(len(others)))]
        data = data[:at] + bytearray(other[int(rng.integers(len(other))) :])
    return data


def mutant(originals: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """Name and contents, from the seed alone."""
    rng = np.random.default_rng(seed)
    names = sorted(originals)
    name = names[seed % len(names)]
    data = bytearray(originals[name])
    for _ in range(int(rng.integers(1, 4))):
        if data:
            data = mutate(data, list(originals.values()), rng)
    return name, bytes(data)


def read_frames(path: Path, fps: Fraction | None) -> int:
    reader = VideoReader(path, fps)
    shape = (reader.info.height, reader.info.width, 3)
    times = []
    for frame in islice(reader, MOST_FRAMES):
        assert frame.image.shape == shape
        assert frame.image.dtype == np.uint8
        times.append(frame.time)
    assert times
    assert times[0] >= 0
    assert all(a <= b for a, b in pairwise(times))
    assert reader.corrupt_packets >= 0
    assert reader.missing_frames >= 0
    return len(times)


def read_sound(path: Path) -> int:
    waveform = load_waveform(path)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 1
    return waveform.size


READERS: dict[str, Callable[[Path], Any]] = {
    "probe": lambda path: str(probe(path).fps),
    "has_audio": has_audio,
    "native": lambda path: read_frames(path, None),
    "constant rate": lambda path: read_frames(path, Fraction(25)),
    "sound": read_sound,
    "image": lambda path: list(read_image(path).shape),
}


def attempt(path: Path, read: Callable[[Path], Any]) -> tuple[str, Any]:
    """``("read", result)``, ``("refused", message)`` or ``("failed", traceback)``."""
    try:
        return "read", read(path)
    except MediaError as error:
        message = str(error)
        one_line = message.startswith(str(path)) and "\n" not in message
        return ("refused" if one_line else "failed"), message
    except BaseException:
        return "failed", traceback.format_exc()


def work(folder: Path, first: int, count: int) -> None:
    """The worker: what stands in the folder, mutated with the seeds ``first`` to ``first + count - 1``."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    originals = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(first, first + count):
            name, data = mutant(originals, seed)
            path = Path(scratch) / f"mutant {seed}{Path(name).suffix}"
            path.write_bytes(data)
            print(json.dumps({"seed": seed, "name": name}), flush=True)
            started = time.process_time()
            outcomes = {reader: attempt(path, read) for reader, read in READERS.items()}
            seconds = time.process_time() - started
            print(
                json.dumps({"seed": seed, "name": name, "seconds": seconds, "outcomes": outcomes}), flush=True
            )
            path.unlink()


def run_batch(folder: Path, first: int, count: int, timeout: float) -> Counter[tuple[str, str]]:
    """Start a worker; every fault fails the test with the seed. Returns the outcomes by reader."""
    command = [sys.executable, __file__, str(folder), str(first), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_LOG_LEVEL": "SILENT"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").decode().splitlines()
        pytest.fail(f"a reader hangs (or the batch is too large): {lines[-1] if lines else 'at the start'}")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0, (
        f"worker ended with {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]!r}"
    )
    results = [json.loads(line) for line in lines if "outcomes" in line]
    assert len(results) == count
    tally: Counter[tuple[str, str]] = Counter()
    for result in results:
        for reader, (outcome, detail) in result["outcomes"].items():
            assert outcome != "failed", f"seed {result['seed']} ({result['name']}), {reader}: {detail}"
            tally[reader, outcome] += 1
        assert result["seconds"] < SECONDS, f"seed {result['seed']} ({result['name']}): {result['seconds']} s"
    return tally


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_originals(folder)
    return folder


def test_originals_are_whole(originals):
    for path in originals.iterdir():
        video = path.name in KINDS and KINDS[path.name][0] is not None
        if video:
            reader = VideoReader(path, Fraction(25))
            assert sum(1 for _ in reader) in (24, 25)
            assert (reader.corrupt_packets, reader.missing_frames) == (0, 0)
        if path.name in KINDS:
            assert 0.95 * 16000 < load_waveform(path).size < 1.15 * 16000
        else:
            assert read_image(path).shape == (48, 64, 3)


def test_mutants(originals):
    tally = run_batch(originals, 0, 400, timeout=180)
    # the test is worth something only where many mutants are still read and many are refused
    for reader in ("native", "constant rate", "sound"):
        assert tally[reader, "read"] > 60
        assert tally[reader, "refused"] > 60
    assert tally["image", "read"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 18_000, 2000))
def test_many_mutants(originals, first):
    tally = run_batch(originals, first, 2000, timeout=900)
    assert tally["native", "read"] > 300


@pytest.mark.slow
@pytest.mark.shared
def test_mutants_of_real_clips(shared, tmp_path):
    names = ("grid_s1/bbaf2n.mpg", "wild/vox_224.mp4", "audio/speech_3.wav")
    for name in names:
        source = shared / "data/raw" / name
        (tmp_path / source.name).write_bytes(source.read_bytes())
    tally = run_batch(tmp_path, 0, 60, timeout=900)
    assert tally["native", "read"] > 10


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
