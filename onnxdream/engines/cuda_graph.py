"""CUDA: steps replayed from CUDA graphs, and half precision in the layout of tensor cores, where that is proven right.

What cannot be captured, or comes out otherwise, is run as ever.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendError, OutOfMemoryError
from .base import HostOctaves, Octaves
from .octaves import DeviceOctaves, scaling
from .onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSession

if TYPE_CHECKING:
    import onnx

# The steps of a trial, (step size, (dy, dx)): two are captured, and two replayed with another size and roll. They are
# small, so that what differs by rounding has no time to grow.
_TRIAL = [(0.05, (0, 0)), (0.05, (0, 0)), (0.1, (3, -5)), (0.2, (-7, 2))]
# How far the dreams of a trial may lie apart, as a share of what they changed. Half precision lies at most 0.10 from
# single precision on the networks of tools/bench.py, and a roll that is lost at least 0.93.
_TOLERANCE = 0.3
# The matrices that scale a longer side would take more memory than the pictures do.
_LONGEST = 4096

# Whether graphs of this structure gave what they should, by it and the layout: one trial, at the first size, tells.
_proven: dict[tuple[bytes, bool], bool] = {}


class CudaEngine(OnnxRuntimeEngine):
    """ONNX Runtime on CUDA: each model in the fastest session that takes its steps right, octaves on the device."""

    target = "cuda"

    def open(
        self, model: onnx.ModelProto, *, fixed_shapes: Mapping[str, int] | None = None, threads: int = 0
    ) -> OnnxRuntimeSession:
        """See Engine. Only the steps of models for one size are captured."""
        if fixed_shapes and "step_size" in {i.name for i in model.graph.input}:
            opened = functools.partial(
                OnnxRuntimeSession, model, self._devices[:1], fixed_shapes=fixed_shapes, threads=threads
            )
            structure = hashlib.sha256(" ".join(n.op_type for n in model.graph.node).encode()).digest()
            for nhwc in (True, False) if _computes_in_half(model) else (False,):
                session = captured(opened, structure, fixed_shapes, nhwc=nhwc)
                if session is not None:
                    return session
        return super().open(model, fixed_shapes=fixed_shapes, threads=threads)

    def octaves(self, source: np.ndarray) -> Octaves:
        """See Engine."""
        if max(source.shape) > _LONGEST:
            return HostOctaves(source)
        return DeviceOctaves(source, scaling(self.device))


def captured(
    opened: Callable[..., OnnxRuntimeSession], structure: bytes, fixed_shapes: Mapping[str, int], *, nhwc: bool = False
) -> OnnxRuntimeSession | None:
    """A session whose captured steps give what they give as they are run, and as with the channels first.

    Args:
        opened: Opens the session, with the arguments `capture` and `nhwc`.
        structure: What graphs have in common that one trial tells about.
        fixed_shapes: The lengths of N, H and W.
        nhwc: Whether to put the channels of tensors last.

    Returns:
        The session; None where it does not.
    """
    key = (structure, nhwc)
    if not _proven.get(key, True):
        return None
    try:
        session = opened(capture=True, nhwc=nhwc)
        if key not in _proven:
            replayed = trial(session, fixed_shapes)
            plain = opened() if nhwc else session
            _proven[key] = alike(replayed, trial(plain, fixed_shapes, replay=False))
    except OutOfMemoryError:
        return None
    except BackendError:
        _proven[key] = False
    return session if _proven[key] else None


def trial(
    session: OnnxRuntimeSession, fixed_shapes: Mapping[str, int], *, replay: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Noise float32 [N,3,H,W] and the same after a few steps."""
    n, h, w = (fixed_shapes[axis] for axis in "NHW")
    noise = np.random.default_rng(0).uniform(50, 200, (n, 3, h, w)).astype(np.float32)
    mask = np.ones((1, 1, h, w), np.float32) if "mask" in session.inputs else None
    *_, (_, dreamed) = session.ascend(noise, _TRIAL, mask, replay=replay)
    return noise, dreamed.fetch()


def alike(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether two trials went the same way."""
    (start, dreamed), (_, expected) = one, other
    return bool(np.abs(dreamed - expected).mean() < _TOLERANCE * np.abs(expected - start).mean())


def _computes_in_half(model: onnx.ModelProto) -> bool:
    import onnx

    return any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
