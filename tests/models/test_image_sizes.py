"""The family at other resolutions: layer plans derived from the size of the pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest
import torch
from torch import Tensor, nn

from lipsync.models.layers import (
    IMAGE_SIZES,
    ConvBlock,
    Pyramid,
    UpConvBlock,
    WholeConv2d,
    WholeConvTranspose2d,
)
from lipsync.models.quality_discriminator import QualityDiscriminator
from lipsync.models.syncnet import SyncNet, lower_half_windows
from lipsync.models.wav2lip import Wav2Lip

WIDTH = 0.05
LARGER = [size for size in IMAGE_SIZES if size != 96]
FACTORIES = [Wav2Lip, SyncNet, QualityDiscriminator]
CHANNELS_LAST = torch.channels_last


def sides(network: nn.Module, blocks: type[nn.Module], run: Callable[[], object]) -> list[tuple[int, ...]]:
    """Heights and widths of the maps that the network's ``blocks`` give, in order, repetitions left out."""
    seen: list[tuple[int, ...]] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[-2:])))
        for module in network.modules()
        if isinstance(module, blocks)
    ]
    run()
    for handle in handles:
        handle.remove()
    return [side for side, _ in groupby(seen)]


def assert_trained(*networks: nn.Module) -> None:
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def step(image_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and backward of generator, expert and critic, channels-last, under bfloat16 autocast."""
    generator = Wav2Lip(WIDTH, image_size=image_size).to(memory_format=CHANNELS_LAST)
    expert = SyncNet(WIDTH, head="contrastive", embedding=16, image_size=image_size)
    expert.to(memory_format=CHANNELS_LAST)
    critic = QualityDiscriminator(WIDTH, image_size=image_size).to(memory_format=CHANNELS_LAST)
    mels, faces = torch.randn(2, 5, 1, 80, 16), torch.rand(2, 6, 5, image_size, image_size)
    with torch.autocast("cpu", torch.bfloat16):
        frames = generator(mels, faces)
        audio, face = expert(mels[:, 0], lower_half_windows(frames))
        logits = critic(frames)
    (frames.mean() + (audio * face).sum() * expert.scale + logits.float().sum()).backward()
    assert_trained(generator, expert, critic)
    return frames, face, logits


def test_sizes_and_their_pyramids() -> None:
    assert IMAGE_SIZES == (96, 128, 192, 256)
    assert [Pyramid.of(size) for size in IMAGE_SIZES] == [
        Pyramid(3, 5),
        Pyramid(4, 5),
        Pyramid(3, 6),
        Pyramid(4, 6),
    ]
    assert Pyramid(3, 5).stages((1, 2)) == (1, 2)
    assert Pyramid(3, 6).stages((1, 2)) == (1, 1, 2)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("image_size", [0, -96, 48, 95, 97, 144, 224, 384])
def test_other_sizes_are_refused_in_one_line(factory: Callable[..., nn.Module], image_size: int) -> None:
    with pytest.raises(ValueError, match=rf"^image_size={image_size}: choose 96, 128, 192 or 256$"):
        factory(image_size=image_size)


@pytest.mark.parametrize("factory", FACTORIES)
def test_96_is_the_default_and_sizes_of_one_bottom_share_a_plan(factory: Callable[..., nn.Module]) -> None:
    with torch.device("meta"):
        networks = {size: factory(image_size=size) for size in IMAGE_SIZES}
        plain = factory().state_dict()
    states = {size: network.state_dict() for size, network in networks.items()}
    assert [network.image_size for network in networks.values()] == list(IMAGE_SIZES)
    assert [(key, value.shape) for key, value in plain.items()] == [
        (key, value.shape) for key, value in states[96].items()
    ]
    for small, large in ((96, 128), (192, 256)):
        assert list(states[small]) == list(states[large])
        differing = {key for key in states[small] if states[small][key].shape != states[large][key].shape}
        kernels = {(*states[small][key].shape[-2:], *states[large][key].shape[-2:]) for key in differing}
        assert kernels == {(3, 3, 4, 4)}
        assert len(differing) == (2 if factory is Wav2Lip else 1)  # to 1x1, and back in the generator
    added = len(states[192]) - len(states[96])
    # tensors of a layer with batch norm: 7, without: 2
    assert added == {Wav2Lip: 2 * 3 * 7, SyncNet: 3 * 7, QualityDiscriminator: 2 * 2}[factory]  # type: ignore[index]


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@torch.no_grad()
def test_the_generator_halves_down_to_the_bottom_and_back(image_size: int) -> None:
    network = Wav2Lip(WIDTH, image_size=image_size).eval()
    inputs = torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, image_size, image_size)
    pyramid = Pyramid.of(image_size)
    squares = [pyramid.bottom << level for level in range(pyramid.halvings + 1)]
    down = sides(network.face_encoder_blocks, ConvBlock, lambda: network(*inputs))
    assert down == [(side, side) for side in (*reversed(squares), 1)]
    up = sides(network.face_decoder_blocks, UpConvBlock, lambda: network(*inputs))
    assert up == [(side, side) for side in squares]


@pytest.mark.parametrize(
    ("image_size", "maps"),
    [
        (96, [(48, 96), (46, 47), (23, 24), (12, 12), (6, 6), (3, 3), (1, 1)]),
        (128, [(64, 128), (62, 63), (31, 32), (16, 16), (8, 8), (4, 4), (1, 1)]),
        (192, [(96, 192), (94, 95), (47, 48), (24, 24), (12, 12), (6, 6), (3, 3), (1, 1)]),
        (256, [(128, 256), (126, 127), (63, 64), (32, 32), (16, 16), (8, 8), (4, 4), (1, 1)]),
    ],
)
@torch.no_grad()
def test_the_expert_halves_the_lower_half_down_to_one_vector(
    image_size: int, maps: list[tuple[int, int]]
) -> None:
    network = SyncNet(WIDTH, image_size=image_size).eval()
    window = torch.zeros(1, 15, image_size // 2, image_size)
    assert sides(network.face_encoder, ConvBlock, lambda: network.encode_face(window)) == maps


@pytest.mark.parametrize("image_size", [96, 128, 192, pytest.param(256, marks=pytest.mark.slow)])
def test_a_training_step_in_channels_last_and_bfloat16(image_size: int) -> None:
    frames, face, logits = step(image_size)
    assert frames.shape == (2, 3, 5, image_size, image_size)
    assert frames.dtype == torch.float32
    assert face.shape == (2, 16)
    assert logits.shape == (10, 1)
    assert frames.isfinite().all()


@pytest.mark.parametrize("image_size", LARGER)
def test_larger_networks_see_the_whole_picture(image_size: int) -> None:
    """Every corner of the lower half has a say in the expert's and the critic's verdict."""
    expert = SyncNet(WIDTH, image_size=image_size).eval()
    critic = QualityDiscriminator(WIDTH, image_size=image_size).eval()
    frames = torch.rand(1, 3, 5, image_size, image_size, requires_grad=True)
    (expert.encode_face(lower_half_windows(frames)).max() + critic(frames).sum()).backward()
    assert frames.grad is not None
    half, edge = image_size // 2, image_size // 8
    lower = frames.grad[..., half:, :].abs()
    assert frames.grad[..., :half, :].abs().sum() == 0
    corners = lower[..., :edge, :edge], lower[..., :edge, -edge:], lower[..., -edge:, :edge]
    assert all(corner.sum() > 0 for corner in (*corners, lower[..., -edge:, -edge:]))


@pytest.mark.parametrize(("built", "shown"), [(96, 192), (96, 128), (192, 96)])
def test_pictures_of_another_size_are_not_scored(built: int, shown: int) -> None:
    with pytest.raises(ValueError, match="built for inputs of another size"):
        SyncNet(WIDTH, image_size=built).encode_face(torch.rand(2, 15, shown // 2, shown))
    with pytest.raises(ValueError, match="built for inputs of another size"):
        QualityDiscriminator(WIDTH, image_size=built)(torch.rand(1, 3, 2, shown, shown))
    with pytest.raises(ValueError, match="built for inputs of another size"):
        Wav2Lip(WIDTH, image_size=built)(torch.randn(2, 1, 80, 16), torch.rand(2, 6, shown, shown))


# --- Convolutions that are matrix products where compiled ---


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize("up", [False, True])
def test_whole_map_convolutions_equal_convolutions(
    up: bool, kernel: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_type, whole_type = (nn.ConvTranspose2d, WholeConvTranspose2d) if up else (nn.Conv2d, WholeConv2d)
    plain, whole = plain_type(6, 10, kernel).double(), whole_type(6, 10, kernel).double()
    whole.load_state_dict(plain.state_dict(), strict=True)
    side = 1 if up else kernel
    results = []
    for layer in (plain, whole):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda layer=layer: layer is whole)
        layer.to(memory_format=memory_format)  # type: ignore[call-overload]
        torch.manual_seed(0)
        x = torch.randn(3, 6, side, side, dtype=torch.float64).to(memory_format=memory_format)
        out = layer(x.requires_grad_())
        (out * torch.arange(out.numel(), dtype=torch.float64).view(out.shape)).sum().backward()
        results.append((out, x.grad, layer.weight.grad, layer.bias.grad))
        assert out.is_contiguous(memory_format=memory_format)
    assert whole.weight.grad is not None
    assert whole.weight.grad.stride() == whole.weight.stride()
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("factory", [WholeConv2d, WholeConvTranspose2d])
def test_whole_map_products_stay_in_bfloat16_under_autocast(
    factory: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert factory(8, 8, 1)(torch.rand(2, 8, 1, 1)).dtype == torch.bfloat16


@pytest.mark.slow
def test_compiled_networks_convolve_no_1x1_maps_and_train() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    network = Wav2Lip(WIDTH, image_size=128).to(memory_format=CHANNELS_LAST)
    inputs = torch.randn(2, 1, 80, 16), torch.rand(2, 6, 128, 128)
    expected = network(*inputs)
    compiled = torch.compile(network, backend=backend)
    frames = compiled(*inputs)
    torch.testing.assert_close(frames, expected, rtol=1e-3, atol=1e-4)
    frames.mean().backward()
    assert_trained(network)
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    products = sum("linear" in target or "matmul" in target for target in targets)
    assert len(graphs) == 1
    # to 1x1 and once more, in both encoders; the decoder's first layer, and its way up from 1x1
    assert products == 2 + 2 + 1 + 1
