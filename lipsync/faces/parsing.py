"""Which pixels of an aligned face are lips, skin, hair, ...: face parsing with 19 classes.

parser = FaceParser()                                   # BiSeNet; FaceParser("parsenet") for ParseNet
lips = parser.probabilities(crops, LIPS)                # (N, S, S) in [0, 1]
face, lips = parser.region_probabilities(crops, (FACE, LIPS))    # one pass of the network
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipsync.checkpoints.loading import Source
from lipsync.checkpoints.networks import load_face_parser
from lipsync.checkpoints.store import Progress
from lipsync.checks import is_whole
from lipsync.errors import ConfigError
from lipsync.models.batching import BatchSize, run_batched
from lipsync.models.device import Precision, autocast, resolve_device, resolve_precision
from lipsync.models.face_parser import BiSeNet
from lipsync.types import Image


class Region(StrEnum):
    """The classes of CelebAMask-HQ.

    Left and right are the face's own, not the picture's. Networks mix them up: ask for both together.
    """

    BACKGROUND = "background"
    SKIN = "skin"
    LEFT_BROW = "left brow"
    RIGHT_BROW = "right brow"
    LEFT_EYE = "left eye"
    RIGHT_EYE = "right eye"
    GLASSES = "glasses"
    LEFT_EAR = "left ear"
    RIGHT_EAR = "right ear"
    EARRING = "earring"
    NOSE = "nose"
    MOUTH = "mouth"
    """Its inside: teeth, tongue."""
    UPPER_LIP = "upper lip"
    LOWER_LIP = "lower lip"
    NECK = "neck"
    NECKLACE = "necklace"
    CLOTH = "cloth"
    HAIR = "hair"
    HAT = "hat"


LIPS = frozenset({Region.MOUTH, Region.UPPER_LIP, Region.LOWER_LIP})
"""Lips and what is between them."""
FACE = LIPS | {
    Region.SKIN,
    Region.NOSE,
    Region.GLASSES,
    Region.LEFT_EYE,
    Region.RIGHT_EYE,
    Region.LEFT_BROW,
    Region.RIGHT_BROW,
}
"""The face without hair, ears and neck."""

BISENET_ORDER: tuple[Region, ...] = tuple(Region)
"""Class numbers of ``face-parsing.PyTorch``."""
PARSENET_ORDER: tuple[Region, ...] = (
    Region.BACKGROUND,
    Region.SKIN,
    Region.NOSE,
    Region.GLASSES,
    Region.LEFT_EYE,
    Region.RIGHT_EYE,
    Region.LEFT_BROW,
    Region.RIGHT_BROW,
    Region.LEFT_EAR,
    Region.RIGHT_EAR,
    Region.MOUTH,
    Region.UPPER_LIP,
    Region.LOWER_LIP,
    Region.HAIR,
    Region.HAT,
    Region.EARRING,
    Region.NECKLACE,
    Region.NECK,
    Region.CLOTH,
)
"""Class numbers of facexlib, those of the data set itself."""

SMALLEST = 384
"""Least side of a parser's input, in pixels."""
_ADVICE = "use device=cpu or precision=bfloat16 for the face parser, or do without one"


