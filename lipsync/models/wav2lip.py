"""Wav2Lip generator (Prajwal et al., "A Lip Sync Expert Is All You Need", ACM Multimedia 2020, section 3).

    generator = Wav2Lip()
    frames = generator(mels, faces)   # (B, 1, 80, 16), (B, 6, 96, 96) -> (B, 3, 96, 96) in [0, 1]

The HQ variant is the same network trained against a critic. Larger pictures are this project's addition:
:class:`~lipsync.models.layers.Pyramid` derives their layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipsync.models.layers import (
    ConvBlock,
    Pyramid,
    UpConvBlock,
    audio_encoder,
    fold_time,
    residual_blocks,
    scaled,
    unfold_time,
    whole_blocks,
)

_ENCODER = ((32, 2), (64, 3), (128, 2), (256, 2), (512, 1))
"""(channels, residual blocks) of the encoder stages that halve the size, 96 -> 3."""
_DECODER = ((64, 2), (128, 2), (256, 2), (384, 2), (512, 2))
"""(channels, residual blocks) of the decoder stages that double it, finest first: 96 <- 48 <- ... <- 3."""
_BOTTOM = (512, 1)
"""(channels, residual blocks) of the decoder stage before, 1 -> 3."""


class Wav2Lip(nn.Module):
    """U-Net that repaints the lower half of a face to match 0.2 s of speech.

    At ``width=1`` the state-dict keys, their order and shapes equal those of the released checkpoints
    (36,298,035 parameters).

    Args:
        width: Multiplier of every inner channel count (rounded to multiples of 8), for compact variants.
        image_size: Side of the pictures, 96, 128, 192 or 256; larger ones get more stages at the fine end.

    Raises:
        ValueError: For another size.
    """

    def __init__(self, width: float = 1.0, image_size: int = 96) -> None:
        super().__init__()
        pyramid = Pyramid.of(image_size)
        self.image_size = image_size
        down = pyramid.stages(_ENCODER)
        stem, top = scaled(16, width), scaled(512, width)
        skips = [stem, *(scaled(channels, width) for channels, _ in down), top]
        encoder = [nn.Sequential(ConvBlock(6, stem, kernel=7, padding=3))]
        for inputs, outputs, (_, count) in zip(skips, skips[1:], down, strict=False):
            encoder.append(
                nn.Sequential(ConvBlock(inputs, outputs, stride=2), *residual_blocks(outputs, count))
            )
        encoder.append(nn.Sequential(*whole_blocks(top, top, pyramid.bottom)))
        self.face_encoder_blocks = nn.ModuleList(encoder)
        self.audio_encoder = audio_encoder(width, residual_256=1)

        decoder = [nn.Sequential(ConvBlock(top, top, kernel=1, padding=None))]
        channels = top
        for stage, (outputs, count) in enumerate((_BOTTOM, *reversed(pyramid.stages(_DECODER)))):
            inputs, channels = channels + skips[-1 - stage], scaled(outputs, width)
            up = UpConvBlock(inputs, channels, grown=pyramid.bottom if stage == 0 else None)
            decoder.append(nn.Sequential(up, *residual_blocks(channels, count)))
        self.face_decoder_blocks = nn.ModuleList(decoder)
        last = scaled(32, width)
        self.output_block = nn.Sequential(ConvBlock(channels + stem, last), nn.Conv2d(last, 3, 1))

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        """Repaint faces.

        Args:
            mels: ``(B, 1, 80, 16)`` log-mel windows in [-4, 4], or ``(B, T, 1, 80, 16)``.
            faces: ``(B, 6, S, S)`` BGR in [0, 1], or ``(B, 6, T, S, S)``, S = ``image_size``: channels 0-2
                the target frame with its lower half set to 0, channels 3-5 the reference frame.

        Returns:
            ``(B, 3, S, S)`` or ``(B, 3, T, S, S)`` BGR in [0, 1], float32 under autocast too (eight bits of
            mantissa would show as banding).
        """
        if faces.dim() == 4:
            return self._repaint(mels, faces)
        folded = self._repaint(mels.transpose(0, 1).flatten(0, 1), fold_time(faces))
        return unfold_time(folded, faces.shape[2])

    def _repaint(self, mels: Tensor, faces: Tensor) -> Tensor:
        skips = []
        for encode in self.face_encoder_blocks:
            faces = encode(faces)
            skips.append(faces)
        x = self.audio_encoder(mels)
        for decode in self.face_decoder_blocks:
            x = torch.cat((decode(x), skips.pop()), dim=1)
        return torch.sigmoid(self.output_block(x).float())
