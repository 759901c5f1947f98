"""Which ``audio_shift`` puts a generator's mouths in sync? For any checkpoint, by an independent judge.

    python benchmarks/audio_shift.py CHECKPOINT CLIP... --judge syncnet_v2
    python benchmarks/audio_shift.py wav2lip_gan CLIP... --judge expert.ckpt --detector YUNET.onnx

For frame ``f`` a generator hears the mel window that its trainer paired with frame ``f``. The published
trainer of Wav2Lip took the window of frame ``f - 1``, its inference script takes that of frame ``f``: mouths
should then come a frame of 40 ms early. Checkpoints of ``train.py`` carry their shift; of others nobody knows
it until it is measured.

Every clip is lip-synced to the speech of the next one with mel windows taken -3 to 3 frames later, and the
judge compares the mouths with that speech at every lag. The speech is another clip's because the generator
sees the frame that it repaints: with the clip's own speech a copied mouth would be in sync at any shift. Take
clips that the generator has not learnt from, of one shot and one face, 2 s or longer; ten or more. The
judge must not have trained the generator.

``lag`` is that of the least distance, all clips together: the frames by which the sound would have to be
delayed to fit. ``at lag 0`` and ``at real``: distances without delay and at the lag of the real clips,
which is 0 unless the judge or the clips are out of step; lower is better. ``clips``: share of the clips whose
own lag is that one. ``vote``: the shift that would be in sync if the lag of the row is right. Recommended is
the shift of the least distance at the real clips' lag. It is settled where the row and its neighbours vote
for it and nearly all resamples of the clips choose it, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from measuring import reported

from lipsync.audio.spec import SAMPLES_PER_FRAME, WAV2LIP
from lipsync.errors import NotScorableError
from lipsync.evaluation.protocols import EvaluationProtocol, LrsProtocol, StrictProtocol, WildProtocol
from lipsync.evaluation.sounds import fitted
from lipsync.faces.detector import FaceDetector, YunetDetector
from lipsync.inference.composite import FeatherCompositor
from lipsync.inference.pipeline import LipSyncPipeline
from lipsync.inference.synthesize import Wav2LipSynthesizer
from lipsync.media.probe import probe
from lipsync.media.waveform import load_waveform, save_wav
from lipsync.media.writer import LOSSLESS, VideoWriter
from lipsync.metrics.judge_loading import load_judge
from lipsync.metrics.judges import Judge
from lipsync.metrics.stretches import stretch_distances
from lipsync.types import Waveform

Curve = npt.NDArray[np.float64]
"""``(2 * vshift + 1,)`` mean distance by lag; column ``vshift`` is lag 0."""

SHIFTS = tuple(range(-3, 4))
RESAMPLES = 2000
SURE = 0.95
"""Share of resamples that must choose the recommended shift."""
PROTOCOLS = {"lrs": LrsProtocol, "wild": WildProtocol, "strict": StrictProtocol}


class Row(NamedTuple):
    """What the judge says of one shift."""

    shift: int
    at_zero: float
    """Distance at lag 0, mean over the clips."""
    at_real: float
    """Distance at the real clips' lag."""
    least: float
    lag: int
    """Of the least distance of all clips together."""
    agreeing: float
    """Share of the clips whose own lag is the real clips'."""

    @property
    def vote(self) -> int:
        """The shift that is in sync, if this row's lag is right; add the real clips' lag to compare."""
        return self.shift + self.lag


class Verdict(NamedTuple):
    """What follows from the table."""

    shift: int
    """Recommended."""
    chosen: float
    """Share of the resamples of the clips that recommend it."""
    votes: tuple[int, ...]
    """Of the row itself and its neighbours, less the real clips' lag."""

    @property
    def settled(self) -> bool:
        """Whether distance, lags and resamples say the same."""
        return self.chosen >= SURE and set(self.votes) == {self.shift}


