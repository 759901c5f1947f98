"""Judges: networks that embed crops and sound into one space, where distance means lack of sync.

SyncNet v2 gives LSE-D and LSE-C. A SyncNet expert of this package can judge too, but what it gives is not LSE
and is never named so: other crops, other features, unit-length embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lipsync.audio.mel import log_mel
from lipsync.audio.mfcc import mfcc
from lipsync.audio.spec import MEL_STEPS, SAMPLES_PER_FRAME, SYNC_FRAMES
from lipsync.audio.windows import training_start
from lipsync.errors import NotScorableError
from lipsync.metrics.functional import VSHIFT
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.types import Image, Waveform

Network = TypeVar("Network", bound=nn.Module)

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
    vshift: int
    padding: float
    """What stands beyond the ends of the sound; see :func:`lipsync.metrics.functional.sync_distances`."""

    @property
    def size(self) -> int:
        """Side of the crops in pixels."""
        ...

    def features(self, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
        """``(V, D)`` of the frames and ``(V, D)`` of the sound; row i starts with frame i.

        Frame i is taken to begin ``i / 25`` seconds after the first sample.

        Raises:
            NotScorableError: Too few frames or too little sound.
        """
        ...


class _NetworkJudge(Generic[Network]):
    """What both judges have in common.

    Args:
        network: In eval mode.
        name: Shown in reports.
        sha256: Of the weight file.
        device: Where the network computes.
        chunk: Windows computed at once.
    """

    def __init__(
        self,
        network: Network,
        name: str = "",
        sha256: str = "",
        device: str | torch.device = "cpu",
        chunk: int = CHUNK,
    ) -> None:
        self.network = network.to(device).eval()
        self.name, self.sha256 = name, sha256
        self.device = torch.device(device)
        self.chunk = chunk

    def _seen(self, frames: Iterable[Image], waveform: Waveform, least: int) -> tuple[Tensor, Waveform]:
        """A row for every window of the frames that have sound, and the sound of these frames.

        Raises:
            NotScorableError: There are fewer than ``least`` windows.
        """
        limit = len(waveform) // SAMPLES_PER_FRAME
        video = [self._look(block) for block in _blocks(islice(frames, limit), self.chunk)]
        windows = sum(map(len, video))
        usable = windows + SYNC_FRAMES - 1 if windows else 0
        if windows < least:
            raise _too_short(usable, waveform, least + SYNC_FRAMES - 1)
        return torch.cat(video), waveform[: usable * SAMPLES_PER_FRAME]

    def _look(self, block: list[Image]) -> Tensor:
        """``N`` frames -> ``(N - 4, D)``."""
        raise NotImplementedError


class SyncNetJudge(_NetworkJudge[LSESyncNet]):
    """SyncNet v2 (Chung and Zisserman, 2016), the judge of LSE-D and LSE-C.

    As in the reference, one window fewer is used than the frames allow.
    """

    kind: Literal["lse", "expert"] = "lse"
    view: Literal["scene", "face"] = "scene"
    size = 224
    vshift = VSHIFT
    padding = 0.0

    @torch.inference_mode()
    def features(self, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
        """See :class:`Judge`; frames ``(224, 224, 3)``, rows of 1024 numbers, not normalised.

        The five-frame windows are not computed one by one: only the first convolution reaches over time, so
        one pass over the frames gives the same rows.
        """
        video, sound = self._seen(frames, waveform, least=2)
        rows = len(video) - 1
        samples = np.clip(np.rint(sound.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
        coefficients = mfcc(samples)
        audio = [self._hear(coefficients, start, min(start + 64, rows)) for start in range(0, rows, 64)]
        return video[:rows], torch.cat(audio)

    def _look(self, block: list[Image]) -> Tensor:
        # (N, H, W, 3) -> (1, 3, N, H, W), raw 0..255 as the network was trained
        tensor = torch.from_numpy(np.stack(block)).to(self.device).permute(3, 0, 1, 2).unsqueeze(0).float()
        return self.network.forward_lip_video(tensor, chunk=self.chunk).cpu()

    def _hear(self, coefficients: np.ndarray, start: int, stop: int) -> Tensor:
        columns = np.arange(start, stop)[:, None] * MFCC_PER_FRAME + np.arange(MFCC_STEPS)
        windows = torch.from_numpy(coefficients[columns]).transpose(1, 2).unsqueeze(1)  # (B, 1, 13, 20)
        return self.network.forward_aud(windows.to(self.device)).cpu()


class ExpertJudge(_NetworkJudge[SyncNet]):
    """A SyncNet expert of this package as judge, of any width and image size and either head.

    Rows are unit vectors, so a distance ``d`` is a cosine of ``1 - d^2 / 2``. Pairs beyond the ends of the
    sound are left out instead of compared with zeros: among unit vectors a zero would count as a fair match.
    """

    kind: Literal["lse", "expert"] = "expert"
    view: Literal["scene", "face"] = "face"
    vshift = VSHIFT
    padding = math.nan
    min_windows = VSHIFT + 10
    """Least rows, so that at least ten pairs stand behind every shift."""

    @property
    def size(self) -> int:
        """Side of the crops in pixels: what the network was built for."""
        return self.network.image_size

    @torch.inference_mode()
    def features(self, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
        """See :class:`Judge`; frames ``(size, size, 3)`` face crops at 25 fps, rows of unit length."""
        video, sound = self._seen(frames, waveform, least=self.min_windows)
        mel = torch.from_numpy(log_mel(sound))
        starts = [
            start for i in range(len(video)) if (start := training_start(i)) + MEL_STEPS <= mel.shape[1]
        ]
        audio = [self._hear(mel, starts[i : i + 64]) for i in range(0, len(starts), 64)]
        return video[: len(starts)], torch.cat(audio)

    def _look(self, block: list[Image]) -> Tensor:
        # (N, H, W, 3) -> windows (N - 4, 3, 5, H, W) in [0, 1]
        frames = torch.from_numpy(np.stack(block)).to(self.device).permute(0, 3, 1, 2).float() / 255
        windows = frames.unfold(0, SYNC_FRAMES, 1).permute(0, 1, 4, 2, 3)
        return self.network.encode_face(lower_half_windows(windows)).cpu()

    def _hear(self, mel: Tensor, starts: list[int]) -> Tensor:
        windows = torch.stack([mel[:, start : start + MEL_STEPS] for start in starts]).unsqueeze(1)
        return self.network.encode_audio(windows.to(self.device)).cpu()


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
    sound = len(waveform) // SAMPLES_PER_FRAME
    if sound < needed:
        return NotScorableError(f"sound lasts {sound} frames of 40 ms, at least {needed} are needed")
    return NotScorableError(
        f"only {frames or 'fewer than 5'} consecutive frames, at least {needed} are needed"
    )
