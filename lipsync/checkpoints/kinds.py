"""Which network a state dict belongs to, and with which settings to build it, told by keys and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from torch import Tensor

from lipsync.errors import CheckpointError

State = dict[str, Tensor]


class Kind(StrEnum):
    """Networks of the Wav2Lip family and its judges; the value is the name shown to the user."""

    GENERATOR = "Wav2Lip generator"
    EXPERT = "SyncNet expert"
    CRITIC = "visual quality discriminator"
    S3FD = "S3FD face detector"
    S3FD_SYNCNET_PYTHON = "S3FD face detector (syncnet_python layout)"
    LSE_SYNCNET = "SyncNet v2 (LSE judge)"
    UNKNOWN = "network of unknown kind"


_SIGNATURES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.GENERATOR, ("face_decoder_blocks.", "output_block.")),
    (Kind.CRITIC, ("binary_pred.",)),
    (Kind.EXPERT, ("face_encoder.", "audio_encoder.")),
    (Kind.S3FD, ("conv3_3_norm.", "fc6.")),
    (Kind.S3FD_SYNCNET_PYTHON, ("L2Norm3_3.", "vgg.")),
    (Kind.LSE_SYNCNET, ("netcnnaud.", "netcnnlip.")),
)
# Output channels at width 1 of layers that together show every channel count of the network.
_GENERATOR_CHANNELS = {
    **{f"face_encoder_blocks.{stage}.0.conv_block.0.bias": 16 << stage for stage in range(6)},
    "face_decoder_blocks.3.0.conv_block.0.bias": 384,
}
_EXPERT_CHANNELS = {
    f"face_encoder.{index}.conv_block.0.bias": 32 << stage for stage, index in enumerate((0, 1, 4, 8, 11))
}
_MULTIPLE = 8


def kind_of(keys: Iterable[str]) -> Kind:
    """Kind of network that owns the state-dict ``keys``; part of its keys is enough."""
    names = list(keys)
    for kind, prefixes in _SIGNATURES:
        if all(any(name.startswith(prefix) for name in names) for prefix in prefixes):
            return kind
    return Kind.UNKNOWN


def generator_kwargs(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``Wav2Lip`` for the weights in ``state``: ``{"width": ...}``.

    Raises:
        CheckpointError: The shapes are of no Wav2Lip generator of this family.
    """
    return {"width": _width(state, _GENERATOR_CHANNELS, Kind.GENERATOR)}


def expert_kwargs(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``SyncNet`` for the weights in ``state``: width and head, and embedding where it counts.

    Raises:
        CheckpointError: The shapes are of no SyncNet expert of this family.
    """
    width = _width(state, _EXPERT_CHANNELS, Kind.EXPERT)
    head = state.get("face_head.weight")
    if head is None:
        return {"width": width, "head": "cosine"}
    return {"width": width, "head": "contrastive", "embedding": head.shape[0]}


def describe(state: Mapping[str, Tensor]) -> str:
    """Name of the network with the settings that can be told, for messages."""
    kind = kind_of(state)
    readers = {Kind.GENERATOR: generator_kwargs, Kind.EXPERT: expert_kwargs}
    if kind not in readers:
        return kind.value
    try:
        settings = readers[kind](state)
    except CheckpointError:
        return f"{kind.value} of another architecture"
    return f"{kind.value} ({', '.join(f'{name}={value}' for name, value in settings.items())})"


def _width(state: Mapping[str, Tensor], channels: Mapping[str, int], kind: Kind) -> float:
    """The roundest width multiplier that gives the channel counts seen.

    Networks round ``base * width`` to a multiple of 8, at least 8, so each layer bounds the width.
    """
    low, high = 0.0, math.inf
    for key, base in channels.items():
        if key not in state:
            raise CheckpointError(f"the weights are not of a {kind.value} of this family: {key} is missing")
        count = state[key].shape[0]
        if count > _MULTIPLE:
            low = max(low, (count - _MULTIPLE / 2) / base)
        high = min(high, (count + _MULTIPLE / 2) / base if count % _MULTIPLE == 0 else 0.0)
    digits = 0
    while low < high and digits < 6:
        width = max(round((low + high) / 2, digits), 10.0**-digits)
        if low <= width < high:
            return width
        digits += 1
    raise CheckpointError(
        f"the weights are not of a {kind.value} of this family: no width gives their channel counts"
    )
