"""ggml's tensors through ctypes: reading from host memory and from a device, and checks of the layout."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from turbopilot.llama.ggml_tensor import I32, Ggml, GgmlTensor, LayoutChanged, n_bytes


class Function:
    """Stand-in for a function of a ctypes library."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def __call__(self, *arguments: Any) -> Any:
        return self.act(*arguments)


class FakeGgml:
    """Functions of ggml that `Ggml` uses. If `device` is set, `data` is an address that must not be read."""

    def __init__(self, values: npt.NDArray[Any], *, device: bool = False) -> None:
        self.values = values
        t = self.tensor = GgmlTensor()
        t.name, t.op, t.buffer, t.type = b"x", 1, 1, I32 if values.dtype == np.int32 else 0
        t.data = 8 if device else values.ctypes.data
        t.ne[:], t.nb[:] = values.shape[::-1], values.strides[::-1]
        self.ggml_get_name = Function(lambda at: b"x")
        self.ggml_op_desc = Function(lambda at: b"MUL_MAT")
        self.ggml_op_name = Function(lambda op: b"MUL_MAT")
        self.ggml_nbytes = Function(lambda at: n_bytes(t))
        self.ggml_nelements = Function(lambda at: prod(values.shape))
        self.ggml_backend_buffer_is_host = Function(lambda buffer: not device)
        self.ggml_backend_tensor_set = Function(lambda *arguments: None)
        self.ggml_backend_tensor_get = Function(
            lambda at, into, offset, n: ctypes.memmove(into, values.ctypes.data + offset, n)
        )

    @property
    def address(self) -> int:
        return ctypes.addressof(self.tensor)


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_are_read_from_host_and_device(device: bool, dtype: type[Any]) -> None:
    whole = np.arange(2 * 3 * 6 * 5).reshape(2, 3, 6, 5).astype(dtype)
    for values in (whole, whole[:, :, ::2], whole[1:, :1, :, :2], whole[:, :, :1, :1]):
        fake = FakeGgml(values, device=device)
        assert np.array_equal(Ggml(fake).values(fake.address), values)


def test_tensor_without_memory_is_rejected() -> None:
    fake = FakeGgml(np.zeros((1, 1, 2, 2), np.float32))
    for field in ("data", "buffer"):
        kept = getattr(fake.tensor, field)
        setattr(fake.tensor, field, None)
        with pytest.raises(LayoutChanged, match="has no memory"):
            Ggml(fake).values(fake.address)
        setattr(fake.tensor, field, kept)


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        ("ggml_get_name", b"y"),
        ("ggml_get_name", b"x\1"),
        ("ggml_nelements", 5),
        ("ggml_nbytes", 17),
        ("ggml_op_desc", b"ADD"),
    ],
)
def test_changed_layout_is_detected(function: str, answer: Any) -> None:
    fake = FakeGgml(np.zeros((1, 1, 2, 2), np.float32))
    Ggml(fake).check_layout(fake.address, floats=True)
    getattr(fake, function).act = lambda at: answer
    with pytest.raises(LayoutChanged):
        Ggml(fake).check_layout(fake.address, floats=True)


def test_unknown_operation_is_rejected() -> None:
    fake = FakeGgml(np.zeros((1, 1, 2, 2), np.float32))
    for op in (-1, 100_000):
        fake.tensor.op = op
        with pytest.raises(LayoutChanged, match="operation"):
            Ggml(fake).check_layout(fake.address)
