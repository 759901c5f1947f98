"""S3FD face detector network (Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", ICCV 2017).

Two forks of it are in use in the field. They differ in the names of their weights and in how two layers are
padded: ``wav2lip`` (``s3fd.pth``, face_alignment) and ``syncnet_python`` (``sfd_face.pth``). What the maps
mean is in :mod:`lipsync.models.s3fd_decoding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Layout: TypeAlias = Literal["wav2lip", "syncnet_python"]

BGR_MEAN = (104.0, 117.0, 123.0)
"""Subtracted from the channels B, G, R of an image in [0, 255] before the network."""

_BACKBONE = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of the 3x3 convolutions of the VGG stages; a 2x2 max-pool follows each."""
_EXTRAS = ((1024, 256, 1), (256, 512, 2), (512, 128, 1), (128, 256, 2))
"""(inputs, outputs, stride) of the layers after fc7; stride 1 has a 1x1 kernel, stride 2 a 3x3 one."""
_TAP_CHANNELS = (256, 512, 512, 1024, 512, 256)
_NORM_INIT = (10.0, 8.0, 5.0)
_NORMALISED_STAGES = (2, 3, 4)
"""VGG stages whose output, before pooling, is normalised and given to the heads."""


@dataclass(frozen=True)
class _Names:
    """Where a fork keeps its weights, and its two settings."""

    vgg: tuple[tuple[str, ...], ...]
    fc6: str
    fc7: str
    extras: tuple[str, ...]
    norms: tuple[str, ...]
    heads: tuple[tuple[str, str], ...]
    """(class scores, box offsets) of each tap."""
    heads_interleaved: bool
    """Order of the state dict: scores and offsets in turns, or all offsets and then all scores."""
    pool3_ceil: bool
    fc6_dilation: int
    fc6_padding: int


def _wav2lip_names() -> _Names:
    vgg = tuple(
        tuple(f"conv{stage}_{layer}" for layer in range(1, len(channels) + 1))
        for stage, channels in enumerate(_BACKBONE, start=1)
    )
    taps = ("conv3_3_norm", "conv4_3_norm", "conv5_3_norm", "fc7", "conv6_2", "conv7_2")
    return _Names(
        vgg=vgg,
        fc6="fc6",
        fc7="fc7",
        extras=("conv6_1", "conv6_2", "conv7_1", "conv7_2"),
        norms=taps[:3],
        heads=tuple((f"{tap}_mbox_conf", f"{tap}_mbox_loc") for tap in taps),
        heads_interleaved=True,
        pool3_ceil=False,
        fc6_dilation=1,
        fc6_padding=3,
    )


def _syncnet_python_names() -> _Names:
    indices = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    return _Names(
        vgg=tuple(tuple(f"vgg.{index}" for index in stage) for stage in indices),
        fc6="vgg.31",
        fc7="vgg.33",
        extras=tuple(f"extras.{index}" for index in range(4)),
        norms=("L2Norm3_3", "L2Norm4_3", "L2Norm5_3"),
        heads=tuple((f"conf.{index}", f"loc.{index}") for index in range(6)),
        heads_interleaved=False,
        pool3_ceil=True,
        fc6_dilation=6,
        fc6_padding=6,
    )


_LAYOUTS = {"wav2lip": _wav2lip_names, "syncnet_python": _syncnet_python_names}


