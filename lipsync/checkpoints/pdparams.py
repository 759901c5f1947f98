"""Reader of Paddle's ``.pdparams`` without Paddle and without running what the pickle asks for.

A ``.pdparams`` file is a plain pickle of ``{name: array}`` (protocols 2 to 5), of the same nested under
network names (PaddleGAN trainers: ``netG``, ``netD`` or ``netDS`` and ``netDH``), or, from ``paddle.save`` of
live tensors, with ``(internal name, array)`` pairs in place of arrays.
The unpickler below knows a dozen global names and maps each to a class or function of this module, so nothing
of numpy or Python is called with values that the file chose.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lipsync.checkpoints.formats import damaged, shown
from lipsync.errors import CheckpointError

NAME_TABLE = "StructuredToParameterName@@"
"""Entry of flat files that maps structured to internal names; not a tensor."""
MAX_DEPTH = 16
PARSE_ERRORS = (
    pickle.UnpicklingError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the standard unpickler raises on damaged input; it documents no narrower set."""


class RefusedGlobal(pickle.UnpicklingError):
    """The pickle names something that is not on the allow-list."""


class _Dtype:
    """Stands for ``numpy.dtype``: element code, then byte order through the pickled state."""

    def __init__(self, code: str, *_flags: Any) -> None:
        if not re.fullmatch(r"[fiu][1248]|b1", code):
            raise pickle.UnpicklingError(f"array of type {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = str(state[1])
        if order not in "<>|=" or state[2] is not None:
            raise pickle.UnpicklingError("array of a structured type")
        self.order = order

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for ``numpy.ndarray``: filled from ``(version, shape, dtype, fortran order, bytes)``."""

    tensor: torch.Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        values = np.frombuffer(data, dtype.resolve())
        if values.size != math.prod(shape) or min(shape, default=0) < 0:
            raise pickle.UnpicklingError(f"array of shape {shape} holds {values.size} numbers")
        values = values.reshape(shape, order="F" if fortran else "C")
        native = values.dtype.newbyteorder("=")
        self.tensor = torch.from_numpy(np.array(values, dtype=native, order="C"))


def _reconstruct(*_arguments: Any) -> _Array:
    return _Array()


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """Arrays in protocol 5."""
    array = _Array()
    array.__setstate__((None, shape, dtype, order == "F", data))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in protocol 2, which has no opcode for them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
    ("_codecs", "encode"): _encode,
}


# The pure Python unpickler: its C twin allocates whatever size a damaged length or index asks for.
class RestrictedUnpickler(pickle._Unpickler):
    """Unpickler that resolves names through :attr:`allowed` only.

    Args:
        data: The pickle.
    """

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = _ALLOWED
    buildable: ClassVar[tuple[type, ...]] = (_Array, _Dtype)
    """Classes whose instances may receive a pickled state; others could have attributes overwritten."""
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a global name; :class:`RefusedGlobal` for names that are not allowed."""
        try:
            return self.allowed[module, name]
        except KeyError:
            raise RefusedGlobal(f"{module}.{name}") from None

    def load_build(self) -> None:
        """The opcode that hands a state to the object below it on the stack."""
        if not isinstance(self.stack[-2], self.buildable):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("state for an object that takes none")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build


def read_pickle(path: Path) -> Any:
    """Nested dicts of tensors (and plain values) from a pickle of numpy arrays, Paddle's or not.

    Raises:
        CheckpointError: The pickle asks for anything but arrays and containers, or is damaged.
    """
    try:
        value = RestrictedUnpickler(path.read_bytes()).load()
        return _plain(value)
    except RefusedGlobal as error:
        raise refusal(path, str(error)) from error
    except PARSE_ERRORS as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def refusal(path: Path, name: str) -> CheckpointError:
    """The error for a pickle that wants ``name`` imported."""
    name = shown(name)
    if name.startswith("torch.nn."):
        return CheckpointError(
            f"{path}: refused, it holds a whole pickled module ({name}) and loading that runs code; "
            "save the module's state_dict() instead"
        )
    return CheckpointError(
        f"{path}: refused, it asks Python to load `{name}`, which can run code; only tensors and plain "
        "values are read, so use a plain state dict or .safetensors from a source that you trust"
    )


def _plain(value: Any, depth: int = 0) -> Any:
    """Arrays as tensors, name tables dropped, ``(name, array)`` pairs unpacked."""
    if depth > MAX_DEPTH:
        raise pickle.UnpicklingError("nested too deeply")
    if isinstance(value, _Array):
        if value.tensor is None:
            raise pickle.UnpicklingError("array without data")
        return value.tensor
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items() if key != NAME_TABLE}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], _Array):
        return _plain(value[1], depth + 1)
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, depth + 1) for item in value)
    return value
