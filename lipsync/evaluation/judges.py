"""Judges: networks that embed crops and sound into one space, where distance means lack of sync.

SyncNet v2 gives LSE-D and LSE-C. A SyncNet expert of this package can judge too, but what it gives is not LSE
and is never named so: other crops, other features, unit-length embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from lipsync.audio.mel import log_mel
from lipsync.audio.mfcc import mfcc
from lipsync.audio.spec import MEL_STEPS, SYNC_FRAMES
from lipsync.audio.windows import training_start
from lipsync.evaluation.segments import FRAME_SAMPLES, NotScorableError, Waveform
from lipsync.metrics.functional import VSHIFT
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.types import Image

CHUNK = 16
"""Windows computed at once; bounds memory, changes no result."""

MFCC_STEPS = 20
MFCC_PER_FRAME = 4


class Judge(Protocol):
    """Embeds a stretch of crops and its sound, one row a frame."""

    name: str
    """As chosen by the user: catalogue name or file name."""
    kind: Literal["lse", "expert"]
    sha256: str
    """Of the weight file."""
    view: Literal["scene", "face"]
    """``scene``: the protocol's own picture (whole frame or wide track crop); ``face``: the face box only."""
    size: int
    """Side of the crops in pixels."""
    vshift: int
    padding: float
    """What stands beyond the ends of the sound; see :func:`lipsync.metrics.functional.sync_distances`."""

    def features(self, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
        """``(V, D)`` of the frames and ``(V, D)`` of the sound; row i starts with frame i.

        Frame i is taken to begin ``i / 25`` seconds after the first sample.

        Raises:
            NotScorableError: Too few frames or too little sound.
        """
        ...


class SyncNetJudge:
    """SyncNet v2 (Chung and Zisserman, 2016), the judge of LSE-D and LSE-C.

    As in the reference, one window fewer is used than the frames allow.

    Args:
        network: In eval mode.
        name: Shown in reports.
        sha256: Of the weight file.
        device: Where the network computes.
        chunk: Windows computed at once.
    """

    kind: Literal["lse", "expert"] = "lse"
    view: Literal["scene", "face"] = "scene"
    size = 224
    vshift = VSHIFT
    padding = 0.0

    def __init__(
        self,
        network: LSESyncNet,
        name: str = "syncnet_v2",
        sha256: str = "",
        device: str | torch.device = "cpu",
        chunk: int = CHUNK,
    ) -> None:
        self.network = network.to(device).eval()
        self.name, self.sha256 = name, sha256
        self.device = torch.device(device)
        self.chunk = chunk

    @torch.inference_mode()
    def features(self, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
        """See :class:`Judge`; frames ``(224, 224, 3)``, rows of 1024 numbers, not normalised.

        The five-frame windows are not computed one by one: only the first convolution reaches over time, so
        one pass over the frames gives the same rows.
        """
        limit = len(waveform) // FRAME_SAMPLES
        video = [self._lip(block) for block in _blocks(islice(frames, limit), self.chunk)]
        windows = sum(map(len, video))
        usable = windows + SYNC_FRAMES - 1 if windows else 0
        if usable <= SYNC_FRAMES:
            raise _too_short(usable, waveform, SYNC_FRAMES + 1)
        rows = windows - 1
        cut = waveform[: usable * FRAME_SAMPLES]
        samples = np.clip(np.rint(cut.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
        coefficients = mfcc(samples)
        audio = [self._sound(coefficients, start, min(start + 64, rows)) for start in range(0, rows, 64)]
        return torch.cat(video)[:rows], torch.cat(audio)

    def _lip(self, block: list[Image]) -> Tensor:
        # (N, H, W, 3) -> (1, 3, N, H, W), raw 0..255 as the network was trained
        tensor = torch.from_numpy(np.stack(block)).to(self.device).permute(3, 0, 1, 2).unsqueeze(0).float()
        return self.network.forward_lip_video(tensor, chunk=self.chunk).cpu()

    def _sound(self, coefficients: np.ndarray, start: int, stop: int) -> Tensor:
        columns = np.arange(start, stop)[:, None] * MFCC_PER_FRAME + np.arange(MFCC_STEPS)
        windows = torch.from_numpy(coefficients[columns]).transpose(1, 2).unsqueeze(1)  # (B, 1, 13, 20)
        return self.network.forward_aud(windows.to(self.device)).cpu()


class ExpertJudge:
    """A SyncNet expert of this package as judge, stock or contrastive.

    Rows are unit vectors, so a distance ``d`` is a cosine of ``1 - d^2 / 2``. Pairs beyond the ends of the
    sound are left out instead of compared with zeros: among unit vectors a zero would count as a fair match.

    Args:
        network: In eval mode; any width, either head.
        name: Shown in reports.
        sha256: Of the weight file.
        device: Where the network computes.
        chunk: Windows computed at once.
    """

    kind: Literal["lse", "expert"] = "expert"
    view: Literal["scene", "face"] = "face"
    size = 96
    vshift = VSHIFT
    padding = math.nan
    min_windows = VSHIFT + 10
    """Least rows, so that at least ten pairs stand behind every shift."""

    def __init__(
        self,
        network: SyncNet,
        name: str = "expert",
        sha256: str = "",
        device: str | torch.device = "cpu",
        chunk: int = CHUNK,
    ) -> None:
        self.network = network.to(device).eval()
        self.name, self.sha256 = name, sha256
        self.device = torch.device(device)
        self.chunk = chunk

    @torch.inference_mode()
    def features(self, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
        """See :class:`Judge`; frames ``(96, 96, 3)`` face crops at 25 fps, rows of unit length."""
        limit = len(waveform) // FRAME_SAMPLES
        video = [self._face(block) for block in _blocks(islice(frames, limit), self.chunk)]
        windows = sum(map(len, video))
        usable = windows + SYNC_FRAMES - 1 if windows else 0
        if windows < self.min_windows:
            raise _too_short(usable, waveform, self.min_windows + SYNC_FRAMES - 1)
        mel = torch.from_numpy(log_mel(waveform[: usable * FRAME_SAMPLES]))
        starts = [start for i in range(windows) if (start := training_start(i)) + MEL_STEPS <= mel.shape[1]]
        audio = [self._sound(mel, starts[i : i + 64]) for i in range(0, len(starts), 64)]
        return torch.cat(video)[: len(starts)], torch.cat(audio)

    def _sound(self, mel: Tensor, starts: list[int]) -> Tensor:
        windows = torch.stack([mel[:, start : start + MEL_STEPS] for start in starts]).unsqueeze(1)
        return self.network.encode_audio(windows.to(self.device)).cpu()

    def _face(self, block: list[Image]) -> Tensor:
        # (N, H, W, 3) -> windows (N - 4, 3, 5, H, W) in [0, 1]
        frames = torch.from_numpy(np.stack(block)).to(self.device).permute(0, 3, 1, 2).float() / 255
        windows = frames.unfold(0, SYNC_FRAMES, 1).permute(0, 1, 4, 2, 3)
        return self.network.encode_face(lower_half_windows(windows)).cpu()


def _blocks(frames: Iterable[Image], windows: int) -> Iterator[list[Image]]:
    """Blocks of frames holding up to ``windows`` five-frame windows; neighbours share four frames."""
    block: list[Image] = []
    for frame in frames:
        block.append(frame)
        if len(block) == windows + SYNC_FRAMES - 1:
            yield block
            block = block[-(SYNC_FRAMES - 1) :]
    if len(block) >= SYNC_FRAMES:
        yield block


def _too_short(frames: int, waveform: Waveform, needed: int) -> NotScorableError:
    sound = len(waveform) // FRAME_SAMPLES
    if sound < needed:
        return NotScorableError(f"sound lasts {sound} frames of 40 ms, at least {needed} are needed")
    return NotScorableError(
        f"only {frames or 'fewer than 5'} consecutive frames, at least {needed} are needed"
    )
