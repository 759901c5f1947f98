"""LSE of a video on a CPU: a literal transcription of the published steps against ours, in one run.

    python benchmarks/lse_speed.py VIDEO...                               # protocol lrs, fp32 and bf16
    python benchmarks/lse_speed.py VIDEO... --protocol wild --detector yunet
    python benchmarks/lse_speed.py VIDEO... --protocol strict --seconds 10 --json out.json

``literal`` does what the published scripts do: an ffmpeg program writes every frame to a JPEG file, all of
them are read into a list, five-frame windows are cut one by one and embedded in batches of 20; for ``wild``
and ``strict`` S3FD looks at every frame at a quarter of its size first, and crop videos are written and read.
The tests hold our scores against the same transcription. ``ours`` is ``score_sounds`` with the protocol.
Every measurement is a process of its own; CPU time counts ffmpeg's too, and loading is left out.

The last rows are what an evaluation asks of a video: its own sound, another and its own shifted by up to ten
frames, 23 sounds. Ours is one pass; the published scripts score one sound a run: that run's time, times 23.

Networks have random weights: time does not depend on them. So the face is taken to be in the middle of the
frame whatever the detector finds. ``--detector`` adds rows of ours with another detector than S3FD.
Memory: peak above what the process held before, for the video and one four times as long. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from measuring import cpu_seconds, forget_peak, in_a_process, memory, reported

from lipsync.errors import UserError
from lipsync.evaluation.protocols import FPS, EvaluationProtocol, LrsProtocol, StrictProtocol, WildProtocol
from lipsync.evaluation.scoring import score_sounds
from lipsync.faces.detector import FaceDetector, S3FDDetector, YunetDetector
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter
from lipsync.metrics.judges import SyncNetJudge
from lipsync.models.lse_folded import PRECISIONS, FoldedLSESyncNet
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.models.s3fd import BGR_MEAN, S3FD
from lipsync.types import Box, Face, Frame, Waveform

TRANSCRIPTION = Path(__file__).resolve().parents[1] / "tests" / "evaluation" / "reference_lse.py"
LONGER = 4
RATE = 16000
WINDOWS = 40
"""Of the table of the network alone."""
SHIFTS = range(-10, 11)
SOUNDS = 2 + len(SHIFTS)


class Job(NamedTuple):
    """One measurement."""

    side: str
    """``literal`` or ``ours``."""
    video: str
    protocol: str
    precision: str = "float32"
    detector: str = "s3fd"
    weights: str = ""
    """Of that detector."""
    threads: int = 1
    sounds: int = 1
    """1, or :data:`SOUNDS`."""


class FixedFace:
    """Lets a detector look and then answers that the face is in the middle, 0.6 times the shorter side."""

    def __init__(self, detector: FaceDetector) -> None:
        self.detector = detector

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        """As a detector does."""
        self.detector.detect(frames)
        return [[Face(Box(*middle(*frame.image.shape[:2])), 1.0)] for frame in frames]


def middle(height: int, width: int) -> tuple[float, float, float, float]:
    """Corners of the box."""
    half = 0.3 * min(height, width)
    return (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)


def judge_network() -> LSESyncNet:
    """SyncNet v2 with the weights of a seed."""
    torch.manual_seed(0)
    return LSESyncNet().eval()


def transcription() -> Any:
    """The literal transcription, a file of the tests."""
    spec = importlib.util.spec_from_file_location("reference_lse", TRANSCRIPTION)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(TRANSCRIPTION)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def literal_score(steps: Any, job: Job, network: LSESyncNet, folder: Path) -> tuple[float, float]:
    """LSE-D and LSE-C, means over the tracks."""
    videos = [Path(job.video)]
    if job.protocol != "lrs":
        videos = steps.run_pipeline(videos[0], literal_detector(), folder / "pipeline")
    scores = [steps.evaluate(video, network, folder / f"{i}") for i, video in enumerate(videos)]
    return float(np.mean([s.distance for s in scores])), float(np.mean([s.confidence for s in scores]))


def literal_detector() -> Any:
    """S3FD on one frame at a quarter of its size, and the box that is taken for its answer."""
    torch.manual_seed(1)
    network = S3FD(layout="syncnet_python").eval()

    def detect(image: np.ndarray) -> list[tuple[float, float, float, float]]:
        small = cv2.resize(image, None, fx=0.25, fy=0.25)
        pixels = torch.from_numpy(small.astype(np.float32) - np.array(BGR_MEAN, np.float32))
        with torch.no_grad():
            network(pixels.permute(2, 0, 1)[None])
        return [middle(*image.shape[:2])]

    return detect


def our_protocol(job: Job, folder: Path) -> EvaluationProtocol:
    """The protocol with its detector."""
    if job.protocol == "lrs":
        return LrsProtocol()
    if job.detector == "yunet":
        detector: FaceDetector = YunetDetector(job.weights or "yunet")
    else:
        torch.manual_seed(1)
        torch.save(S3FD().state_dict(), folder / "s3fd.pth")
        info = VideoReader(Path(job.video)).info
        quarter = max(info.width, info.height) // 4
        detector = S3FDDetector(folder / "s3fd.pth", "cpu", max_side=quarter, min_score=0.9)
    return (WildProtocol if job.protocol == "wild" else StrictProtocol)(FixedFace(detector))


def our_score(job: Job, judge: SyncNetJudge, protocol: EvaluationProtocol) -> tuple[float, float]:
    """Distance and confidence with the video's own sound, which may be one of many."""
    own = protocol.load_sound(Path(job.video), judge)
    sounds = {str(number): sound for number, sound in enumerate(evaluation_sounds(own)[: job.sounds])}
    score = score_sounds(job.video, judge, protocol, sounds)["0"]
    if isinstance(score, UserError):
        raise score
    return score.distance, score.confidence


