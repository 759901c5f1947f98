"""SyncNet v2, the judge behind LSE-D and LSE-C (Chung & Zisserman, "Out of time", ACCV 2016 workshops).

net.eval()
video = net.forward_lip(frames)   # (B, 3, 5, 224, 224) in [0, 255] -> (B, 1024)
audio = net.forward_aud(mfcc)     # (B, 1, 13, 20) -> (B, 1024)

:class:`lipsync.models.lse_folded.FoldedLSESyncNet` gives the same rows faster.
"""

from __future__ import annotations

from torch import Tensor, nn

WINDOW = 5
"""Video frames one embedding looks at."""


class LSESyncNet(nn.Module):
    """Two-stream network whose embedding distances measure lip-sync errors.

    State-dict keys, their order and shapes equal those of the released ``syncnet_v2.model`` (13,631,616
    parameters). Use it in eval mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _audio_stream()
        self.netfcaud = _projection()
        self.netfclip = _projection()
        self.netcnnlip = _lip_stream()

    def forward_aud(self, mfcc: Tensor) -> Tensor:
        """MFCC windows of 0.2 s, ``(B, 1, 13, 20)`` -> ``(B, 1024)``, not normalised."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def forward_lip(self, frames: Tensor) -> Tensor:
        """Face windows ``(B, 3, 5, 224, 224)``, BGR in [0, 255] -> ``(B, 1024)``, not normalised."""
        return self.netfclip(self.forward_lipfeat(frames))

    def forward_lipfeat(self, frames: Tensor) -> Tensor:
        """Face windows ``(B, 3, 5, 224, 224)``, BGR in [0, 255] -> ``(B, 512)``, non-negative."""
        return self.netcnnlip(frames).flatten(1)


def _audio_stream() -> nn.Sequential:
    return nn.Sequential(
        *_conv2d(1, 64),
        nn.MaxPool2d(1, 1),  # changes nothing, but keeps the indices of the released keys
        *_conv2d(64, 192),
        nn.MaxPool2d(3, (1, 2)),
        *_conv2d(192, 384),
        *_conv2d(384, 256),
        *_conv2d(256, 256),
        nn.MaxPool2d(3, 2),
        *_conv2d(256, 512, (5, 4), padding=0),
    )


def _lip_stream() -> nn.Sequential:
    return nn.Sequential(
        *_conv3d(3, 96, (5, 7, 7), stride=2, padding=0),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
        *_conv3d(96, 256, (1, 5, 5), stride=2),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        *_conv3d(256, 256),
        *_conv3d(256, 256),
        *_conv3d(256, 256),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
        *_conv3d(256, 512, (1, 6, 6), padding=0),
    )


def _projection() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def _conv2d(
    inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), padding: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        nn.Conv2d(inputs, outputs, kernel, padding=padding),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _conv3d(
    inputs: int, outputs: int, kernel: tuple[int, int, int] = (1, 3, 3), stride: int = 1, padding: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Convolution with the given spatial stride and padding; in time neither."""
    return (
        nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), (0, padding, padding)),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )
