r"""How compositors, masks and enhancers of inference compare on real videos.

    python benchmarks/composite_quality.py CHECKPOINT --audio SPEECH VIDEO...
    python benchmarks/composite_quality.py CHECKPOINT --audio SPEECH VIDEO... --frames 100 --each \
        --infer detector=yunet --setting compositor=box --setting compositor=feather compositor.tone=false

The generator repaints every video once. Each ``--setting``, overrides of ``configs/infer.yaml``, then puts
the same patches into their frames. Nothing is encoded. Columns:

outside   worst PSNR of a frame outside the mask, before the enhancer; inf: not a byte changed
seam      gradient along the border of the mask over the source's at the same pixels; 1: as in the source,
          above: an edge shows, below: softer than the source
halo      the same of both pictures blurred to a twentieth of the box: steps of the tone, seen from afar
tone      mean change of that blurred picture where the mask fades, in grey levels over the weight there
sharp     Laplacian variance of the mouth region over the source's
to box    the same over that of the first setting (the reference's paste, as a rule)
flicker   change from frame to frame of the blurred change on the fading part, grey levels
ms        CPU milliseconds a frame of compositor and enhancer together

The border of a mask is where it fades; of a whole box, the two pixels on either side of its edge.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from lipsync.audio.mel import log_mel
from lipsync.audio.spec import WAV2LIP
from lipsync.audio.windows import MelWindows
from lipsync.cli.app import config_dir
from lipsync.cli.weights import build_detector
from lipsync.errors import UserError
from lipsync.inference.detect import FollowFace
from lipsync.inference.synthesize import Wav2LipSynthesizer
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.types import Box, Composite, Frame, Image, Patch

Floats = npt.NDArray[np.float32]

SETTINGS = (["compositor=box"], ["compositor=feather"], ["compositor=laplacian"])
MOUTH = (0.55, 0.95, 0.2, 0.8)
"""Top, bottom, left and right of the mouth region as fractions of the box."""
BLUR = 0.05
"""Of the picture for ``halo`` and ``tone``, as a fraction of the box's height."""
COLUMNS = ("outside", "seam", "halo", "tone", "sharp", "to box", "flicker", "ms")


class Shown(NamedTuple):
    """What one frame looks like around its box, before and after."""

    source: Image
    result: Image
    mask: Floats
    """``(h, w)``, 0 outside of the box."""
    box: Box
    """In these pictures."""


def patches_of(video: Path, options: argparse.Namespace, cfg: DictConfig) -> list[Patch]:
    """The generator's patches of the first frames of a video."""
    synthesizer: Wav2LipSynthesizer = instantiate(cfg.synthesizer, checkpoint=str(options.checkpoint))
    faces = FollowFace(build_detector(cfg.detector, unheard), pads=synthesizer.pads)
    fps = probe(video).fps
    mel = log_mel(load_waveform(options.audio, WAV2LIP.sample_rate))
    speech = MelWindows(mel, fps, shift=synthesizer.mel_shift)
    frames = islice(VideoReader(video, fps=fps), options.frames)
    return list(synthesizer(faces(frames), speech))


def unheard(name: str, received: int, total: int | None) -> None:
    """Progress that nobody watches."""


def composed(patches: Sequence[Patch], cfg: DictConfig) -> tuple[list[Composite], list[Frame], float]:
    """Composites, finished frames, and the CPU seconds a frame both took."""
    compositor = instantiate(cfg.compositor)
    enhancer = cfg.get("enhancer")
    enhance = None if enhancer is None else instantiate(enhancer)
    kept: list[Composite] = []

    def noted(stream: Iterable[Composite]) -> Iterator[Composite]:
        for item in stream:
            kept.append(item)
            yield item

    list(compositor(iter(patches[:1])))  # networks and caches warm up
    start = time.process_time()
    stream = noted(compositor(iter(patches)))
    frames = [item.frame for item in stream] if enhance is None else list(enhance(stream))
    return kept, frames, (time.process_time() - start) / max(1, len(patches))


