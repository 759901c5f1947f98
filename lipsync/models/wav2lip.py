"""Wav2Lip generator (Prajwal et al., "A Lip Sync Expert Is All You Need", ACM Multimedia 2020, section 3).

    generator = Wav2Lip()
    frames = generator(mels, faces)   # (B, 1, 80, 16), (B, 6, 96, 96) -> (B, 3, 96, 96) in [0, 1]

The HQ variant is the same network trained against a critic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipsync.models.layers import (
    ConvBlock,
    UpConvBlock,
    audio_encoder,
    fold_time,
    residual_blocks,
    scaled,
    unfold_time,
)

_ENCODER = ((32, 2), (64, 3), (128, 2), (256, 2), (512, 1))
"""(channels, residual blocks) of the encoder stages that halve the size, 96 -> 3."""
_DECODER = ((512, 1), (512, 2), (384, 2), (256, 2), (128, 2), (64, 2))
"""(channels, residual blocks) of the decoder stages, 1 -> 3 -> 6 -> ... -> 96."""


class Wav2Lip(nn.Module):
    """U-Net that repaints the lower half of a face to match 0.2 s of speech.

    At ``width=1`` the state-dict keys, their order and shapes equal those of the released checkpoints
    (36,298,035 parameters).

    Args:
        width: Multiplier of every inner channel count (rounded to multiples of 8), for compact variants.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stem, top = scaled(16, width), scaled(512, width)
        skips = [stem, *(scaled(channels, width) for channels, _ in _ENCODER), top]
        encoder = [nn.Sequential(ConvBlock(6, stem, kernel=7, padding=3))]
        for inputs, outputs, (_, count) in zip(skips, skips[1:], _ENCODER, strict=False):
            encoder.append(
                nn.Sequential(ConvBlock(inputs, outputs, stride=2), *residual_blocks(outputs, count))
            )
        encoder.append(
            nn.Sequential(ConvBlock(top, top, padding=0), ConvBlock(top, top, kernel=1, padding=0))
        )
        self.face_encoder_blocks = nn.ModuleList(encoder)
        self.audio_encoder = audio_encoder(width, residual_256=1)

        decoder = [nn.Sequential(ConvBlock(top, top, kernel=1, padding=0))]
        channels = top
        for stage, (outputs, count) in enumerate(_DECODER):
            inputs, channels = channels + skips[-1 - stage], scaled(outputs, width)
            up = UpConvBlock(inputs, channels, stride=1 if stage == 0 else 2)
            decoder.append(nn.Sequential(up, *residual_blocks(channels, count)))
        self.face_decoder_blocks = nn.ModuleList(decoder)
        last = scaled(32, width)
        self.output_block = nn.Sequential(ConvBlock(channels + stem, last), nn.Conv2d(last, 3, 1))

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        """Repaint faces.

        Args:
            mels: ``(B, 1, 80, 16)`` log-mel windows in [-4, 4], or ``(B, T, 1, 80, 16)``.
            faces: ``(B, 6, 96, 96)`` BGR in [0, 1], or ``(B, 6, T, 96, 96)``: channels 0-2 the target frame
                with its lower half set to 0, channels 3-5 the reference frame.

        Returns:
            ``(B, 3, 96, 96)`` or ``(B, 3, T, 96, 96)`` BGR in [0, 1], float32 under autocast too (eight bits
            of mantissa would show as banding).
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
