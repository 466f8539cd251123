"""Ascent on engines that take and give pictures in the host's memory."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendError
from ..graph.specialize import serialize_for_shape

if TYPE_CHECKING:
    import onnx


class HostSession(ABC):
    """What such engines share; the counterpart of `onnxruntime.Session`.

    Raises BackendError when the engine is `unusable` or cannot run the graph.
    """

    device: str
    provider: str
    unusable: Callable[[], str]  # why the engine cannot be used, empty when it can

    def __init__(
        self,
        proto: onnx.ModelProto | bytes,
        device: str = "",
        *,
        fixed: Mapping[str, int] | None = None,
        threads: int = 0,
    ) -> None:
        if reason := type(self).unusable():
            raise BackendError(reason)
        self._open(serialize_for_shape(proto, fixed or {}), fixed or {}, threads)

    @abstractmethod
    def _open(self, data: bytes, fixed: Mapping[str, int], threads: int) -> None:
        """Make the model ready to run. Raises OutOfMemoryError or BackendError."""

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises OutOfMemoryError or BackendError."""

    def ascend(
        self, image: np.ndarray, steps: Iterable[tuple[float, tuple[int, int]]], mask: np.ndarray | None = None
    ) -> Iterable[tuple[np.ndarray, Callable[[], np.ndarray]]]:
        """As `onnxruntime.Session.ascend`: (objective [N], a function that fetches the picture) after each step."""
        feeds = {"image": image} if mask is None else {"image": image, "mask": mask}
        for size, shift in steps:
            scalars: dict[str, np.ndarray] = {
                "step_size": np.array(size, np.float32),
                "shift": np.array(shift, np.int64),
            }
            result = self.run({**feeds, **scalars})
            feeds["image"] = result["dreamed"]
            yield result["objective"], functools.partial(np.array, result["dreamed"])