def around(item: Composite, result: Image) -> Shown | None:
    """The neighbourhood of the repainted box; None where nothing was repainted."""
    if item.box is None:
        return None
    x1, y1, x2, y2 = item.box.rounded()
    height, width = result.shape[:2]
    margin = max(4, (y2 - y1) // 4)
    left, up, right, down = max(0, x1 - margin), max(0, y1 - margin), min(width, x2 + margin), y2 + margin
    part = slice(up, min(height, down)), slice(left, right)
    mask = np.zeros(result.shape[:2], np.float32)
    mask[y1:y2, x1:x2] = 1 if item.mask is None else item.mask[:, :, 0]
    return Shown(item.source[part], result[part], mask[part], Box(x1 - left, y1 - up, x2 - left, y2 - up))


def border(mask: Floats) -> npt.NDArray[np.bool_]:
    """Where a mask fades; where it does not fade at all, two pixels on either side of its edge."""
    fading = (mask > 0) & (mask < 1)
    if fading.any():
        return fading
    kernel = np.ones((5, 5), np.uint8)
    return np.asarray(cv2.dilate(mask, kernel) != cv2.erode(mask, kernel))


def gradient(picture: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Length of the gradient of the luma."""
    grey = cv2.cvtColor(np.asarray(picture, np.float32), cv2.COLOR_BGR2GRAY)
    return np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1))


def softened(picture: npt.NDArray[np.generic], box: Box) -> Floats:
    """Blurred until only tones are left."""
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), BLUR * box.height), np.float32)


def outside(item: Composite) -> float:
    """PSNR of the pixels that the mask leaves alone, dB."""
    covered = np.zeros(item.source.shape[:2], bool)
    if item.box is not None:
        x1, y1, x2, y2 = item.box.rounded()
        covered[y1:y2, x1:x2] = True if item.mask is None else item.mask[:, :, 0] > 0
    difference = (item.frame.image.astype(np.float64) - item.source)[~covered]
    error = float(np.mean(difference * difference)) if difference.size else 0.0
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def sharpness(picture: Image, box: Box) -> float:
    """Laplacian variance of the mouth region."""
    top, bottom, left, right = MOUTH
    rows = slice(int(box.y1 + top * box.height), int(box.y1 + bottom * box.height))
    columns = slice(int(box.x1 + left * box.width), int(box.x1 + right * box.width))
    grey = cv2.cvtColor(picture[rows, columns], cv2.COLOR_BGR2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def figures(kept: Sequence[Composite], frames: Sequence[Frame], seconds: float) -> dict[str, float]:
    """The columns of one setting on one video, but for ``to box``."""
    found: dict[str, list[float]] = {name: [] for name in ("seam", "halo", "tone", "sharp", "lap", "flicker")}
    last: Floats | None = None
    for item, frame in zip(kept, frames, strict=True):
        shown = around(item, frame.image)
        if shown is None:
            last = None
            continue
        ring = border(shown.mask)
        soft = [softened(picture, shown.box) for picture in (shown.source, shown.result)]
        found["seam"].append(ratio(shown.result, shown.source, ring))
        found["halo"].append(ratio(soft[1], soft[0], ring))
        change = soft[1] - soft[0]
        found["tone"].append(float(np.abs(change[ring]).mean() / shown.mask[ring].mean()))
        found["lap"].append(sharpness(shown.result, shown.box))
        found["sharp"].append(found["lap"][-1] / max(sharpness(shown.source, shown.box), 1e-9))
        # In the box's own grid, since the box moves.
        part = change[slice(*shown.box.rounded()[1::2]), slice(*shown.box.rounded()[::2])]
        grid = np.asarray(cv2.resize(part, (32, 32), interpolation=cv2.INTER_AREA), np.float32)
        if last is not None:
            found["flicker"].append(float(np.abs(grid - last)[16:].mean()))
        last = grid
    means = {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}
    return {**means, "outside": min(outside(item) for item in kept), "ms": seconds * 1000}


def ratio(result: npt.NDArray[np.generic], source: npt.NDArray[np.generic], where: Any) -> float:
    """Mean gradient of one picture over that of the other."""
    return float(gradient(result)[where].mean() / max(gradient(source)[where].mean(), 1e-9))


def save(folder: Path, name: str, kept: Sequence[Composite], frames: Sequence[Frame]) -> None:
    """Source and result of the middle frame, side by side."""
    middle = len(kept) // 2
    shown = around(kept[middle], frames[middle].image)
    if shown is not None:
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.png"), np.hstack([shown.source, shown.result]))


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each video and setting."""
    settings = options.setting or [list(setting) for setting in SETTINGS]
    configurations = [composition([*options.infer, *setting]) for setting in settings]
    rows: list[dict[str, Any]] = []
    for video in options.videos:
        patches = patches_of(video, options, composition(options.infer))
        first: float | None = None
        for setting, cfg in zip(settings, configurations, strict=True):
            kept, frames, seconds = composed(patches, cfg)
            row = figures(kept, frames, seconds)
            first = row["lap"] if first is None else first
            row["to box"] = row["lap"] / max(first, 1e-9)
            rows.append({"video": video.name, "setting": " ".join(setting), **row})
            if options.pictures is not None:
                save(options.pictures, f"{video.stem}_{settings.index(setting)}", kept, frames)
    return rows


def composition(overrides: Sequence[str]) -> DictConfig:
    """``configs/infer.yaml`` with these overrides."""
    return compose("infer", ["device=cpu", *overrides])


def report(rows: Sequence[dict[str, Any]], each: bool) -> str:
    """The table as text: means over the videos (of ``outside`` the worst), and each video if wanted."""
    lines = [f"{'':<58}" + "".join(f"{name:>9}" for name in COLUMNS)]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == setting]
        mean = {name: float(np.mean([row[name] for row in own])) for name in COLUMNS}
        mean["outside"] = min(row["outside"] for row in own)
        lines.append(line(setting, mean))
        lines += [line(f"  {row['video']}", row) for row in own if each]
    return "\n".join(lines)


def line(name: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    digits = {"tone": 2, "flicker": 2, "ms": 2, "outside": 1}
    return f"{name[-58:]:<58}" + "".join(f"{row[column]:>9.{digits.get(column, 3)}f}" for column in COLUMNS)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="generator: a name of the catalogue, or a path")
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--audio", type=Path, required=True, help="speech that drives the mouth")
    parser.add_argument("--frames", type=int, default=50, help="of each video (default: 50)")
    parser.add_argument("--infer", nargs="+", default=[], help="overrides of infer.yaml for all settings")
    parser.add_argument("--setting", nargs="+", action="append", help="overrides of one row; repeatable")
    parser.add_argument("--each", action="store_true", help="a line for every video too")
    parser.add_argument("--pictures", type=Path, help="folder for the middle frame of every row")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            rows = compare(options)
    except (UserError, HydraException) as error:
        print(error, file=sys.stderr)
        return 2
    print(report(rows, options.each))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
