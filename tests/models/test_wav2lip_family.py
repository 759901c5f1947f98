"""Wav2Lip, SyncNet and the quality critic against the reference's recorded outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsync.models.layers import fold_time, scaled, unfold_time
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.models.wav2lip import Wav2Lip

Load = Callable[[str], tuple[dict[str, Any], Any]]
Fill = Callable[..., Any]


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape).astype(np.float32))


def mels(seed: int, *shape: int) -> Tensor:
    values = np.random.default_rng(seed).standard_normal((*shape, 80, 16)) * 2
    return torch.from_numpy(np.clip(values, -4, 4).astype(np.float32))


def assert_close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def record(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Filled with the outputs of ``modules`` at the next forward pass."""
    seen: dict[str, Tensor] = {}
    for name, module in modules.items():

        def hook(_module: nn.Module, _inputs: object, output: Tensor, name: str = name) -> None:
            seen[name] = output.detach().clone()

        module.register_forward_hook(hook)
    return seen


def assert_statistics(seen: dict[str, Tensor], manifest: dict[str, Any]) -> None:
    assert set(seen) == set(manifest["intermediates"])
    for name, expected in manifest["intermediates"].items():
        value = seen[name]
        assert list(value.shape) == expected["shape"], name
        found = [value.double().mean().item(), value.double().std(correction=0).item()]
        assert found == pytest.approx([expected["mean"], expected["std"]], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("name", "factory"),
    [("Wav2Lip", Wav2Lip), ("SyncNet_color", SyncNet), ("Wav2Lip_disc_qual", QualityDiscriminator)],
)
def test_state_dict_equals_the_released_one(
    name: str, factory: Callable[[], nn.Module], parity: Load
) -> None:
    manifest, _ = parity(name)
    with torch.device("meta"):
        module = factory()
    state = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in module.state_dict().items()
    ]
    assert state == manifest["keys"]
    assert sum(p.numel() for p in module.parameters()) == manifest["parameters"]


@torch.no_grad()
def test_wav2lip_outputs(parity: Load, fill: Fill) -> None:
    manifest, expected = parity("Wav2Lip")
    net = fill(Wav2Lip(), gain=0.7)
    watched = {
        "audio_encoder": net.audio_encoder,
        "face_encoder_blocks_2": net.face_encoder_blocks[2],
        "face_encoder_blocks_6": net.face_encoder_blocks[6],
        "face_decoder_blocks_3": net.face_decoder_blocks[3],
        "face_decoder_blocks_6": net.face_decoder_blocks[6],
        "pre_sigmoid": net.output_block,
    }
    seen = record(watched)
    assert_close(net(mels(111, 2, 1), uniform(112, 2, 6, 96, 96)), expected["out4"])
    assert_statistics(seen, manifest)
    assert_close(net(mels(113, 1, 5, 1), uniform(114, 1, 6, 5, 96, 96)), expected["out5"])


@torch.no_grad()
def test_wav2lip_windows_equal_single_frames() -> None:
    net = Wav2Lip(width=0.125).eval()
    sound, faces = mels(1, 2, 3, 1), uniform(2, 2, 6, 3, 96, 96)
    window = net(sound, faces)
    assert window.shape == (2, 3, 3, 96, 96)
    for t in range(3):
        torch.testing.assert_close(window[:, :, t], net(sound[:, t], faces[:, :, t]))


@torch.no_grad()
def test_syncnet_outputs(parity: Load, fill: Fill) -> None:
    manifest, expected = parity("SyncNet_color")
    net = fill(SyncNet(), gain=0.7)
    watched = {name: net.get_submodule(".".join(name.rsplit("_", 1))) for name in manifest["intermediates"]}
    seen = record(watched)
    inputs = mels(101, 3, 1), uniform(102, 3, 15, 48, 96)
    audio, face = net(*inputs)
    assert_statistics(seen, manifest)
    assert_close(audio, expected["audio_embedding"])
    assert_close(face, expected["face_embedding"])
    assert_close((audio * face).sum(1), expected["cosine"])
    audio, face = net.train()(*inputs)
    assert_close(audio, expected["audio_embedding_trainmode"])
    assert_close(face, expected["face_embedding_trainmode"])
    assert_close((audio * face).sum(1), expected["cosine_trainmode"])


