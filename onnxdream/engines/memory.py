"""What runs on a device of ONNX Runtime, one thing beside others or alone, and what lies in its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BackendError, OutOfMemoryError, first_line
from .read_write_lock import ReadWriteLock

turns = ReadWriteLock()


@contextlib.contextmanager
def using(*, alone: bool = False) -> Iterator[None]:
    """Use a device, beside others or alone. Raises OutOfMemoryError or BackendError."""
    try:
        with turns.alone() if alone else turns.shared():
            yield
    except Exception as error:
        raise translated(error) from error


def read(value: Any) -> np.ndarray:
    """A copy of an OrtValue. Raises OutOfMemoryError or BackendError."""
    with using():
        return np.array(value.numpy())


def write(value: Any, array: np.ndarray, dtype: type = np.float32) -> None:
    """Put `array` into an OrtValue of `dtype` and as many numbers. Raises OutOfMemoryError or BackendError."""
    with using():
        value.update_inplace(np.ascontiguousarray(array, dtype).reshape(value.shape()))


@dataclass(frozen=True)
class OnDevice:
    """A picture in the device's memory; called, it comes to the host."""

    value: Any  # an OrtValue

    def __call__(self) -> np.ndarray:
        """A copy of the picture. Raises OutOfMemoryError or BackendError."""
        return read(self.value)


def translated(error: Exception) -> Exception:
    """An error of onnxruntime as one of ours."""
    text = str(error)
    signs = ("failed to allocate memory", "out of memory", "bad_alloc", "bad allocation")
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in signs):
        return OutOfMemoryError()
    return BackendError(f"onnxruntime failed: {first_line(error)}")