class L2Norm(nn.Module):
    """Unit length over the channels, times a learned factor per channel (Liu et al., ParseNet, 2015)."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return x / norm * self.weight[:, None, None]


class S3FD(nn.Module):
    """Single-shot detector with heads at strides 4, 8, 16, 32, 64 and 128.

    State-dict keys, their order and shapes equal those of the released weights of the chosen fork
    (22,459,110 parameters).

    Args:
        layout: Whose weights will be loaded: ``"wav2lip"`` or ``"syncnet_python"``.

    Raises:
        ValueError: For an unknown layout.
    """

    def __init__(self, layout: Layout = "wav2lip") -> None:
        super().__init__()
        if layout not in _LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(_LAYOUTS)}, not {layout!r}")
        self.layout = layout
        self._names = names = _LAYOUTS[layout]()
        inputs = 3
        for stage, channels in zip(names.vgg, _BACKBONE, strict=True):
            for name, outputs in zip(stage, channels, strict=True):
                self._attach(name, nn.Conv2d(inputs, outputs, 3, padding=1))
                inputs = outputs
        fc6 = nn.Conv2d(inputs, 1024, 3, padding=names.fc6_padding, dilation=names.fc6_dilation)
        self._attach(names.fc6, fc6)
        self._attach(names.fc7, nn.Conv2d(1024, 1024, 1))
        extras = [
            (name, nn.Conv2d(inputs, outputs, 1 if stride == 1 else 3, stride, padding=stride - 1))
            for name, (inputs, outputs, stride) in zip(names.extras, _EXTRAS, strict=True)
        ]
        norms = [
            (name, L2Norm(channels, scale))
            for name, channels, scale in zip(names.norms, _TAP_CHANNELS, _NORM_INIT, strict=False)
        ]
        # The forks agree on everything but the order in which extras and norms are registered.
        for name, module in extras + norms if names.heads_interleaved else norms + extras:
            self._attach(name, module)
        self._attach_heads()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raw maps of a batch of images.

        Args:
            images: ``(B, 3, H, W)``, [0, 255] minus :data:`BGR_MEAN`.

        Returns:
            ``[cls1, reg1, ..., cls6, reg6]``: class scores ``(B, 2, h, w)`` (background, face; no softmax)
            and box offsets ``(B, 4, h, w)`` of the six levels.
        """
        maps = []
        for level, (tap, (conf, loc)) in enumerate(zip(self._taps(images), self._names.heads, strict=True)):
            scores = self._layer(conf, tap)
            if level == 0:
                # Max-out background: the smallest anchors see three kinds of background (paper, section 3.3).
                scores = torch.cat((scores[:, :3].amax(dim=1, keepdim=True), scores[:, 3:]), dim=1)
            maps += [scores, self._layer(loc, tap)]
        return maps

    def _taps(self, x: Tensor) -> list[Tensor]:
        names = self._names
        taps: list[Tensor] = []
        for index, stage in enumerate(names.vgg):
            for name in stage:
                x = functional.relu(self._layer(name, x), inplace=True)
            if index in _NORMALISED_STAGES:
                taps.append(self._layer(names.norms[len(taps)], x))
            x = functional.max_pool2d(x, 2, 2, ceil_mode=index == 2 and names.pool3_ceil)
        for name in (names.fc6, names.fc7, *names.extras):
            x = functional.relu(self._layer(name, x), inplace=True)
            if name in {names.fc7, names.extras[1], names.extras[3]}:
                taps.append(x)
        return taps

    def _layer(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(name)(x)

    def _attach(self, name: str, module: nn.Module) -> None:
        group, _, leaf = name.rpartition(".")
        if not group:
            self.add_module(leaf, module)
            return
        if not hasattr(self, group):
            self.add_module(group, nn.ModuleDict())
        self.get_submodule(group).add_module(leaf, module)

    def _attach_heads(self) -> None:
        scores, offsets = [], []
        for level, ((conf, loc), channels) in enumerate(zip(self._names.heads, _TAP_CHANNELS, strict=True)):
            scores.append((conf, nn.Conv2d(channels, 4 if level == 0 else 2, 3, padding=1)))
            offsets.append((loc, nn.Conv2d(channels, 4, 3, padding=1)))
        if self._names.heads_interleaved:
            order = [head for pair in zip(scores, offsets, strict=True) for head in pair]
        else:
            order = offsets + scores
        for name, module in order:
            self._attach(name, module)