def curve(video: Path, sound: Waveform, judge: Judge, protocol: EvaluationProtocol) -> Curve:
    """Mean distance by lag over all stretches of a video.

    Raises:
        MediaError: The video cannot be read.
        NotScorableError: No stretch is long enough.
    """
    found, reasons = [], []
    for segment in protocol.segments(video, judge, -(-len(sound) // SAMPLES_PER_FRAME)):
        try:
            (distances,) = stretch_distances(
                judge, segment.frames, [segment.sound(sound)], padding=protocol.padding
            )
        except NotScorableError as error:
            distances = error
        if isinstance(distances, NotScorableError):
            reasons.append(str(distances))
        else:
            found.append(distances.double().numpy())
    if not found:
        raise NotScorableError(f"{video}: {'; '.join(reasons) or protocol.nothing_found()}")
    return np.asarray(np.nanmean(np.concatenate(found), axis=0))


def lag_of(distances: Curve) -> int:
    """Frames by which the sound would have to be delayed, the offset of ``SyncScore``."""
    return int((distances.size - 1) // 2 - np.argmin(distances))


def at_lag(distances: npt.NDArray[np.float64], lag: int) -> npt.NDArray[np.float64]:
    """Distances ``(...,)`` at one lag of curves ``(..., 2 * vshift + 1)``."""
    return np.asarray(distances[..., (distances.shape[-1] - 1) // 2 - lag])


def tabulate(curves: dict[int, npt.NDArray[np.float64]], real: int) -> list[Row]:
    """The rows of the table.

    Args:
        curves: ``(clips, 2 * vshift + 1)`` by shift.
        real: Lag of the real clips.
    """
    return [
        Row(
            shift,
            at_zero=float(at_lag(found, 0).mean()),
            at_real=float(at_lag(found, real).mean()),
            least=float(found.mean(axis=0).min()),
            lag=lag_of(found.mean(axis=0)),
            agreeing=float(np.mean([lag_of(one) == real for one in found])),
        )
        for shift, found in sorted(curves.items())
    ]


def recommend(curves: dict[int, npt.NDArray[np.float64]], real: int, seed: int = 0) -> Verdict:
    """The shift of the least distance at the real clips' lag, and how sure that is."""
    shifts = sorted(curves)
    distances = np.stack([at_lag(curves[shift], real) for shift in shifts], axis=1)
    best = int(distances.mean(axis=0).argmin())
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(distances), size=(RESAMPLES, len(distances)))
    chosen = float(np.mean(distances[drawn].mean(axis=1).argmin(axis=1) == best))
    near = shifts[max(0, best - 1) : best + 2]
    votes = tuple(shift + lag_of(curves[shift].mean(axis=0)) - real for shift in near)
    return Verdict(shifts[best], chosen, votes)


def foreign_sounds(clips: Sequence[Path]) -> list[Waveform]:
    """For each clip the speech of the next one, as long as the clip."""
    rate = WAV2LIP.sample_rate
    own = [load_waveform(clip, rate) for clip in clips]
    lengths = [max(SAMPLES_PER_FRAME, round(probe(clip).duration * rate)) for clip in clips]
    following = [*own[1:], own[0]]
    return [fitted(sound, length) for sound, length in zip(following, lengths, strict=True)]


def generated(
    clip: Path, sound: Waveform, shifts: Iterable[int], pipeline: partial[LipSyncPipeline], folder: Path
) -> dict[int, Path]:
    """The clip lip-synced to the sound with every shift; files without loss."""
    spoken = folder / "speech.wav"
    save_wav(spoken, sound, WAV2LIP.sample_rate)
    files = {}
    for shift in shifts:
        files[shift] = folder / f"shift{shift}.mkv"
        pipeline(audio_shift=shift).run(clip, spoken, files[shift])
    return files


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is reported."""
    detector: FaceDetector = YunetDetector(options.detector)
    judge = load_judge(options.judge)
    protocol = PROTOCOLS[options.protocol](detector)
    synthesizer = Wav2LipSynthesizer.from_checkpoint(options.checkpoint, device=options.device)
    pipeline = partial(
        LipSyncPipeline,
        synthesizer,
        detector,
        FeatherCompositor(),
        writer=partial(VideoWriter, **LOSSLESS),
        extend="cut",
    )
    curves: dict[int, list[Curve]] = {shift: [] for shift in options.shifts}
    originals: list[Curve] = []
    for clip, sound in zip(options.clips, foreign_sounds(options.clips), strict=True):
        originals.append(curve(clip, protocol.load_sound(clip, judge), judge, protocol))
        with tempfile.TemporaryDirectory() as folder:
            files = generated(clip, sound, options.shifts, pipeline, Path(folder))
            for shift, path in files.items():
                curves[shift].append(curve(path, sound, judge, protocol))
        if options.verbose:
            print(f"{len(originals)}/{len(options.clips)} {clip.name}", file=sys.stderr, flush=True)
    stacked = {shift: np.stack(found) for shift, found in curves.items()}
    pooled = np.stack(originals).mean(axis=0)
    real = lag_of(pooled)
    return {
        "checkpoint": Path(options.checkpoint).name,
        "judge": judge.name,
        "clips": len(options.clips),
        "own_shift": synthesizer.mel_shift,
        "real": {"lag": real, "least": float(pooled.min()), "at_zero": float(at_lag(pooled, 0))},
        "rows": [{**row._asdict(), "vote": row.vote - real} for row in tabulate(stacked, real)],
        "verdict": recommend(stacked, real)._asdict(),
    }


def report(result: dict[str, Any]) -> str:
    """The table as text."""
    real, verdict = result["real"], Verdict(**result["verdict"])
    lines = [
        f"{result['checkpoint']}: {result['clips']} clips, judge {result['judge']}; "
        f"the checkpoint's own shift is {result['own_shift']}",
        f"{'audio_shift':>11}{'at lag 0':>10}{'at real':>9}{'least':>8}{'lag':>5}{'clips':>7}{'vote':>6}",
        f"{'real':>11}{real['at_zero']:>10.4f}{real['least']:>9.4f}{real['least']:>8.4f}{real['lag']:>5d}",
    ]
    for row in result["rows"]:
        mark = "  <-" if row["shift"] == verdict.shift else ""
        lines.append(
            f"{row['shift']:>11d}{row['at_zero']:>10.4f}{row['at_real']:>9.4f}{row['least']:>8.4f}"
            f"{row['lag']:>5d}{row['agreeing']:>7.0%}{row['vote']:>6d}{mark}"
        )
    lines.append(
        f"recommended: audio_shift={verdict.shift} ({verdict.chosen:.0%} of the resamples; "
        f"votes {', '.join(map(str, verdict.votes))})"
    )
    if not verdict.settled:
        lines.append("not settled: take more or longer clips, or another judge")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="generator: a file, or a name of the catalogue")
    parser.add_argument("clips", nargs="+", type=Path, help="two or more videos with sound")
    parser.add_argument("--judge", default="syncnet_v2", help="SyncNet v2 or an expert that did not train it")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="lrs")
    parser.add_argument("--detector", default="yunet", help="YuNet's file (default: the catalogue's)")
    parser.add_argument("--shifts", nargs="+", type=int, default=list(SHIFTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--verbose", action="store_true", help="name every clip when it is done")
    options = parser.parse_args(arguments)
    if len(options.clips) < 2:
        parser.error("give two clips or more: each speaks the words of another")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    return reported(lambda: measure(options), report, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
