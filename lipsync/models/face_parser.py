"""Face parsing: which part of a face each pixel belongs to, 19 classes as in CelebAMask-HQ.

Two networks whose weights are released. Their classes are the same but are numbered differently; which number
means what is in :mod:`lipsync.faces.parsing`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 19


class ConvNormReLU(nn.Module):
    """Convolution without bias -> batch norm -> ReLU.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Side of the kernel, odd.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H, W)``."""
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class BasicBlock(nn.Module):
    """Residual block of ResNet-18 (He et al., CVPR 2016).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if inputs != outputs or stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H / stride, W / stride)``."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn2(self.conv2(y)) + shortcut, inplace=True)


class ResNet18(nn.Module):
    """The convolutions of ResNet-18."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, 3, H, W)`` -> 128, 256 and 512 channels at strides 8, 16 and 32."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.layer1(functional.max_pool2d(y, 3, 2, 1))
        stride8 = self.layer2(y)
        stride16 = self.layer3(stride8)
        return stride8, stride16, self.layer4(stride16)


class AttentionRefinement(nn.Module):
    """Convolution whose channels are weighed by what they hold over the whole picture.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H, W)``."""
        y = self.conv(x)
        return y * torch.sigmoid(self.bn_atten(self.conv_atten(y.mean((2, 3), keepdim=True))))


class ContextPath(nn.Module):
    """What is where, coarsely: a ResNet and the way back to stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvNormReLU(128, 128)
        self.conv_head16 = ConvNormReLU(128, 128)
        self.conv_avg = ConvNormReLU(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, H, W)`` -> detail and context at stride 8, 128 channels each."""
        stride8, stride16, stride32 = self.resnet(x)
        context = self.arm32(stride32) + self.conv_avg(stride32.mean((2, 3), keepdim=True))
        context = self.conv_head32(_nearest(context, stride16)) + self.arm16(stride16)
        return stride8, self.conv_head16(_nearest(context, stride8))


class FeatureFusion(nn.Module):
    """Detail and context into one map.

    Args:
        channels: Of both together, and of the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = ConvNormReLU(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Two maps ``(B, channels / 2, H, W)`` -> ``(B, channels, H, W)``."""
        y = self.convblk(torch.cat((detail, context), dim=1))
        weights = self.conv2(functional.relu(self.conv1(y.mean((2, 3), keepdim=True)), inplace=True))
        return y + y * torch.sigmoid(weights)


class Head(nn.Module):
    """Features to class scores.

    Args:
        inputs: Channels of the input.
        hidden: Channels between.
        classes: Channels of the output.
    """

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(inputs, hidden)
        self.conv_out = nn.Conv2d(hidden, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, classes, H, W)``."""
        scores: Tensor = self.conv_out(self.conv(x))
        return scores


class BiSeNet(nn.Module):
    """BiSeNet with a ResNet-18 (Yu et al., ECCV 2018), in the layout of ``face-parsing.PyTorch``.

    The spatial path is the ResNet's own map at stride 8. Two more heads are in the files, for training.

    Args:
        classes: Number of classes.
    """

    STRIDE = 32
    """Sides of the input must be multiples of it."""
    MEAN = (0.485, 0.456, 0.406)
    """Of the channels R, G, B of the input in [0, 1]."""
    STD = (0.229, 0.224, 0.225)

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256)
        self.conv_out = Head(256, 256, classes)
        self.conv_out16 = Head(128, 64, classes)
        self.conv_out32 = Head(128, 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores.

        Args:
            x: ``(B, 3, H, W)`` RGB, [0, 1] minus :attr:`MEAN`, over :attr:`STD`.

        Returns:
            ``(B, classes, H, W)``, no softmax.
        """
        return self.scores(x, (x.shape[2], x.shape[3]))

    def scores(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Class scores at another size, ``(B, classes, *size)``; they are known at stride 8."""
        scores = self.conv_out(self.ffm(*self.cp(x)))
        return functional.interpolate(scores, size, mode="bilinear", align_corners=True)


class ReflectConv(nn.Module):
    """[Doubling] -> 3x3 convolution of the mirrored map -> [batch norm] -> [leaky ReLU].

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Of the convolution.
        up: Double the size first, by nearest neighbour.
        norm: With batch norm; the convolution then has no bias.
        activation: With leaky ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        up: bool = False,
        norm: bool = False,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.up, self.activation = up, activation
        self.conv2d = nn.Conv2d(inputs, outputs, 3, stride, bias=not norm)
        # One level deeper than needed, as in the released files.
        self.norm = nn.ModuleDict({"norm": nn.BatchNorm2d(outputs)}) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        if self.up:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        y = self.conv2d(functional.pad(x, (1, 1, 1, 1), mode="reflect"))
        if self.norm is not None:
            y = self.norm["norm"](y)
        return functional.leaky_relu(y, 0.2, inplace=True) if self.activation else y


class ParseBlock(nn.Module):
    """Residual block of ParseNet.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        change: Factor on the size: 0.5, 1 or 2.
    """

    def __init__(self, inputs: int, outputs: int, change: float = 1) -> None:
        super().__init__()
        stride, up = (2 if change < 1 else 1), change > 1
        same = inputs == outputs and change == 1
        self.shortcut_func = None if same else ReflectConv(inputs, outputs, stride=stride, up=up)
        self.conv1 = ReflectConv(inputs, outputs, up=up, norm=True, activation=True)
        self.conv2 = ReflectConv(outputs, outputs, stride=stride, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` -> ``(B, outputs, H', W')``."""
        shortcut = x if self.shortcut_func is None else self.shortcut_func(x)
        y: Tensor = self.conv2(self.conv1(x))
        return y + shortcut


class ParseNet(nn.Module):
    """The parser of facexlib and of VideoReTalking (21,303,254 parameters); 17 times as dear as BiSeNet.

    Args:
        classes: Number of classes.
    """

    STRIDE = 16
    """Sides of the input must be multiples of it."""
    MEAN = (0.5, 0.5, 0.5)
    """Of the channels R, G, B of the input in [0, 1]."""
    STD = (0.5, 0.5, 0.5)

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        channels = (64, 128, 256, 256, 256)
        down = [ParseBlock(a, b, 0.5) for a, b in pairwise(channels)]
        self.encoder = nn.Sequential(ReflectConv(3, channels[0]), *down)
        self.body = nn.Sequential(*[ParseBlock(channels[-1], channels[-1]) for _ in range(10)])
        rising = (256, 256, 256, 128, 64)
        self.decoder = nn.Sequential(*[ParseBlock(a, b, 2) for a, b in pairwise(rising)])
        self.out_img_conv = ReflectConv(rising[-1], 3)
        self.out_mask_conv = ReflectConv(rising[-1], classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and the picture that the network makes of the face.

        Args:
            x: ``(B, 3, H, W)`` RGB in [-1, 1].

        Returns:
            ``(B, classes, H, W)``, no softmax, and ``(B, 3, H, W)`` RGB.
        """
        y = self._features(x)
        return self.out_mask_conv(y), self.out_img_conv(y)

    def scores(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The class scores alone, at another size: ``(B, classes, *size)``."""
        scores: Tensor = self.out_mask_conv(self._features(x))
        if scores.shape[2:] == size:
            return scores
        return functional.interpolate(scores, size, mode="bilinear", align_corners=False)

    def _features(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        features: Tensor = self.decoder(y + self.body(y))
        return features


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode="nearest")
