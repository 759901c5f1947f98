"""Which network a state dict belongs to, and with which settings to build it, told by keys and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from lipsync.errors import CheckpointError
from lipsync.models.layers import HALVINGS, IMAGE_SIZES

State = dict[str, Tensor]


class Kind(StrEnum):
    """Networks of the Wav2Lip family, its judges and its helpers; the value is the name shown to the user."""

    GENERATOR = "Wav2Lip generator"
    EXPERT = "SyncNet expert"
    CRITIC = "visual quality discriminator"
    S3FD = "S3FD face detector"
    S3FD_SYNCNET_PYTHON = "S3FD face detector (syncnet_python layout)"
    LSE_SYNCNET = "SyncNet v2 (LSE judge)"
    GFPGAN = "GFPGAN face restorer"
    BISENET = "BiSeNet face parser"
    PARSENET = "ParseNet face parser"
    UNKNOWN = "network of unknown kind"


_SIGNATURES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.GENERATOR, ("face_decoder_blocks.", "output_block.")),
    (Kind.CRITIC, ("binary_pred.",)),
    (Kind.EXPERT, ("face_encoder.", "audio_encoder.")),
    (Kind.S3FD, ("conv3_3_norm.", "fc6.")),
    (Kind.S3FD_SYNCNET_PYTHON, ("L2Norm3_3.", "vgg.")),
    (Kind.LSE_SYNCNET, ("netcnnaud.", "netcnnlip.")),
    # "final_conv.weight": in GFPGAN 1.0, which is another network, the layer is "final_conv.0".
    (Kind.GFPGAN, ("stylegan_decoder.", "condition_scale.", "final_conv.weight")),
    (Kind.BISENET, ("cp.resnet.", "ffm.")),
    (Kind.PARSENET, ("encoder.", "out_mask_conv.")),
)
_MULTIPLE = 8
_CONSTANT, _FIRST = "stylegan_decoder.constant_input.weight", "conv_body_first.weight"


@dataclass(frozen=True)
class _Encoder:
    """The face encoder of a network for 96 pixels; for larger pictures blocks are added behind the first.

    Attributes:
        layer: Key of a block's first convolution, for its number.
        blocks: How many there are.
        added: Blocks that one more halving of the picture adds.
        whole: The block whose kernel covers the last map, which ends the halvings.
        channels: Output channels at width 1 of blocks that together show every channel count.
        others: The same of further layers, by their keys.
    """

    layer: str
    blocks: int
    added: int
    whole: int
    channels: Mapping[int, int]
    others: Mapping[str, int] = field(default_factory=dict)


_ENCODERS = {
    Kind.GENERATOR: _Encoder(
        "face_encoder_blocks.{}.0.conv_block.0",
        blocks=7,
        added=1,
        whole=6,
        channels={stage: 16 << stage for stage in range(6)},
        others={"face_decoder_blocks.3.0.conv_block.0": 384},
    ),
    Kind.EXPERT: _Encoder(
        "face_encoder.{}.conv_block.0",
        blocks=17,
        added=3,
        whole=15,
        channels={block: 32 << stage for stage, block in enumerate((0, 1, 4, 8, 11))},
    ),
}


def kind_of(keys: Iterable[str]) -> Kind:
    """Kind of network that owns the state-dict ``keys``; part of its keys is enough."""
    names = list(keys)
    for kind, prefixes in _SIGNATURES:
        if all(any(name.startswith(prefix) for name in names) for prefix in prefixes):
            return kind
    return Kind.UNKNOWN


def generator_kwargs(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``Wav2Lip`` for the weights in ``state``: width and image size.

    Raises:
        CheckpointError: The shapes are of no Wav2Lip generator of this family.
    """
    return _sizes(state, Kind.GENERATOR)


def expert_kwargs(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``SyncNet`` for the weights in ``state``: width, image size, head, embedding if it counts.

    Raises:
        CheckpointError: The shapes are of no SyncNet expert of this family.
    """
    sizes = _sizes(state, Kind.EXPERT)
    head = state.get("face_head.weight")
    if head is None:
        return {**sizes, "head": "cosine"}
    return {**sizes, "head": "contrastive", "embedding": head.shape[0]}


def gfpgan_kwargs(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``GFPGANv1Clean`` for the weights in ``state``: size and channel counts.

    Raises:
        CheckpointError: The shapes are of no such network.
    """
    noises = sum(key.startswith("stylegan_decoder.noises.") for key in state)
    if noises < 3 or noises % 2 == 0:
        raise _alien(Kind.GFPGAN, f"they hold {noises} noises")
    constant, first = (state.get(key, torch.empty(0, 0)).shape for key in (_CONSTANT, _FIRST))
    if not all((*constant, *first)):
        raise _alien(Kind.GFPGAN, f"{_CONSTANT} or {_FIRST} is missing")
    side = 1 << (noises + 3) // 2  # one noise at side 4, two at each larger one
    narrow = constant[1] / 512
    # The U-Net's finest level has half of 256 * 64 / side channels, times the factors.
    multiplier = 2 if side < 64 else max(1, round(first[0] * side / (8192 * narrow)))
    return {"out_size": side, "channel_multiplier": multiplier, "narrow": narrow}


def describe(state: Mapping[str, Tensor]) -> str:
    """Name of the network with the settings that can be told, for messages."""
    kind = kind_of(state)
    readers = {
        Kind.GENERATOR: generator_kwargs,
        Kind.EXPERT: expert_kwargs,
        Kind.GFPGAN: gfpgan_kwargs,
    }
    if kind not in readers:
        return kind.value
    try:
        settings = readers[kind](state)
    except CheckpointError:
        return f"{kind.value} of another architecture"
    return f"{kind.value} ({', '.join(f'{name}={value}' for name, value in settings.items())})"


def _sizes(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Any]:
    """``{"width": ..., "image_size": ...}``, told by the number of blocks and by shapes."""
    encoder = _ENCODERS[kind]
    before, after = encoder.layer.split("{}")
    numbers = {key.removeprefix(before).partition(".")[0] for key in state if key.startswith(before)}
    further = max(0, (len(numbers) - encoder.blocks) // encoder.added)
    shift = further * encoder.added
    keys = {
        f"{before}{block + shift if block else 0}{after}": base for block, base in encoder.channels.items()
    }
    biases = {f"{key}.bias": base for key, base in {**keys, **encoder.others}.items()}
    width = _width(state, biases, kind)
    weight = f"{before}{encoder.whole + shift}{after}.weight"
    if weight not in state:
        raise _alien(kind, f"{weight} is missing")
    image_size = state[weight].shape[-1] << (HALVINGS + further)
    if image_size not in IMAGE_SIZES:
        raise _alien(kind, "no size of the pictures gives their layers")
    return {"width": width, "image_size": image_size}


def _alien(kind: Kind, reason: str) -> CheckpointError:
    return CheckpointError(f"the weights are not of a {kind.value} of this family: {reason}")


def _width(state: Mapping[str, Tensor], channels: Mapping[str, int], kind: Kind) -> float:
    """The roundest width multiplier that gives the channel counts seen.

    Networks round ``base * width`` to a multiple of 8, at least 8, so each layer bounds the width.
    """
    low, high = 0.0, math.inf
    for key, base in channels.items():
        if key not in state:
            raise _alien(kind, f"{key} is missing")
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
    raise _alien(kind, "no width gives their channel counts")
