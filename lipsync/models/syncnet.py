"""SyncNet, the lip-sync expert: do 0.2 s of speech and five mouth pictures belong together?

Trunk of Prajwal et al. (ACM Multimedia 2020, section 3.1), with two heads:

* ``cosine``, the original: the ReLU'd trunk outputs, whose cosine lies in [0, 1];
* ``contrastive``: linear projections of both trunks, signed, compared with a learned temperature
  (Radford et al., ICML 2021, section 2.3).
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync.models.layers import (
    ConvBlock,
    Pyramid,
    audio_encoder,
    residual_blocks,
    scaled,
    whole_blocks,
)

Head: TypeAlias = Literal["cosine", "contrastive"]

_STAGES = ((64, 2), (128, 3), (256, 2), (512, 2), (512, 0))
"""(channels, residual blocks) of the face stages that halve the size, 48x96 -> 46x47 -> 23x24 ... -> 3x3."""

MAX_SCALE = 100.0
"""Upper bound of the factor on the cosine in contrastive logits."""


def lower_half_windows(frames: Tensor) -> Tensor:
    """Stack the lower halves of consecutive frames into channels, frame-major.

    Args:
        frames: ``(B, 3, T, H, W)``, H even.

    Returns:
        ``(B, 3 * T, H / 2, W)``: B, G, R of frame 0, then B, G, R of frame 1, ...
    """
    return frames[..., frames.shape[-2] // 2 :, :].transpose(1, 2).flatten(1, 2)


class SyncNet(nn.Module):
    """Embeds speech and mouth windows into one space.

    With ``width=1`` and the cosine head, state-dict keys, their order and shapes equal those of the released
    expert (16,435,072 parameters).

    Args:
        width: Multiplier of every inner channel count (each rounded to a multiple of 8).
        head: ``"cosine"`` or ``"contrastive"``.
        embedding: Size of the contrastive embedding; the cosine head has 512 * width.
        image_size: Side of the pictures whose lower halves are shown, 96, 128, 192 or 256; larger ones get
            more stages at the fine end.

    Raises:
        ValueError: For an unknown head or another size.
    """

    def __init__(
        self, width: float = 1.0, head: Head = "cosine", embedding: int = 256, image_size: int = 96
    ) -> None:
        super().__init__()
        if head not in ("cosine", "contrastive"):
            raise ValueError(f"head must be 'cosine' or 'contrastive', not {head!r}")
        self.head = head
        self.image_size = image_size
        self.face_encoder = _face_encoder(width, Pyramid.of(image_size))
        self.audio_encoder = audio_encoder(width, residual_256=2)
        if head == "contrastive":
            trunk = scaled(512, width)
            self.face_head: nn.Module = nn.Linear(trunk, embedding)
            self.audio_head: nn.Module = nn.Linear(trunk, embedding)
            self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        else:
            self.face_head = self.audio_head = nn.Identity()

    @property
    def scale(self) -> Tensor:
        """Factor on the cosine in contrastive logits, learned, at most 100; scalar, float32.

        Raises:
            AttributeError: With the cosine head, which has no temperature.
        """
        return self.log_temperature.float().clamp(max=math.log(MAX_SCALE)).exp()

    def encode_audio(self, mel: Tensor) -> Tensor:
        """Log-mel windows ``(B, 1, 80, 16)`` in [-4, 4] -> ``(B, D)``, unit length, float32."""
        return _normalized(self.audio_head(self.audio_encoder(mel).flatten(1)))

    def encode_face(self, face_window: Tensor) -> Tensor:
        """Lower halves ``(B, 15, S / 2, S)`` BGR in [0, 1] -> ``(B, D)``, unit length, float32.

        S is ``image_size``; see :func:`lower_half_windows` for the channel order.
        """
        return _normalized(self.face_head(self.face_encoder(face_window).flatten(1)))

    def forward(self, mel: Tensor, face_window: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 1, 80, 16)``, ``(B, 15, S / 2, S)`` -> audio and face embeddings, ``(B, D)`` each."""
        return self.encode_audio(mel), self.encode_face(face_window)


def _normalized(x: Tensor) -> Tensor:
    # float32 under autocast too: the cosine of near-identical vectors needs the digits.
    return functional.normalize(x.float(), dim=1)


def _face_encoder(width: float, pyramid: Pyramid) -> nn.Sequential:
    stages = pyramid.stages(_STAGES)
    channels = scaled(32, width)
    blocks: list[nn.Module] = [ConvBlock(15, channels, kernel=7, padding=3)]
    for stage, (base, count) in enumerate(stages):
        inputs, channels = channels, scaled(base, width)
        if stage == 0:  # the half picture is twice as wide as high
            blocks.append(ConvBlock(inputs, channels, kernel=5, stride=(1, 2), padding=1))
        else:
            blocks.append(ConvBlock(inputs, channels, stride=2))
        blocks += residual_blocks(channels, count)
    return nn.Sequential(*blocks, *whole_blocks(channels, channels, pyramid.bottom))