class FaceParser:
    """Probabilities of the parts of aligned faces.

    BiSeNet is meant (13.8 GMAC at 512 pixels); ParseNet gives the same classes at 17 times the cost. Both
    know faces of 512 pixels. On 40 real faces BiSeNet at 384 agrees with itself at 512 to an intersection
    over union of 0.93 for :data:`LIPS` (0.73 at worst) and 0.99 for :data:`FACE`, in 0.65 of the time. At 320
    it misses whole mouths, at 256 most of them, so less than 384 is refused.

    Args:
        weights: ``face_parsing`` or ``parsenet`` of the checkpoint catalogue, a path, or a loaded dict. Which
            network to build is told by the keys.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``bfloat16`` and ``float16`` run the network under autocast; ``auto`` as in
            :func:`lipsync.models.device.resolve_precision`. Bfloat16 changes 0.5 % of the pixels of the lips.
        size: Side of the network's input, a multiple of 32 from 384 on; pictures are resized to it.
        batch_size: Most pictures in a forward; None chooses 1 on a CPU and 8 elsewhere. When memory runs out
            it is halved for good; pictures already parsed are kept.
        progress: Called while a file of the catalogue is downloaded.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        ConfigError: The device is not there, or a setting is out of range.
    """

    def __init__(
        self,
        weights: Source = "face_parsing",
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        size: int = 512,
        *,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not is_whole(size, SMALLEST) or size % BiSeNet.STRIDE:
            raise ConfigError(
                f"face parser size={size}: give 512, or another multiple of 32 from {SMALLEST} on"
            )
        if batch_size is not None and not is_whole(batch_size, 1):
            raise ConfigError(
                f"face parser batch_size={batch_size}: give a whole number of 1 or more, or null"
            )
        self.size = size
        self.device = resolve_device(device)
        self.batch_size = BatchSize(batch_size or (1 if self.device.type == "cpu" else 8))
        self.dtype = resolve_precision(precision, self.device)
        network, _ = load_face_parser(weights, progress)
        order = BISENET_ORDER if isinstance(network, BiSeNet) else PARSENET_ORDER
        self._channels = {region: channel for channel, region in enumerate(order)}
        # mypy does not know the keyword, which is documented for nn.Module.to
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # (x / 255 - mean) / std as one multiplication and one addition
        std = 255 * torch.tensor(network.STD, device=self.device)
        self._scale = (1 / std)[:, None, None]
        self._shift = (-255 * torch.tensor(network.MEAN, device=self.device) / std)[:, None, None]

    def probabilities(self, crops: Image, regions: Collection[Region]) -> npt.NDArray[np.float32]:
        """How likely each pixel belongs to one of ``regions``.

        Args:
            crops: ``(N, S, S, 3)`` uint8 BGR, faces laid out like :data:`lipsync.faces.align.FFHQ_TEMPLATE`.
            regions: For instance :data:`LIPS` or :data:`FACE`.

        Returns:
            ``(N, S, S)`` in [0, 1]: the sum of the softmax probabilities of these classes. Soft, so that it
            can be averaged over time before anything is cut off.
        """
        return self.region_probabilities(crops, (regions,))[0]

    def region_probabilities(
        self, crops: Image, groups: Sequence[Collection[Region]]
    ) -> npt.NDArray[np.float32]:
        """As :meth:`probabilities`, for several groups of regions from one pass of the network.

        Args:
            crops: ``(N, S, S, 3)`` uint8 BGR.
            groups: Any number of sets of regions; they may overlap.

        Returns:
            ``(len(groups), N, S, S)`` in [0, 1].

        Raises:
            ConfigError: The device has not enough memory for a single picture.
        """
        members = torch.zeros(len(groups), len(self._channels), device=self.device)
        for row, regions in enumerate(groups):
            members[row, [self._channels[region] for region in regions]] = 1
        found = np.empty((len(groups), *crops.shape[:3]), np.float32)
        done = 0
        for part in run_batched(
            lambda some: self._sums(some, members), list(crops), self.batch_size, self.device, _ADVICE
        ):
            found[:, done : done + part.shape[1]] = part
            done += part.shape[1]
        return found

    @torch.inference_mode()
    def _sums(self, crops: Sequence[Image], members: Tensor) -> npt.NDArray[np.float32]:
        """``(groups, N, S, S)``: for each row of ``members`` the sum of its classes' probabilities."""
        pixels = torch.from_numpy(self._resized(crops)).to(self.device).flip(-1).permute(0, 3, 1, 2)
        faces = torch.addcmul(self._shift, pixels.float(), self._scale)
        with autocast(self.device, self.dtype):
            scores = self.network.scores(
                faces.contiguous(memory_format=torch.channels_last), crops[0].shape[:2]
            )
        sums = torch.einsum("nchw,gc->gnhw", scores.float().softmax(1), members).clamp_(0, 1)
        return np.asarray(sums.cpu().numpy(), np.float32)

    def _resized(self, crops: Sequence[Image]) -> Image:
        side = len(crops[0])
        if side == self.size:
            return np.stack(crops)
        how = cv2.INTER_AREA if side > self.size else cv2.INTER_LINEAR
        resized = [cv2.resize(crop, (self.size, self.size), interpolation=how) for crop in crops]
        return np.asarray(np.stack(resized), np.uint8)
