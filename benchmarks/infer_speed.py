"""Inference end to end at 720p: frames a second, where the time goes, peak memory; the original beside it.

    python benchmarks/infer_speed.py VIDEO AUDIO                              # float32 and bfloat16
    python benchmarks/infer_speed.py VIDEO AUDIO --detector yunet --weights face_detection_yunet_2023mar.onnx
    python benchmarks/infer_speed.py VIDEO AUDIO --enhancer lip --overrides enhancer.restorer.weights=FILE
    python benchmarks/infer_speed.py VIDEO AUDIO --long 3000 --json figures.json

The video is put onto a 1280 x 720 canvas and repeated to the wanted length. ``ours`` is what ``infer.py``
runs with the settings of ``configs/infer.yaml``, from file to file, networks loaded before; every run is a
process of its own. ``original`` is the sum of the steps of the original script, each timed on a few frames
(``reference_inference.py``). The generator is of full size with the weights of a seed: its time does not
depend on them. Memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from measuring import cpu_seconds, in_a_process, memory, reported
from reference_inference import reference_steps

from lipsync.checkpoints.progress import DownloadBar
from lipsync.cli.app import config_dir
from lipsync.cli.inference_parts import build_parts, build_pipeline
from lipsync.inference.timing import StageTime, stage_table
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform, save_wav
from lipsync.media.writer import VideoWriter
from lipsync.models.wav2lip import Wav2Lip
from lipsync.types import Image

FPS = Fraction(25)
WIDTH, HEIGHT = 1280, 720
RATE = 16000


class Job(NamedTuple):
    """One run."""

    video: str
    audio: str
    outfile: str
    overrides: list[str]
    """Of ``configs/infer.yaml``."""


def canvas(image: Image) -> Image:
    """The picture at the height of 720 pixels before an enlarged, blurred copy of itself.

    One face, then: mirrored sides would show parts of others.
    """
    height, width = image.shape[:2]
    fitted = np.asarray(cv2.resize(image, (round(width * HEIGHT / height), HEIGHT)), np.uint8)
    behind = cv2.GaussianBlur(cv2.resize(image, (WIDTH // 4, HEIGHT // 4)), (0, 0), 6)
    result = np.asarray(cv2.resize(behind, (WIDTH, HEIGHT)), np.uint8)
    shown = min(fitted.shape[1], WIDTH)
    left, cut = (WIDTH - shown) // 2, (fitted.shape[1] - shown) // 2
    result[:, left : left + shown] = fitted[:, cut : cut + shown]
    return result


def make_inputs(video: Path, audio: Path, frames: int, folder: Path) -> tuple[Path, Path]:
    """The video on its canvas and the sound, both repeated to ``frames`` frames."""
    face, speech = folder / f"face_{frames}.mp4", folder / f"speech_{frames}.wav"
    written = 0
    with VideoWriter(face, WIDTH, HEIGHT, FPS, preset="veryfast") as writer:
        while written < frames:
            for frame in VideoReader(video, FPS):
                if written < frames:
                    writer.write(canvas(frame.image))
                    written += 1
    save_wav(speech, np.resize(load_waveform(audio), frames * RATE // int(FPS)), RATE)
    return face, speech


def measure(job: Job) -> dict[str, Any]:
    """Run one job in this process."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("infer", job.overrides)
    with DownloadBar() as bar:
        pipeline = build_pipeline(cfg, build_parts(cfg, cfg.checkpoint, bar))
    started = cpu_seconds()
    report = pipeline.run(job.video, job.audio, job.outfile)
    return {
        "frames": report.frames,
        "seconds": report.seconds,
        "cpu": cpu_seconds() - started,
        "fps": report.frames / report.seconds,
        "memory": memory("VmHWM"),
        "precision": str(cfg.precision),
        "stages": [[stage.name, stage.seconds] for stage in report.stages],
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements."""
    torch.manual_seed(0)
    checkpoint = folder / "generator.pth"
    torch.save(Wav2Lip().state_dict(), checkpoint)
    fixed = [f"checkpoint={checkpoint}", f"detector={options.detector}", f"enhancer={options.enhancer}"]
    fixed += [f"detector.weights={options.weights}"] if options.weights else []
    face, speech = make_inputs(options.video, options.audio, options.frames, folder)

    def ours(precision: str, face: Path, speech: Path) -> dict[str, Any]:
        overrides = [*fixed, f"precision={precision}", *options.overrides]
        return in_a_process(__file__, Job(str(face), str(speech), str(folder / "out.mp4"), overrides))

    result: dict[str, Any] = {"rows": [ours(name, face, speech) for name in options.precision]}
    if options.long:
        result["long"] = ours(
            options.precision[-1], *make_inputs(options.video, options.audio, options.long, folder)
        )
    if options.original:
        result["original"] = reference_steps(face, options.original, min(64, options.frames))
    result["machine"] = (
        f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    original = sum(result["original"].values()) if "original" in result else None
    lines = [f"{'1280 x 720':<22}{'frames/s':>9}{'CPU ms':>8}{'wall ms':>9}{'MB':>7}{'':>9}"]
    if original is not None:
        lines.append(f"{'original':<22}{1 / original:>9.2f}{'':>8}{1000 * original:>9.0f}{'':>7}{'1x':>9}")
    for row in [*result["rows"], *([result["long"]] if "long" in result else [])]:
        name = f"ours, {row['precision']}, {row['frames']}"
        wall = row["seconds"] / row["frames"]
        ratio = "" if original is None else f"{original / wall:.0f}x"
        line = f"{name:<22}{row['fps']:>9.1f}{1000 * row['cpu'] / row['frames']:>8.1f}{1000 * wall:>9.1f}"
        lines.append(f"{line}{row['memory']:>7.0f}{ratio:>9}")
    if "long" in result:
        lines.append(
            f"memory, long against short: {result['long']['memory'] / result['rows'][-1]['memory']:.3f}"
        )
    for row in result["rows"]:
        stages = [StageTime(*stage) for stage in row["stages"]]
        lines += ["", f"stages, {row['precision']}", stage_table(stages, row["frames"], row["seconds"])]
    if original is not None:
        steps = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in result["original"].items())
        lines += ["", f"original, ms a frame: {steps}"]
    return "\n".join([*lines, result["machine"]])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("audio", nargs="?", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--long", type=int, default=0, help="frames of a second run, for memory")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--detector", default="default")
    parser.add_argument("--weights", default="", help="of the detector")
    parser.add_argument("--enhancer", default="none")
    parser.add_argument("--overrides", nargs="*", default=[], help="further settings of configs/infer.yaml")
    parser.add_argument("--original", type=int, default=3, help="frames for S3FD; 0: leave the original out")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.job and options.audio is None:
        parser.error("give a video and a sound")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    if options.job:
        print(json.dumps(measure(Job(*json.loads(options.job)))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return reported(lambda: run(options, Path(folder)), table, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