def evaluation_sounds(own: Waveform) -> list[Waveform]:
    """The sound, another one (its reverse), and its shifts as an evaluation makes them."""
    frame = RATE // int(FPS)
    padded = np.pad(own, frame * max(SHIFTS))
    moved = [padded[(max(SHIFTS) + shift) * frame :][: len(own)] for shift in SHIFTS]
    return [own, own[::-1].copy(), *moved]


def measure(job: Job) -> dict[str, Any]:
    """Run one job in this process: its score, CPU and wall seconds, peak memory in MB."""
    torch.set_num_threads(job.threads)
    cv2.setNumThreads(job.threads)
    network = judge_network()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if job.side == "literal":
            steps = transcription()
        else:
            judge = SyncNetJudge(network, precision="bfloat16" if job.precision == "bfloat16" else "float32")
            protocol = our_protocol(job, folder)
        forget_peak()
        held, cpu, start = memory("VmRSS"), cpu_seconds(), time.perf_counter()
        if job.side == "literal":
            distance, confidence = literal_score(steps, job, network, folder)
        else:
            distance, confidence = our_score(job, judge, protocol)
        seconds = time.perf_counter() - start
        return {
            **job._asdict(),
            "cpu": cpu_seconds() - cpu,
            "wall": seconds,
            "memory": memory("VmHWM") - held,
            "distance": distance,
            "confidence": confidence,
        }


def cut(video: Path, seconds: float, times: int, target: Path) -> int:
    """The first seconds of a video at 25 fps, repeated; gives the number of frames."""
    limit = max(int(seconds * FPS), 1)
    frames = []
    for frame in VideoReader(video, FPS):
        if frame.index == limit:
            break
        frames.append(frame.image)
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    sound = load_waveform(video, RATE)
    exact = np.zeros(len(frames) * RATE // int(FPS), dtype=np.float32)
    exact[: len(sound)] = sound[: len(exact)]
    with VideoWriter(
        target, width, height, Fraction(FPS), np.tile(exact, times), preset="veryfast"
    ) as writer:
        for _ in range(times):
            for image in frames:
                writer.write(np.ascontiguousarray(image[:height, :width]))
    return len(frames) * times


def network_alone(threads: int, rounds: int = 3) -> list[dict[str, Any]]:
    """Milliseconds of CPU a window of both streams, literal windows in batches of 20 and ours."""
    torch.set_num_threads(threads)
    network = judge_network()
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (WINDOWS + 4, 224, 224, 3), dtype=np.uint8))
    mfcc = torch.from_numpy(rng.standard_normal((WINDOWS, 1, 13, 20)).astype(np.float32))
    pixels = frames.permute(3, 0, 1, 2).float()

    def literal() -> None:
        for start in range(0, WINDOWS, 20):
            network.forward_lip(torch.stack([pixels[:, i : i + 5] for i in range(start, start + 20)]))
            network.forward_aud(mfcc[start : start + 20])

    def timed(function: Any) -> float:
        best = float("inf")
        for _ in range(rounds):
            start = time.process_time()
            function()
            best = min(best, time.process_time() - start)
        return best * 1000 / WINDOWS

    rows = [{"form": "literal, float32", "ms": timed(literal)}]
    with torch.inference_mode():
        for precision in PRECISIONS:
            folded = FoldedLSESyncNet(network, precision)

            def ours(folded: FoldedLSESyncNet = folded) -> None:
                for start in range(0, WINDOWS, 20):
                    folded.look(frames[start : start + 24])
                folded.hear(mfcc)

            rows.append({"form": f"ours, {precision}", "ms": timed(ours)})
    return rows


