"""Judges: networks that embed crops and sound into one space, where distance means lack of sync.

SyncNet v2 gives LSE-D and LSE-C. A SyncNet expert of this package can judge too, but what it gives is not LSE
and is never named so: other crops, other features, unit-length embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lipsync.audio.mel import log_mel
from lipsync.audio.mfcc import N_COEFFICIENTS, STEP, mfcc
from lipsync.audio.spec import MEL_STEPS, SAMPLES_PER_FRAME, SYNC_FRAMES, WAV2LIP
from lipsync.audio.windows import training_start
from lipsync.errors import NotScorableError
from lipsync.metrics.functional import VSHIFT
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
MEL_MARGIN = 3
"""Columns of mel that the end of a sound changes."""


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

    def look(self, frames: Iterable[Image]) -> Iterator[Tensor]:
        """Blocks ``(n, D)`` of rows, as frames come in: row i stands for the five frames from frame i on.

        Raises:
            NotScorableError: Too few frames; when they are used up.
        """
        ...

    def windows(self, waveform: Waveform, start: int, stop: int, *, last: bool = False) -> Tensor:
        """``(n, ...)``: what :meth:`hear` wants for the rows ``start`` to ``stop`` of a sound.

        Row i is the sound of the same time as row i of :meth:`look`; frame i is taken to begin ``i / 25``
        seconds after the first sample. There are fewer rows than asked for where the sound ends earlier.
        Equal windows have equal rows.

        Args:
            waveform: ``(N,)`` at 16 kHz, the whole sound.
            start: First row.
            stop: Row after the last one.
            last: The picture ends with these rows, so an expert hears nothing behind them.

        Raises:
            NotScorableError: The whole sound is too short.
        """
        ...

    def hear(self, windows: Tensor) -> Tensor:
        """Windows -> ``(n, D)``."""
        ...


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
    def look(self, frames: Iterable[Image]) -> Iterator[Tensor]:
        """See :class:`Judge`; frames ``(size, size, 3)``."""
        windows = 0
        for block in _blocks(frames, self.chunk):
            rows = self._look(block)
            windows += len(rows)
            yield rows
        if windows < self.least:
            seen = f"only {windows + SYNC_FRAMES - 1}" if windows else f"fewer than {SYNC_FRAMES}"
            raise NotScorableError(f"{seen} consecutive frames, at least {self._needed} are needed")

    @torch.inference_mode()
    def hear(self, windows: Tensor) -> Tensor:
        """See :class:`Judge`."""
        with _exact(self.device):
            return torch.cat(
                [self._hear(part.unsqueeze(1).to(self.device)).cpu() for part in windows.split(HEARD)]
            )

    def _rows_of(self, waveform: Waveform) -> int:
        """Windows that the sound lasts.

        Raises:
            NotScorableError: It is too short.
        """
        frames = len(waveform) // SAMPLES_PER_FRAME
        if frames < self._needed:
            raise NotScorableError(
                f"sound lasts {frames} frames of 40 ms, at least {self._needed} are needed"
            )
        return frames - SYNC_FRAMES + 1

    @property
    def _needed(self) -> int:
        return self.least + SYNC_FRAMES - 1

    def _look(self, block: list[Image]) -> Tensor:
        """``N`` frames -> ``(N - 4, D)``."""
        raise NotImplementedError

    def _hear(self, windows: Tensor) -> Tensor:
        """``(n, 1, height, width)`` -> ``(n, D)``."""
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

    def windows(self, waveform: Waveform, start: int, stop: int, *, last: bool = False) -> Tensor:
        """See :class:`Judge`; ``(n, 13, 20)``, rows of 1024 numbers that are not normalised."""
        del last  # the features of the last 10 ms of a frame reach beyond it
        stop = min(stop, self._rows_of(waveform))
        if stop <= start:
            return torch.empty(0, N_COEFFICIENTS, MFCC_STEPS)
        # Pre-emphasis needs the sample before, so one column more; silence follows where the sound ends.
        begin = max(0, start * SAMPLES_PER_FRAME - STEP)
        end = (stop + SYNC_FRAMES - 1) * SAMPLES_PER_FRAME + MFCC_REACH
        sound = np.pad(waveform[begin:end], (0, max(0, end - len(waveform))))
        coefficients = mfcc(np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16))
        columns = torch.from_numpy(coefficients)[start * MFCC_PER_FRAME - begin // STEP :]
        return columns.unfold(0, MFCC_STEPS, MFCC_PER_FRAME)[: stop - start]

    def _look(self, block: list[Image]) -> Tensor:
        with _exact(self.device):
            return self.network.look(torch.from_numpy(np.stack(block)).to(self.device)).cpu()

    def _hear(self, windows: Tensor) -> Tensor:
        return self.network.hear(windows)


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

    def windows(self, waveform: Waveform, start: int, stop: int, *, last: bool = False) -> Tensor:
        """See :class:`Judge`; ``(n, 80, 16)``, rows of unit length."""
        rows = self._rows_of(waveform)
        stop = min(stop, rows)
        if stop <= start:
            return torch.empty(0, WAV2LIP.n_mels, MEL_STEPS)
        starts = [training_start(row) for row in range(start, stop)]
        first, end = max(0, starts[0] - MEL_MARGIN), (starts[-1] + MEL_STEPS + MEL_MARGIN) * WAV2LIP.hop
        whole = ((stop if last else rows) + SYNC_FRAMES - 1) * SAMPLES_PER_FRAME
        mel = torch.from_numpy(log_mel(waveform[first * WAV2LIP.hop : min(end, whole)]))
        return torch.stack([mel[:, at - first : at - first + MEL_STEPS] for at in starts])

    def _look(self, block: list[Image]) -> Tensor:
        # (N, H, W, 3) -> windows (N - 4, 3, 5, H, W) in [0, 1]
        frames = torch.from_numpy(np.stack(block)).to(self.device).permute(0, 3, 1, 2).float() / 255
        windows = frames.unfold(0, SYNC_FRAMES, 1).permute(0, 1, 4, 2, 3)
        with _exact(self.device), self._autocast:
            return self.network.encode_face(lower_half_windows(windows)).cpu()

    def _hear(self, windows: Tensor) -> Tensor:
        with self._autocast:
            return self.network.encode_audio(windows)


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
