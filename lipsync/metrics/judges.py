"""Judges: networks that embed crops and sound into one space, where distance means lack of sync.

SyncNet v2 gives LSE-D and LSE-C. A SyncNet expert of this package can judge too, but what it gives is not LSE
and is never named so: other crops, other features, unit-length embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lipsync.audio.mel import log_mel
from lipsync.audio.mfcc import mfcc
from lipsync.audio.spec import MEL_STEPS, SAMPLES_PER_FRAME, SYNC_FRAMES
from lipsync.audio.windows import training_start
from lipsync.errors import CheckpointError, NotScorableError
from lipsync.metrics.functional import VSHIFT, SyncScore, score_distances, sync_distances
from lipsync.models.lse_folded import FoldedLSESyncNet, Precision
from lipsync.models.lse_syncnet import LSESyncNet
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.types import Image, Waveform

Network = TypeVar("Network", bound=nn.Module)

CHUNK = 16
"""Windows of frames computed at once; bounds memory, changes no result beyond rounding."""
HEARD = 64
"""Windows of sound computed at once."""

MFCC_STEPS = 20
MFCC_PER_FRAME = 4
MFCC_REACH = 240
"""Samples behind the end of a frame that its last column of features looks at (400 long, 160 apart)."""


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

    def look(self, frames: Iterable[Image]) -> Tensor:
        """``(V, D)``: row i stands for the five frames from frame i on.

        Raises:
            NotScorableError: Too few frames.
        """
        ...

    def hear(self, waveform: Waveform, rows: int) -> Tensor:
        """``(A, D)``: row i stands for the sound of the same time as row i of :meth:`look`, up to ``rows``.

        Frame i is taken to begin ``i / 25`` seconds after the first sample. There are fewer rows than asked
        for where the sound ends earlier.

        Raises:
            NotScorableError: Too little sound.
        """
        ...


def features(judge: Judge, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
    """Both embeddings of a stretch, ``(V, D)`` each: every window that has both picture and sound.

    Frames beyond the end of the sound are not read.

    Raises:
        NotScorableError: Too few frames or too little sound.
    """
    try:
        video = judge.look(islice(frames, len(waveform) // SAMPLES_PER_FRAME))
    except NotScorableError:
        judge.hear(waveform, 2 * judge.vshift)  # where the sound is too short, that is the reason to give
        raise
    audio = judge.hear(waveform, len(video))
    return video[: len(audio)], audio


def sync_score(judge: Judge, frames: Iterable[Image], waveform: Waveform) -> SyncScore:
    """Distance, confidence and offset of a stretch, both embedded by ``judge``.

    Raises:
        NotScorableError: Too few frames or too little sound.
        CheckpointError: The features are not finite.
    """
    video, audio = features(judge, frames, waveform)
    if not (video.isfinite().all() and audio.isfinite().all()):
        raise CheckpointError(f"judge {judge.name}: its features are not finite; the weights are damaged")
    return score_distances(sync_distances(video, audio, judge.vshift, padding=judge.padding))


class _NetworkJudge(Generic[Network]):
    """What both judges have in common.

    Args:
        network: In eval mode.
        name: Shown in reports.
        sha256: Of the weight file.
        device: Where the network computes.
        chunk: Windows of frames computed at once.
    """

    least: int
    """Windows below which there is no score."""

    def __init__(
        self,
        network: Network,
        name: str = "",
        sha256: str = "",
        device: str | torch.device = "cpu",
        *,
        chunk: int = CHUNK,
    ) -> None:
        self.network = network.to(device).eval()
        self.name, self.sha256 = name, sha256
        self.device = torch.device(device)
        self.chunk = chunk

    @torch.inference_mode()
    def look(self, frames: Iterable[Image]) -> Tensor:
        """See :class:`Judge`; frames ``(size, size, 3)``."""
        video = [self._look(block) for block in _blocks(frames, self.chunk)]
        windows = sum(map(len, video))
        if windows < self.least:
            seen = windows + SYNC_FRAMES - 1 if windows else "fewer than 5"
            raise NotScorableError(f"only {seen} consecutive frames, at least {self._needed} are needed")
        return torch.cat(video)

    def _audible(self, waveform: Waveform, rows: int) -> Waveform:
        """The sound of the frames behind ``rows`` windows, in whole frames.

        Raises:
            NotScorableError: It is too short.
        """
        frames = min(rows + SYNC_FRAMES - 1, len(waveform) // SAMPLES_PER_FRAME)
        if frames < self._needed:
            raise NotScorableError(
                f"sound lasts {frames} frames of 40 ms, at least {self._needed} are needed"
            )
        return waveform[: frames * SAMPLES_PER_FRAME]

    @property
    def _needed(self) -> int:
        return self.least + SYNC_FRAMES - 1

    def _look(self, block: list[Image]) -> Tensor:
        """``N`` frames -> ``(N - 4, D)``."""
        raise NotImplementedError


class SyncNetJudge(_NetworkJudge[FoldedLSESyncNet]):
    """SyncNet v2 (Chung and Zisserman, 2016), the judge of LSE-D and LSE-C.

    Args:
        network: With its weights; the judge keeps a folded copy of them.
        name: Shown in reports.
        sha256: Of the weight file.
        device: Where the network computes.
        chunk: Windows of frames computed at once.
        precision: See :class:`lipsync.models.lse_folded.FoldedLSESyncNet`.
    """

    kind: Literal["lse", "expert"] = "lse"
    view: Literal["scene", "face"] = "scene"
    size = 224
    least = 2
    vshift = VSHIFT
    padding = 0.0

    def __init__(
        self,
        network: LSESyncNet,
        name: str = "",
        sha256: str = "",
        device: str | torch.device = "cpu",
        *,
        chunk: int = CHUNK,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(FoldedLSESyncNet(network, precision), name, sha256, device, chunk=chunk)

    @torch.inference_mode()
    def hear(self, waveform: Waveform, rows: int) -> Tensor:
        """See :class:`Judge`; rows of 1024 numbers, not normalised."""
        length = len(self._audible(waveform, rows))
        rows = length // SAMPLES_PER_FRAME - SYNC_FRAMES + 1
        # The features of the last 10 ms of a frame reach beyond it, into silence where the sound ends there.
        sound = np.pad(waveform[: length + MFCC_REACH], (0, max(0, length + MFCC_REACH - len(waveform))))
        coefficients = mfcc(np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16))
        # (windows, 13, 20)
        windows = torch.from_numpy(coefficients).unfold(0, MFCC_STEPS, MFCC_PER_FRAME)[:rows]
        with _exact(self.device):
            return torch.cat(
                [self.network.hear(part.to(self.device)).cpu() for part in windows.unsqueeze(1).split(HEARD)]
            )

    def _look(self, block: list[Image]) -> Tensor:
        with _exact(self.device):
            return self.network.look(torch.from_numpy(np.stack(block)).to(self.device)).cpu()


class ExpertJudge(_NetworkJudge[SyncNet]):
    """A SyncNet expert of this package as judge, of any width and image size and either head.

    Rows are unit vectors, so a distance ``d`` is a cosine of ``1 - d^2 / 2``. Pairs beyond the ends of the
    sound are left out instead of compared with zeros: among unit vectors a zero would count as a fair match.

    Args:
        network: The expert; it is kept, not copied.
        name: Shown in reports.
        sha256: Of the weight file.
        device: Where the network computes.
        chunk: Windows of frames computed at once.
        precision: ``bfloat16``: under autocast, faster and rounded to 8 significant bits.
    """

    kind: Literal["lse", "expert"] = "expert"
    view: Literal["scene", "face"] = "face"
    vshift = VSHIFT
    padding = math.nan
    least = VSHIFT + 10
    """So that at least ten pairs stand behind every shift."""

    def __init__(
        self,
        network: SyncNet,
        name: str = "",
        sha256: str = "",
        device: str | torch.device = "cpu",
        *,
        chunk: int = CHUNK,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(network, name, sha256, device, chunk=chunk)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    @property
    def size(self) -> int:
        """Side of the crops in pixels: what the network was built for."""
        return self.network.image_size

    @torch.inference_mode()
    def hear(self, waveform: Waveform, rows: int) -> Tensor:
        """See :class:`Judge`; rows of unit length."""
        sound = self._audible(waveform, rows)
        mel = torch.from_numpy(log_mel(sound))
        windows = len(sound) // SAMPLES_PER_FRAME - SYNC_FRAMES + 1
        starts = [start for i in range(windows) if (start := training_start(i)) + MEL_STEPS <= mel.shape[1]]
        return torch.cat([self._hear(mel, starts[i : i + HEARD]) for i in range(0, len(starts), HEARD)])

    def _look(self, block: list[Image]) -> Tensor:
        # (N, H, W, 3) -> windows (N - 4, 3, 5, H, W) in [0, 1]
        frames = torch.from_numpy(np.stack(block)).to(self.device).permute(0, 3, 1, 2).float() / 255
        windows = frames.unfold(0, SYNC_FRAMES, 1).permute(0, 1, 4, 2, 3)
        with _exact(self.device), self._autocast:
            return self.network.encode_face(lower_half_windows(windows)).cpu()

    def _hear(self, mel: Tensor, starts: list[int]) -> Tensor:
        windows = torch.stack([mel[:, start : start + MEL_STEPS] for start in starts]).unsqueeze(1)
        with _exact(self.device), self._autocast:
            return self.network.encode_audio(windows.to(self.device)).cpu()


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Float32 products on CUDA in full: TensorFloat-32 would change the third digit of a distance."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    products = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)


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
