"""Visual quality critic of Wav2Lip-HQ (Prajwal et al., ACM Multimedia 2020, section 3.4)."""

from __future__ import annotations

from torch import Tensor, nn

from lipsync.models.layers import LeakyConvBlock, Pyramid, WholeConv2d, fold_time, scaled

_STAGES = ((64, 5), (128, 5), (256, 5), (512, 3), (512, 3))
"""(channels, kernel) of the stages that halve the size, 48x96 -> 48x48 -> ... -> 3x3."""


class QualityDiscriminator(nn.Module):
    """Judges each lower face half on its own: real or generated?

    At ``width=1`` the state-dict keys, their order and shapes equal those of the released checkpoint
    (14,113,793 parameters). Unlike the reference it returns logits; the probability is their sigmoid.

    Args:
        width: Multiplier of every inner channel count (each rounded to a multiple of 8).
        image_size: Side of the pictures, 96, 128, 192 or 256; larger ones get more stages at the fine end.

    Raises:
        ValueError: For another size.
    """

    def __init__(self, width: float = 1.0, image_size: int = 96) -> None:
        super().__init__()
        pyramid = Pyramid.of(image_size)
        self.image_size = image_size
        channels = scaled(32, width)
        blocks = [nn.Sequential(LeakyConvBlock(3, channels, 7, padding=3))]
        for stage, (outputs, kernel) in enumerate(pyramid.stages(_STAGES)):
            inputs, channels = channels, scaled(outputs, width)
            stride = (1, 2) if stage == 0 else 2
            blocks.append(
                nn.Sequential(
                    LeakyConvBlock(inputs, channels, kernel, stride, kernel // 2),
                    LeakyConvBlock(channels, channels, kernel, padding=kernel // 2),
                )
            )
        blocks.append(
            nn.Sequential(
                LeakyConvBlock(channels, channels, pyramid.bottom), LeakyConvBlock(channels, channels, 1)
            )
        )
        self.face_encoder_blocks = nn.ModuleList(blocks)
        self.binary_pred = nn.Sequential(WholeConv2d(channels, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Score frames.

        Args:
            frames: ``(B, 3, T, S, S)`` BGR in [0, 1], S = ``image_size``; only the lower half is looked at.

        Returns:
            ``(T * B, 1)`` logits, positive for real, time-major: row ``t * B + b``.
        """
        x = fold_time(frames[..., frames.shape[-2] // 2 :, :])
        for block in self.face_encoder_blocks:
            x = block(x)
        return self.binary_pred(x).flatten(1)
