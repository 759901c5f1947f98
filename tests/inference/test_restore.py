from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsync.errors import CheckpointError, ConfigError
from lipsync.inference.onnx_restore import OnnxRestorer
from lipsync.inference.restore import GfpganPackageRestorer, GFPGANRestorer, TorchRestorer
from lipsync.models.gfpgan import GFPGANv1Clean

SIDE = 64


def faces(count: int, size: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([cv2.resize(picture, (size, size)) for picture in coarse])


@pytest.fixture(scope="module")
def network(fill: Callable[..., nn.Module]) -> nn.Module:
    """A small network whose noise and condition both show in the picture."""
    return fill(GFPGANv1Clean(out_size=SIDE, narrow=0.25), gain=0.7)


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gfpgan") / "small.pth"
    torch.save({"params_ema": network.state_dict()}, path)
    return path


def test_gfpgan_sees_rgb_and_gives_bgr(weights: Path, network: nn.Module) -> None:
    restorer = GFPGANRestorer(weights, device="cpu")
    assert restorer.size == SIDE
    crops = faces(3)
    restored = restorer(crops)
    assert restored.shape == crops.shape
    assert restored.dtype == np.uint8
    rgb = torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        direct = network(rgb).clamp(-1, 1)
    expected = ((direct + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1]
    assert np.abs(restored.astype(int) - expected).max() <= 1
    assert restored.std() > 5, "the picture must hold something"
    assert (restored[0] != restored[1]).mean() > 0.1


def test_a_face_is_restored_the_same_way_each_time_and_in_any_batch(weights: Path) -> None:
    crops = faces(5)
    one = GFPGANRestorer(weights, device="cpu", batch_size=1)
    four = GFPGANRestorer(weights, device="cpu", batch_size=4)
    first = one(crops)
    np.testing.assert_array_equal(first, one(crops))
    assert np.abs(first.astype(int) - four(crops)).max() <= 1
    assert one(crops[:0]).shape == (0, SIDE, SIDE, 3)


def test_bfloat16_stays_near_float32(weights: Path) -> None:
    full = GFPGANRestorer(weights, device="cpu")(faces(2)).astype(int)
    half = GFPGANRestorer(weights, device="cpu", precision="bfloat16")(faces(2)).astype(int)
    assert np.abs(full - half).mean() < 3


def test_settings_and_files_at_fault_are_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size=0"):
        GFPGANRestorer(weights, device="cpu", batch_size=0)
    with pytest.raises(ConfigError, match="precision=float8"):
        GFPGANRestorer(weights, device="cpu", precision="float8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device=tpu"):
        GFPGANRestorer(weights, device="tpu")
    other = tmp_path / "other.pth"
    torch.save({"params_ema": {"layer.weight": torch.zeros(3)}}, other)
    with pytest.raises(CheckpointError, match=r"other.pth") as caught:
        GFPGANRestorer(other, device="cpu")
    assert "\n" not in str(caught.value)


class Inverting(TorchRestorer):
    """Gives the negative; runs out of memory for more than ``room`` pictures at once."""

    def __init__(self, room: int, batch_size: int) -> None:
        super().__init__(nn.Identity(), SIDE, device="cpu", batch_size=batch_size)
        self.room = room
        self.tried: list[int] = []

    def _forward(self, faces: Tensor) -> Tensor:
        self.tried.append(len(faces))
        if len(faces) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return -faces


def test_when_memory_runs_out_the_batch_is_halved_and_finished_work_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    crops = faces(10)
    restorer = Inverting(room=3, batch_size=8)
    np.testing.assert_array_equal(restorer(crops), 255 - crops)
    assert restorer.tried == [8, 4, 2, 2, 2, 2, 2]
    assert restorer.batch_size.current == 2
    assert "with 4 at a time: going on with 2" in caplog.text
    restorer.tried.clear()
    restorer(crops[:4])
    assert restorer.tried == [2, 2], "the size that fits is remembered"


def test_work_done_before_memory_ran_out_is_not_repeated() -> None:
    class Later(Inverting):
        def _forward(self, faces: Tensor) -> Tensor:
            self.room = 4 if len(self.tried) < 1 else 2
            return super()._forward(faces)

    restorer = Later(room=4, batch_size=4)
    crops = faces(8)
    np.testing.assert_array_equal(restorer(crops), 255 - crops)
    assert restorer.tried == [4, 4, 2, 2]


def test_too_little_memory_for_one_face_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="not enough memory") as caught:
        Inverting(room=0, batch_size=4)(faces(2))
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_swallowed() -> None:
    class Broken(Inverting):
        def _forward(self, faces: Tensor) -> Tensor:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Broken(room=1, batch_size=1)(faces(1))


def test_without_the_gfpgan_package_the_reason_and_the_way_out_are_told(
    monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gfpgan", None)
    with pytest.raises(ConfigError, match=r"does not import .*; use restorer=gfpgan") as caught:
        GfpganPackageRestorer(weights)
    assert "\n" not in str(caught.value)


def test_our_network_equals_the_packages(weights: Path) -> None:
    try:
        importlib.import_module("gfpgan.archs.gfpganv1_clean_arch")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"the gfpgan package does not import: {error}")
    theirs = GfpganPackageRestorer(weights, device="cpu")(faces(3)).astype(int)
    assert np.abs(theirs - GFPGANRestorer(weights, device="cpu")(faces(3))).max() <= 1


class Entry:
    """An input as ONNX Runtime describes it."""

    def __init__(self, name: str, shape: list[int | str], kind: str = "tensor(float)") -> None:
        self.name, self.shape, self.type = name, shape, kind


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for ONNX Runtime: ``inputs`` and ``answer`` are to be set; ``fed`` holds what came."""
    module = types.ModuleType("onnxruntime")
    state = types.ModuleType("onnxruntime.capi.onnxruntime_pybind11_state")
    for name in (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    ):
        setattr(state, name, type(name, (Exception,), {}))
    module.inputs = [Entry("input", ["batch", 3, SIDE, SIDE])]  # type: ignore[attr-defined]
    module.answer = lambda values: -values  # type: ignore[attr-defined]
    module.fed = []  # type: ignore[attr-defined]
    module.state = state  # type: ignore[attr-defined]

    class Session:
        def __init__(self, path: str, providers: list[object]) -> None:
            assert Path(path).is_file()
            module.providers = providers  # type: ignore[attr-defined]

        def get_inputs(self) -> list[Entry]:
            return list(module.inputs)

        def run(self, names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            module.fed.append(feed)
            return [module.answer(feed["input"])]

    module.InferenceSession = Session  # type: ignore[attr-defined]
    module.get_available_providers = lambda: ["CPUExecutionProvider"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setitem(sys.modules, "onnxruntime.capi", types.ModuleType("onnxruntime.capi"))
    monkeypatch.setitem(sys.modules, "onnxruntime.capi.onnxruntime_pybind11_state", state)
    return module


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x08\x08")
    return path


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_onnx_networks_see_rgb_in_their_own_range(
    runtime: types.ModuleType, onnx_file: Path, value_range: tuple[float, float]
) -> None:
    low, high = value_range
    runtime.answer = lambda values: high + low - values
    restorer = OnnxRestorer(onnx_file, value_range=value_range, batch_size=2)
    crops = faces(5)
    np.testing.assert_array_equal(restorer(crops), 255 - crops)
    assert [len(feed["input"]) for feed in runtime.fed] == [2, 2, 1]
    fed = runtime.fed[0]["input"]
    assert fed.dtype == np.float32
    expected = crops[0, 0, 0, 2] / 255 * (high - low) + low
    assert fed[0, 0, 0, 0] == pytest.approx(expected, abs=1e-6)
    assert runtime.providers == ["CPUExecutionProvider"]
    assert restorer.size == SIDE


@pytest.mark.parametrize(
    ("device", "first"),
    [
        ("auto", "CUDAExecutionProvider"),
        ("cuda", "CUDAExecutionProvider"),
        ("cuda:1", ("CUDAExecutionProvider", {"device_id": 1})),
        ("cpu", "CPUExecutionProvider"),
    ],
)
def test_onnx_networks_run_on_the_card_that_was_named(
    runtime: types.ModuleType, onnx_file: Path, device: str, first: object
) -> None:
    runtime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    OnnxRestorer(onnx_file, device=device)
    assert runtime.providers[0] == first
    assert runtime.providers[-1] == "CPUExecutionProvider"
    for name in ("cuda:", "cuda:x", "cuda:-1", "auto:1"):
        with pytest.raises(ConfigError, match=f"device={name} is unknown"):
            OnnxRestorer(onnx_file, device=name)


def test_onnx_files_with_a_fixed_batch_half_floats_and_a_fidelity(
    runtime: types.ModuleType, onnx_file: Path
) -> None:
    runtime.inputs = [
        Entry("input", [2, 3, "h", "w"], "tensor(float16)"),
        Entry("weight", [], "tensor(double)"),
    ]
    restorer = OnnxRestorer(onnx_file, size=SIDE, fidelity=0.3, batch_size=9)
    crops = faces(3)
    restored = restorer(crops)
    assert restored.shape == crops.shape
    assert np.abs(restored.astype(int) - (255 - crops)).max() <= 1
    assert [feed["input"].shape[0] for feed in runtime.fed] == [2, 2]
    assert runtime.fed[0]["input"].dtype == np.float16
    assert runtime.fed[0]["weight"].dtype == np.float64
    assert runtime.fed[0]["weight"].shape == ()
    assert float(runtime.fed[0]["weight"]) == 0.3
    runtime.inputs[0] = Entry("input", ["n", 3, "h", "w"])
    assert OnnxRestorer(onnx_file).size == 512


def test_a_larger_output_is_averaged_down(runtime: types.ModuleType, onnx_file: Path) -> None:
    runtime.answer = lambda values: values.repeat(2, axis=2).repeat(2, axis=3)
    crops = faces(2)
    np.testing.assert_array_equal(OnnxRestorer(onnx_file)(crops), crops)


def test_onnx_faults_are_told_in_one_line(
    runtime: types.ModuleType, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(values: np.ndarray) -> np.ndarray:
        raise runtime.state.InvalidArgument("Got invalid dimensions\nfor input")

    runtime.answer = refused
    restorer = OnnxRestorer(onnx_file)
    with pytest.raises(CheckpointError, match=r"net.onnx.*64 x 64 pixels \(Got invalid") as caught:
        restorer(faces(1))
    assert "\n" not in str(caught.value)
    runtime.answer = lambda values: values[:, 0]
    with pytest.raises(CheckpointError, match="no network from pictures to pictures"):
        restorer(faces(1))
    runtime.inputs = [Entry("audio", [1, 80])]
    with pytest.raises(CheckpointError, match="no network from pictures to pictures"):
        OnnxRestorer(onnx_file)
    with pytest.raises(ConfigError, match="without CUDA"):
        OnnxRestorer(onnx_file, device="cuda")
    with pytest.raises(ConfigError, match="device=mps"):
        OnnxRestorer(onnx_file, device="mps")
    with pytest.raises(ConfigError, match="value_range"):
        OnnxRestorer(onnx_file, value_range=(1.0, 0.0))
    with pytest.raises(ConfigError, match="batch_size=0"):
        OnnxRestorer(onnx_file, batch_size=0)
    for name, value in (("size", 1.5), ("batch_size", "x"), ("fidelity", "x"), ("value_range", ("a", 1.0))):
        with pytest.raises(ConfigError, match=f"restorer {name}="):
            OnnxRestorer(onnx_file, **{name: value})  # type: ignore[arg-type]
    page = tmp_path / "page.onnx"
    page.write_text("<!doctype html>")
    with pytest.raises(CheckpointError, match=r"page.onnx: is a web page"):
        OnnxRestorer(page)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="pip install onnxruntime"):
        OnnxRestorer(onnx_file)


def _field(number: int, payload: bytes | int) -> bytes:
    """One field of a protocol-buffer message."""
    if isinstance(payload, int):
        return bytes([number << 3, payload])
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def _identity_network() -> bytes:
    """A whole ONNX file: one Identity over ``(n, 3, h, w)`` float."""
    sides = [
        _field(1, _field(2, b"n")),
        _field(1, _field(1, 3)),
        *[_field(1, _field(2, x)) for x in (b"h", b"w")],
    ]
    kind = _field(2, _field(1, _field(1, 1) + _field(2, b"".join(sides))))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = _field(1, node) + _field(2, b"g") + _field(11, _field(1, b"x") + kind)
    graph += _field(12, _field(1, b"y") + kind)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def test_the_installed_onnx_runtime_runs_and_refuses(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    path = tmp_path / "identity.onnx"
    path.write_bytes(_identity_network())
    crops = faces(3)
    np.testing.assert_array_equal(OnnxRestorer(path, SIDE)(crops), crops)
    path.write_bytes(_identity_network()[:-20])
    with pytest.raises(CheckpointError, match=r"identity.onnx: ONNX Runtime cannot read it"):
        OnnxRestorer(path, SIDE)