@torch.no_grad()
def test_quality_discriminator_outputs(parity: Load, fill: Fill) -> None:
    manifest, expected = parity("Wav2Lip_disc_qual")
    net = fill(QualityDiscriminator())
    seen = record({"b2": net.face_encoder_blocks[2], "b6": net.face_encoder_blocks[6]})
    logits = net(uniform(121, 2, 3, 5, 96, 96))
    assert_statistics(seen, manifest)
    assert_close(logits.sigmoid(), expected["pred"])


def test_scaled_widths() -> None:
    assert [scaled(c, 1.0) for c in (16, 384, 512)] == [16, 384, 512]
    assert [scaled(c, 0.5) for c in (16, 384, 512)] == [8, 192, 256]
    assert scaled(16, 0.1) == 8
    assert scaled(64, 0.3) == 16


def test_time_folds_time_major_and_back() -> None:
    x = torch.arange(2 * 1 * 3 * 2 * 2).reshape(2, 1, 3, 2, 2)
    folded = fold_time(x)
    assert torch.equal(folded[1 * 2 + 0], x[0, :, 1])
    assert torch.equal(unfold_time(folded, 3), x)


def test_lower_half_windows_are_frame_major() -> None:
    frames = uniform(3, 2, 3, 5, 96, 96)
    windows = lower_half_windows(frames)
    assert windows.shape == (2, 15, 48, 96)
    for t in range(5):
        assert torch.equal(windows[:, 3 * t : 3 * t + 3], frames[:, :, t, 48:])


@pytest.mark.parametrize("width", [0.125, 0.4])
def test_compact_variants_train(width: float) -> None:
    net = Wav2Lip(width)
    out = net(mels(1, 2, 1), uniform(2, 2, 6, 96, 96))
    assert out.shape == (2, 3, 96, 96)
    out.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_contrastive_head_is_signed_unit_and_learns_its_scale() -> None:
    net = SyncNet(width=0.125, head="contrastive", embedding=32)
    extra = set(net.state_dict()) - set(SyncNet(width=0.125).state_dict())
    assert extra == {
        "log_temperature",
        "face_head.weight",
        "face_head.bias",
        "audio_head.weight",
        "audio_head.bias",
    }
    audio, face = net(mels(1, 4, 1), uniform(2, 4, 15, 48, 96))
    assert audio.shape == face.shape == (4, 32)
    torch.testing.assert_close(face.norm(dim=1), torch.ones(4))
    assert (audio < 0).any()
    assert (audio > 0).any()
    assert net.scale.item() == pytest.approx(10.0)
    net.scale.backward()
    assert net.log_temperature.grad is not None
    with torch.no_grad():
        net.log_temperature.fill_(9.0)
    assert net.scale.item() == pytest.approx(100.0)


def test_cosine_head_of_a_compact_expert() -> None:
    audio, face = SyncNet(width=0.25)(mels(1, 2, 1), uniform(2, 2, 15, 48, 96))
    assert audio.shape == face.shape == (2, 128)
    assert (face >= 0).all()


def test_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="head must be"):
        SyncNet(head="triplet")  # type: ignore[arg-type]


@torch.no_grad()
def test_channels_last_and_bfloat16_change_only_digits() -> None:
    net = Wav2Lip(width=0.25).eval()
    expert = SyncNet(width=0.25).eval()
    inputs = mels(1, 2, 1), uniform(2, 2, 6, 96, 96)
    window = uniform(3, 2, 15, 48, 96)
    plain, embedding = net(*inputs), expert.encode_face(window)
    net.to(memory_format=torch.channels_last)
    expert.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(*inputs), plain, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, half_embedding = net(*inputs), expert.encode_face(window)
    assert half.dtype == half_embedding.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0, atol=0.02)
    torch.testing.assert_close(half_embedding.norm(dim=1), torch.ones(2))
    assert (half_embedding * embedding).sum(1).min() > 0.999