def jobs(video: Path, options: argparse.Namespace) -> list[Job]:
    """What is measured of one video, the literal transcription first."""
    ours = [
        Job("ours", str(video), options.protocol, precision, threads=options.threads)
        for precision in options.precision
    ]
    if options.detector and options.protocol != "lrs":
        more = {"detector": options.detector, "weights": options.weights}
        ours += [job._replace(**more) for job in ours]
    single = [Job("literal", str(video), options.protocol, threads=options.threads), *ours]
    return single + [job._replace(sounds=SOUNDS) for job in single]


def run_of(job: Job, long: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What one job takes, and the memory of the same with the longer video."""
    row = in_a_process(__file__, job)
    if options.longer > 1:
        row["memory_longer"] = in_a_process(__file__, job._replace(video=str(long)))["memory"]
    return row


def compare(videos: Sequence[Path], options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All measurements of all videos, one row for each way to score one."""
    rows = []
    for number, video in enumerate(videos):
        short, long = (folder / f"{number}_{kind}.mp4" for kind in ("short", "long"))
        frames = cut(video, options.seconds, 1, short)
        cut(video, options.seconds, options.longer, long)
        found: list[dict[str, Any]] = []
        for job in jobs(short, options):
            if job.side == "literal" and job.sounds > 1:  # as many runs of the same kind: not run again
                times = {key: job.sounds * found[0][key] for key in ("cpu", "wall")}
                row = {**found[0], **times, "sounds": job.sounds}
            else:
                row = run_of(job, long, options)
            found.append({**row, "video": video.name, "frames": frames})
        for row in found:
            row["ratio"] = row["sounds"] * found[0]["cpu"] / row["cpu"]
        rows += found
    return rows


def report(result: dict[str, Any]) -> str:
    """The tables as text."""
    lines = [f"{'network alone, both streams':<36}{'ms a window':>12}{'windows/s':>11}{'':>8}"]
    literal = result["network"][0]["ms"]
    for row in result["network"]:
        ratio = f"{literal / row['ms']:.1f}x"
        lines.append(f"{row['form']:<36}{row['ms']:>12.1f}{1000 / row['ms']:>11.1f}{ratio:>8}")
    longer = result["longer"]
    lines += ["", f"protocol {result['protocol']}: a video"]
    head = f"{'':<36}{'CPU s':>8}{'frames/s':>10}{'':>8}{'MB':>7}{f'MB, {longer}x':>9}{'LSE-D':>9}"
    head += f"{'LSE-C':>9}"
    for row in result["videos"]:
        literal_side, sounds = row["side"] == "literal", row["sounds"]
        if literal_side and sounds == 1:
            lines += [f"{row['video']}, {row['frames']} frames", head]
        form = "literal" if literal_side else f"ours, {row['precision']}"
        if result["protocol"] != "lrs":
            form += f", {row['detector']}"
        if sounds > 1:
            form += f", {sounds} sounds" + (f" (1 x {sounds})" if literal_side else "")
        line = f"  {form:<34}{row['cpu']:>8.2f}{row['frames'] / row['cpu']:>10.1f}{row['ratio']:>7.1f}x"
        line += f"{row['memory']:>7.0f}{row.get('memory_longer', float('nan')):>9.0f}"
        lines.append(f"{line}{row['distance']:>9.3f}{row['confidence']:>9.3f}")
    lines.append(result["machine"])
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--protocol", choices=("lrs", "wild", "strict"), default="lrs")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each video (default: 5)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--detector", choices=("yunet",), help="rows of ours with this detector too")
    parser.add_argument("--weights", default="", help="its file (default: the catalogue's)")
    parser.add_argument("--longer", type=int, default=LONGER, help="memory of a longer video; 1: leave out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.job and not options.videos:
        parser.error("give a video")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    if options.job:
        print(json.dumps(measure(Job(*json.loads(options.job)))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return reported(lambda: everything(options, Path(folder)), report, options.json)


def everything(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All tables."""
    return {
        "machine": f"{os.cpu_count()} cores, {options.threads} used, torch {torch.__version__}",
        "protocol": options.protocol,
        "longer": options.longer,
        "videos": compare(options.videos, options, folder),
        "network": network_alone(options.threads),
    }


if __name__ == "__main__":
    raise SystemExit(main())
