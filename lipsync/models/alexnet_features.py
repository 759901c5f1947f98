"""The convolutional part of AlexNet, whose maps LPIPS compares.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014; layer sizes and key names
``features.{0,3,6,8,10}`` are those of torchvision, so that its weights fit.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class AlexNetFeatures(nn.Module):
    """Five maps of a picture, each taken behind its ReLU.

    Weights: any file with torchvision's AlexNet keys; those of the classifier are not needed.
    """

    channels: ClassVar[tuple[int, ...]] = (64, 192, 384, 256, 256)
    """Of the five maps."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Maps ``(B, C, h, w)`` of normalised RGB pictures ``(B, 3, H, W)``, sides of at least 31."""
        maps = []
        for layer in self.features:
            pictures = layer(pictures)
            if isinstance(layer, nn.ReLU):
                maps.append(pictures)
        return maps
