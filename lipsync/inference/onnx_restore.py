"""Face restorers exported to ONNX: GFP-GAN, GPEN, CodeFormer and their kin, run by ONNX Runtime."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lipsync.checkpoints.formats import shown, why_not_weights
from lipsync.checkpoints.store import resolve
from lipsync.checks import is_whole, need_numbers
from lipsync.errors import CheckpointError, ConfigError
from lipsync.faces.align import FFHQ_SIZE
from lipsync.types import Image

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_FAULTS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")


class OnnxRestorer:
    """A network of pictures ``(B, 3, size, size)``, RGB, both in and out.

    Where it gives a larger picture, that is averaged down. A further input of one number (CodeFormer's
    weight) gets ``fidelity``.

    Args:
        path: The ``.onnx`` file, or its name in the checkpoint catalogue.
        size: Side of the pictures; None takes the file's, or 512 where the file accepts any.
        value_range: What black and white are for the network.
        fidelity: Value of a further input, where there is one; for CodeFormer 0 is the sharpest, 1 the
            nearest to the input.
        batch_size: Most pictures in a run, where the file does not fix it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` takes CUDA where the
            installed ONNX Runtime has it.

    Raises:
        CheckpointError: The file is missing, damaged, or no network from pictures to pictures.
        ConfigError: ONNX Runtime is not installed or lacks the device, or a setting is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        *,
        value_range: tuple[float, float] = (-1.0, 1.0),
        fidelity: float = 0.7,
        batch_size: int = 4,
        device: str = "auto",
    ) -> None:
        black, white = value_range
        need_numbers("restorer", value_range=black, fidelity=fidelity)
        need_numbers("restorer", value_range=white)
        if white <= black:
            raise ConfigError(f"restorer value_range=[{black},{white}]: give black, then white")
        if not is_whole(batch_size, 1):
            raise ConfigError(f"restorer batch_size={batch_size}: give a whole number of 1 or more")
        if size is not None and not is_whole(size, 1):
            raise ConfigError(f"restorer size={size}: give a whole number of pixels, or null")
        runtime = _runtime()
        self.path = resolve(path)
        self._black, self._span = float(black), float(white) - float(black)
        self._faults = _faults()
        self._session = self._opened(runtime, device)
        inputs = {entry.name: entry for entry in self._session.get_inputs()}
        pictures = [name for name, entry in inputs.items() if len(entry.shape) == 4]
        if len(pictures) != 1 or any(entry.type not in _TYPES for entry in inputs.values()):
            raise self._unfit()
        self._pictures = inputs.pop(pictures[0])
        count, _, side, _ = self._pictures.shape
        self._fixed = count if isinstance(count, int) else None
        self.batch_size = self._fixed or batch_size
        self.size = size or (side if isinstance(side, int) else FFHQ_SIZE)
        self._further = {name: _numbers(entry, fidelity) for name, entry in inputs.items()}

    def __call__(self, crops: Image) -> Image:
        """``(N, size, size, 3)`` uint8 BGR to the same shape.

        Raises:
            CheckpointError: The network does not accept such pictures.
        """
        parts = [crops[at : at + self.batch_size] for at in range(0, len(crops), self.batch_size)]
        return np.concatenate([self._restored(part) for part in parts]) if parts else np.empty_like(crops)

    def _restored(self, crops: Image) -> Image:
        missing = (self._fixed or len(crops)) - len(crops)
        faces = np.concatenate([crops, crops[-1:].repeat(missing, axis=0)])[..., ::-1].transpose(0, 3, 1, 2)
        values = (faces * np.float32(self._span / 255) + np.float32(self._black)).astype(
            _TYPES[self._pictures.type]
        )
        try:
            output = self._session.run(None, {self._pictures.name: values, **self._further})[0]
        except self._faults as error:
            raise CheckpointError(
                f"{self.path}: ONNX Runtime cannot run it on pictures of {self.size} x {self.size} pixels "
                f"({shown(error)})"
            ) from error
        if output.ndim != 4 or output.shape[1] != 3:
            raise self._unfit()
        pixels = (output[: len(crops)].astype(np.float32) - self._black) * (255 / self._span)
        restored = np.rint(pixels.clip(0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
        return np.stack([self._fitted(np.ascontiguousarray(picture)) for picture in restored])

    def _fitted(self, picture: Image) -> Image:
        if picture.shape[:2] == (self.size, self.size):
            return picture
        small = cv2.resize(picture, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.asarray(small, dtype=np.uint8)

    def _opened(self, runtime: ModuleType, device: str) -> Any:
        """The inference session."""
        with self.path.open("rb") as stream:
            reason = why_not_weights(stream.read(256))
        if reason is not None:
            raise CheckpointError(f"{self.path}: {reason}")
        try:
            return runtime.InferenceSession(str(self.path), providers=_providers(runtime, device))
        except self._faults as error:
            raise CheckpointError(
                f"{self.path}: ONNX Runtime cannot read it, it may be damaged ({shown(error)})"
            ) from error

    def _unfit(self) -> CheckpointError:
        return CheckpointError(f"{self.path}: is no network from pictures to pictures; give a face restorer")


def _runtime() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            "ONNX restorers need ONNX Runtime; run `pip install onnxruntime` (or onnxruntime-gpu) or choose "
            "another restorer"
        ) from error


def _faults() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for files and inputs at fault; the classes share no base of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(getattr(state, name) for name in _FAULTS)


def _providers(runtime: ModuleType, device: str) -> list[str | tuple[str, dict[str, int]]]:
    kind, colon, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device={device} is not supported by ONNX Runtime here: use auto, cpu or cuda")
    if colon and not (kind == "cuda" and number.isascii() and number.isdigit()):
        raise ConfigError(f"device={device} is unknown: use auto, cpu, cuda or cuda:N, N counting from 0")
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if kind == "cpu" or (kind == "auto" and cuda not in runtime.get_available_providers()):
        return [cpu]
    if cuda not in runtime.get_available_providers():
        raise ConfigError(f"device={device}: ONNX Runtime is there without CUDA; install onnxruntime-gpu")
    return [(cuda, {"device_id": int(number)}) if number else cuda, cpu]


def _numbers(entry: Any, value: float) -> npt.NDArray[Any]:
    """An input filled with ``value``; sizes that the file leaves open are 1."""
    shape = [extent if isinstance(extent, int) else 1 for extent in entry.shape]
    return np.full(shape, value, _TYPES[entry.type])
