"""CUDA: steps replayed from a recording, and half precision in the layout of tensor cores, where that is proven right.

What cannot be recorded, or comes out otherwise, is run as ever.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendError, OutOfMemoryError
from .onnxruntime import Session

if TYPE_CHECKING:
    import onnx

# The steps of a trial, (step size, (dy, dx)): two are recorded, and two replayed with another size and roll. They are
# small, so that what differs by rounding has no time to grow.
_TRIAL = [(0.05, (0, 0)), (0.05, (0, 0)), (0.1, (3, -5)), (0.2, (-7, 2))]
# How far the dreams of a trial may lie apart, as a share of what they changed. Half precision lies at most 0.10 from
# single precision on the networks of tools/bench.py, and a roll that is lost at least 0.93.
_TOLERANCE = 0.3

# Whether graphs of this structure gave what they should, by it and the layout: one trial, at the first size, tells.
_proven: dict[tuple[bytes, bool], bool] = {}


def open_session(
    proto: onnx.ModelProto, device: str = "auto", *, fixed: Mapping[str, int] | None = None, threads: int = 0
) -> Session:
    """The fastest session that takes the steps of `proto` right; a plain one for other models, and for free sizes.

    Arguments and errors are those of `onnxruntime.Session`.
    """

    def opened(device: str, **how: bool) -> Session:
        return Session(proto, device, fixed=fixed, threads=threads, **how)

    if fixed and "step_size" in {i.name for i in proto.graph.input}:
        tried = functools.partial(opened, "cuda" if device == "auto" else device)
        structure = hashlib.sha256(" ".join(n.op_type for n in proto.graph.node).encode()).digest()
        for nhwc in (True, False) if _computes_in_half(proto) else (False,):
            session = recorded(tried, structure, fixed, nhwc=nhwc)
            if session is not None:
                return session
    return opened(device)


def recorded(
    opened: Callable[..., Session], structure: bytes, fixed: Mapping[str, int], *, nhwc: bool = False
) -> Session | None:
    """A session whose recorded steps give what they give as they are run, and as with the channels first; else None."""
    key = (structure, nhwc)
    if not _proven.get(key, True):
        return None
    try:
        session = opened(recorded=True, nhwc=nhwc)
        if key not in _proven:
            replayed = trial(session, fixed)
            plain = opened() if nhwc else session
            _proven[key] = alike(replayed, trial(plain, fixed, replay=False))
    except OutOfMemoryError:
        return None
    except BackendError:
        _proven[key] = False
    return session if _proven[key] else None


def trial(session: Session, fixed: Mapping[str, int], *, replay: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Noise float32 [N,3,H,W] and the same after a few steps."""
    n, h, w = (fixed[axis] for axis in "NHW")
    noise = np.random.default_rng(0).uniform(50, 200, (n, 3, h, w)).astype(np.float32)
    mask = np.ones((1, 1, h, w), np.float32) if "mask" in session.inputs else None
    fetches = [fetch for _, fetch in session.ascend(noise, _TRIAL, mask, replay=replay)]
    return noise, fetches[-1]()


def alike(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether two trials went the same way."""
    (start, dreamed), (_, expected) = one, other
    return bool(np.abs(dreamed - expected).mean() < _TOLERANCE * np.abs(expected - start).mean())


def _computes_in_half(proto: onnx.ModelProto) -> bool:
    import onnx

    return any(t.data_type == onnx.TensorProto.FLOAT16 for t in proto.graph.initializer)
