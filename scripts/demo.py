"""The whole job on a generated corpus: preprocess, train, infer, evaluate, and prove that it learned.

    python scripts/demo.py [--folder demo]

Needs nothing downloaded; about seven minutes on two cores. Every step is the command a user would run.
Fails loudly (exit code 1) when the numbers do not show learning:

* the generator's L1 on held-out faces must be below that of copying the reference window;
* the mouth opening measured in generated frames must follow the speech they were made from, and not the
  speech of another clip.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipsync.data.filelist import read_filelist
from lipsync.data.synthetic import make_corpus, measure_aperture
from lipsync.faces.annotated import AnnotatedDetector
from lipsync.faces.crop import crop
from lipsync.media.reader import VideoReader

PROJECT = Path(__file__).resolve().parents[1]
CLIPS, SPEAKERS, SECONDS, HELD_OUT = 48, 2, 3.0, 3
LEAST_CORRELATION, LEAST_GAP = 0.4, 0.25


class NotLearnedError(Exception):
    """The demo ran, but its numbers do not show learning."""


def main() -> None:
    """Run all steps below one folder and check the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes")
    folder = parser.parse_args().folder.resolve()
    started = time.monotonic()
    raw, clips, runs = folder / "raw", folder / "preprocessed", folder / "runs"
    say("generate a corpus of drawn talking faces")
    make_corpus(raw, CLIPS, SPEAKERS, SECONDS, seed=0, unseen_speakers=False)
    command(
        "preprocess.py", f"data_root={raw}", f"preprocessed_root={clips}", "detector=annotated", "workers=2"
    )
    expert = train("demo_syncnet", clips, runs / "syncnet")
    generator = train("demo_wav2lip", clips, runs / "wav2lip", f"model.expert_checkpoint={expert}")
    outputs = folder / "results"
    pairs = synthesise(raw, outputs, generator)
    command(
        "evaluate.py",
        f"videos={outputs / 'own'}",
        f"references={raw / 'main'}",
        "protocol=lrs",
        "detector=default",
        f"judge={expert}",
        f"output={folder / 'report'}",
    )
    curves = draw_curves(runs, folder / "curves.png")
    say(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    print(f"videos:      {outputs}\nreport:      {folder / 'report' / 'report.html'}\nloss curves: {curves}")
    check_copying(runs / "wav2lip" / "metrics.csv")
    check_mouths(raw, pairs)
    print("The generator learned to speak.")


def train(experiment: str, clips: Path, run: Path, *overrides: str) -> Path:
    """Train one model; returns its last checkpoint."""
    command("train.py", f"experiment={experiment}", f"data.root={clips}", f"hydra.run.dir={run}", *overrides)
    return run / "checkpoints" / "last.ckpt"


def synthesise(raw: Path, outputs: Path, generator: Path) -> list[tuple[Path, str, str]]:
    """Held-out faces with their own speech and with the next face's; (video, face, speech) of each."""
    held_out = [
        name for split in ("val", "test") for name in read_filelist(raw / "filelists" / f"{split}.txt")
    ]
    faces = held_out[:HELD_OUT]
    jobs = [("own", face, face) for face in faces]
    jobs += [("dubbed", face, speech) for face, speech in pairwise([*faces, faces[0]])]
    made = []
    for folder, face, speech in jobs:
        video = outputs / folder / f"{face}.mp4"
        command(
            "infer.py",
            f"face={raw / 'main' / face}.mp4",
            f"audio={raw / 'main' / speech}.mp4",
            f"checkpoint={generator}",
            f"outfile={video}",
            "detector=annotated",
        )
        made.append((video, face, speech))
    return made


def check_copying(metrics: Path) -> None:
    """Held-out L1 of the mouth region must beat copying the reference window."""
    last = [row for row in rows(metrics) if row.get("val/l1_lower")][-1]
    ours, copying = float(last["val/l1_lower"]), float(last["val/l1_copy"])
    print(f"held-out L1, lower half: {ours:.4f}; copying the reference window: {copying:.4f}")
    if not ours < copying:
        raise NotLearnedError("the generator is no better than copying the reference window")


def check_mouths(raw: Path, pairs: list[tuple[Path, str, str]]) -> None:
    """The mouths of dubbed videos must follow the speech they got, not the speech of the face's own clip."""
    follow, stray = [], []
    for video, face, speech in pairs:
        if face == speech:
            continue
        opening = generated_opening(video, raw / "main" / f"{face}.mp4")
        follow.append(correlation(opening, true_opening(raw, speech)))
        stray.append(correlation(opening, true_opening(raw, face)))
    ours, others = float(np.mean(follow)), float(np.mean(stray))
    print(f"mouth opening against its own speech: r = {ours:.2f}; against the other speech: r = {others:.2f}")
    if ours < LEAST_CORRELATION or ours - others < LEAST_GAP:
        raise NotLearnedError("generated mouths do not follow their speech")


def generated_opening(video: Path, face: Path) -> npt.NDArray[np.float64]:
    """Mouth opening in every frame of ``video``, whose faces lie where those of the video ``face`` lie."""
    detector = AnnotatedDetector()
    crops = []
    for made, source in zip(VideoReader(video), VideoReader(face), strict=False):
        ((found, *_),) = detector.detect([source])
        crops.append(crop(made.image, found.box, 96))
    return measure_aperture(crops)


def true_opening(raw: Path, clip: str) -> npt.NDArray[np.float64]:
    """Mouth opening that the generated speech of ``clip`` was drawn with."""
    return np.asarray(json.loads((raw / "main" / f"{clip}.mouth.json").read_text())["aperture"], dtype=float)


def correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Pearson correlation over the frames both have; 0 for a mouth that never moves."""
    n = min(len(a), len(b))
    a, b = a[:n] - a[:n].mean(), b[:n] - b[:n].mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def draw_curves(runs: Path, picture: Path) -> Path:
    """Losses over steps as a PNG, one panel a logged name."""
    import cv2

    panels = []
    for run, names in (
        ("syncnet", ("train/sync", "val/sync", "val/pair_accuracy")),
        ("wav2lip", ("train/l1", "val/l1_lower", "val/sync")),
    ):
        table = rows(runs / run / "metrics.csv")
        panels.append(np.hstack([_panel(f"{run} {name}", *_series(table, name)) for name in names]))
    cv2.imwrite(str(picture), np.vstack(panels))
    return picture


def _series(table: list[dict[str, str]], name: str) -> tuple[list[float], list[float]]:
    found = [(float(row["step"]), float(row[name])) for row in table if row.get(name)]
    return [step for step, _ in found], [value for _, value in found]


def _panel(title: str, steps: list[float], values: list[float]) -> npt.NDArray[np.uint8]:
    import cv2

    width, height, margin = 420, 260, 40
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    cv2.putText(canvas, title, (margin, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    if not values:
        return canvas
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(steps) or 1.0
    x = margin + np.asarray(steps) / last * (width - 2 * margin)
    y = height - margin - (np.asarray(values) - low) / span * (height - 2 * margin)
    points = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(canvas, [points], False, (180, 90, 20), 2, cv2.LINE_AA)
    for value, at in ((high, margin), (low, height - margin)):
        cv2.putText(
            canvas, f"{value:.3g}", (2, at), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (90, 90, 90), 1, cv2.LINE_AA
        )
    return canvas


def rows(metrics: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv."""
    with metrics.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def command(script: str, *overrides: str) -> None:
    """Run one of the project's commands, showing it."""
    say(shlex.join(["python", script, *overrides]))
    subprocess.run([sys.executable, str(PROJECT / script), *overrides], check=True, cwd=PROJECT)  # noqa: S603 - own scripts


def say(text: str) -> None:
    """Announce a step."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except NotLearnedError as failure:
        sys.exit(f"demo failed: {failure}")
    except subprocess.CalledProcessError as failure:
        sys.exit(f"demo failed: {shlex.join(map(str, failure.cmd[1:]))} ended with {failure.returncode}")
