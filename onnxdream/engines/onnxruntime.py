"""ONNX Runtime: sessions on a chosen device, and ascent steps whose picture stays there."""

from __future__ import annotations

import functools
import itertools
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import BackendError, OptionError, first_line
from ..graph.shapes import IR_VERSION, OPSET
from ..graph.specialize import serialize_for_shape
from .cuda_graph import UNRECORDED, StepLoop
from .memory import OnDevice, turns, using

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

# Device names people type, in the order `auto` tries them.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_AUTO = ("cuda", "cpu")


_most_threads = 0


def limit_threads(count: int) -> None:
    """Let no session that is opened from now on, in this process, take more than `count` CPU threads; 0: no limit."""
    global _most_threads  # noqa: PLW0603
    _most_threads = count


@functools.cache
def runtime() -> ModuleType:
    """The onnxruntime module. Raises BackendError, naming the extra to install, when it is missing or broken."""
    try:
        import onnxruntime
    except Exception as error:
        raise BackendError(
            f"onnxruntime cannot be imported ({first_line(error)}); install it with `pip install onnxdream[cpu]`, "
            "or dream with --backend opencv"
        ) from error
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls(directory="")
    onnxruntime.set_default_logger_severity(4)  # its errors come back as exceptions
    return cast(ModuleType, onnxruntime)


def devices() -> list[str]:
    """The device names that this installation of ONNX Runtime offers."""
    available = runtime().get_available_providers()
    return [name for name, provider in PROVIDERS.items() if provider in available]


def resolve_device(device: str) -> list[str]:
    """The device names to try for `device`, best first. Raises OptionError or BackendError when there is none."""
    offered = devices()
    if device == "auto":
        return [name for name in _AUTO if name in offered and (name == "cpu" or _starts(name))]
    if device not in PROVIDERS:
        raise OptionError(f"unknown device {device!r}; devices are auto, {', '.join(PROVIDERS)}, opencv, openvino")
    if device not in offered:
        hint = "; install it with `pip install onnxdream[gpu]`, see `onnxdream info`" if device == "cuda" else ""
        raise BackendError(f"this onnxruntime offers no {device} (only {', '.join(offered)}){hint}")
    return [device]


@functools.cache
def _starts(device: str) -> bool:
    """Whether a device that is offered can be used here. Logs why not."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "trial", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    try:
        Session(model, device).run({"x": np.zeros(1, np.float32)})
    except BackendError as error:
        log.warning(f"{error}; falling back to cpu")
        return False
    return True


class Session:
    """One ONNX model on one device.

    `fixed` gives sizes to the model's symbolic axes; with them known, ONNX Runtime keeps CPU tensors in its blocked
    layout. With `recorded`, a step model keeps its buffers from one ascent to the next, and CUDA records its steps as
    CUDA graphs; with `nhwc`, CUDA puts the channels of tensors last. Raises BackendError when the device asked for is
    not the one obtained.
    """

    def __init__(
        self,
        proto: onnx.ModelProto | bytes,
        device: str = "auto",
        *,
        fixed: Mapping[str, int] | None = None,
        threads: int = 0,
        recorded: bool = False,
        nhwc: bool = False,
    ) -> None:
        ort = runtime()
        self._idle: list[StepLoop] = []  # ready for the next ascent
        self._recorded, self._fixed = recorded, dict(fixed or {})
        self._recordings = itertools.count(1)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = min(threads or _most_threads, _most_threads or threads)
        # The pattern of the first run is laid out in a second block beside the first, which doubles the memory.
        options.enable_mem_pattern = False
        # Threads that go on spinning after a run take the cores from the next octave's session and from OpenCV.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Quantised layers are computed in floating point: kernels for 8-bit integers saturate on x86 without VNNI.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        for axis, length in (fixed or {}).items():
            options.add_free_dimension_override_by_name(axis, length)
        data = serialize_for_shape(proto, fixed or {})
        tried = resolve_device(device)
        for position, name in enumerate(tried):
            wanted = PROVIDERS[name]
            try:
                with turns.shared():
                    self._session = ort.InferenceSession(
                        data,
                        options,
                        providers=_with_fallback(wanted, recorded=recorded, nhwc=nhwc),
                        disabled_optimizers=_HARMFUL.get(wanted),
                    )
                obtained = self._session.get_providers()[0]
                reason = "it did not start" if obtained != wanted else ""
            except Exception as error:
                obtained, reason = "", first_line(error)
            if obtained == wanted:
                self.device = name
                break
            if position + 1 == len(tried):
                what = "onnxruntime cannot run this graph" if name == "cpu" else f"{name} cannot be used"
                raise BackendError(f"{what}: {reason}; see `onnxdream info`")
            log.warning(f"{name} cannot be used ({reason}); falling back to {tried[position + 1]}")
        self.provider = PROVIDERS[self.device]
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self._outputs = [o.name for o in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises OutOfMemoryError or BackendError."""
        with using():
            outputs = self._session.run(None, dict(feeds))
        # What the session returns lies in its own memory, none of which is given back while an output lives.
        return {name: np.array(value) for name, value in zip(self._outputs, outputs, strict=True)}

    def on_device(self, array: np.ndarray) -> Any:
        """A copy of `array` in the device's memory. Raises OutOfMemoryError or BackendError."""
        # On the CPU an OrtValue shares the array's memory, so the array must be its own.
        with using():
            return runtime().OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self._memory, 0)

    def room(self, *shape: int) -> Any:
        """Room for a float32 tensor of this shape in the device's memory. Raises as `on_device`."""
        with using():
            return runtime().OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._memory, 0)

    @property
    def _memory(self) -> str:
        return "cuda" if self.device == "cuda" else "cpu"

    def ascend(
        self,
        image: np.ndarray | Callable[[Any], None],
        steps: Iterable[tuple[float, tuple[int, int]]],
        mask: np.ndarray | None = None,
        *,
        replay: bool = True,
    ) -> Iterable[tuple[np.ndarray, OnDevice]]:
        """Run a step model once for each (step size, (dy, dx)) of `steps`, starting from `image` float32 [N,3,H,W].

        With fixed sizes, `image` may be a function that writes it into the room on the device that it is given.
        Yields after each step (objective [N] before it, a function that fetches the picture after it). Between steps
        the picture stays in the device's memory, in two buffers that take turns. A recorded session's next ascent takes
        them over; without `replay` this one neither records nor replays.
        """
        kept = self._recorded and replay
        if kept and self._idle:
            loop = self._idle.pop()
        else:
            n, h, w = (self._fixed[axis] for axis in "NHW") if callable(image) else (len(image), *image.shape[2:])
            numbers = (next(self._recordings), next(self._recordings)) if kept else (UNRECORDED, UNRECORDED)
            recordings = numbers if self._recorded else (None, None)
            loop = StepLoop(weakref.proxy(self), (n, 3, h, w), mask, recordings)
        try:
            loop.start(image, mask)
            for turn, (size, shift) in enumerate(steps):
                yield loop.step(turn % 2, size, shift)
        finally:
            if kept:
                self._idle.append(loop)

    def binding(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        """A new binding of inputs and outputs by name, all of them `on_device`."""
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def run_bound(self, binding: Any, recording: int | None = None, *, alone: bool = False) -> None:
        """Run with what is bound; recorded sessions by the number of a recording, which the first run in each thread
        makes while no other thread uses the device, or `cuda_graph.UNRECORDED`.

        Raises OutOfMemoryError or BackendError.
        """
        options = None
        if recording is not None:
            options = runtime().RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(recording))
        with using(alone=alone):
            self._session.run_with_iobinding(binding, options)


class SessionCache:
    """Sessions of several models, one for each size of their symbolic axes, that hold `limit` bytes together.

    The least recently used ones beyond that, or beyond 16, are closed. `session` is what opens one.
    """

    def __init__(
        self, device: str = "auto", *, threads: int = 0, limit: float = 4 << 30, session: Callable[..., Any] = Session
    ) -> None:
        self._device, self._threads, self._limit, self._open = device, threads, limit, session
        self._sessions: OrderedDict[tuple[Any, ...], tuple[Any, float]] = OrderedDict()

    def at(self, kind: Any, proto: onnx.ModelProto, size: tuple[int, int, int], bytes_held: float = 0) -> Any:
        """The session of `proto`, called `kind`, for pictures of `size` [N,H,W]; it should hold `bytes_held`."""
        key = (kind, *size)
        if key not in self._sessions:
            while self._sessions and (len(self._sessions) >= 16 or self._held() + bytes_held > self._limit):
                self._sessions.popitem(last=False)
            fixed = dict(zip(("N", "H", "W"), size, strict=True))
            self._sessions[key] = self._open(proto, self._device, fixed=fixed, threads=self._threads), bytes_held
        self._sessions.move_to_end(key)
        return self._sessions[key][0]

    def __getstate__(self) -> dict[str, Any]:
        """Copies begin empty: a session belongs to its process."""
        return {**self.__dict__, "_sessions": OrderedDict()}

    def _held(self) -> float:
        return sum(size for _, size in self._sessions.values())


# Split reads its sizes from the host, which a recorded CUDA graph would go on to do when they are gone.
_HARMFUL = {"CUDAExecutionProvider": ["GatherSliceToSplitFusion"]}


def _with_fallback(provider: str, *, recorded: bool, nhwc: bool) -> list[Any]:
    """The provider with its options, and the CPU for the few shape operators it leaves."""
    options = {
        # Octaves change the picture's size; an exhaustive search for each size costs more than it gives back.
        "CUDAExecutionProvider": {
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(recorded)),
            "prefer_nhwc": str(int(nhwc)),
        },
    }.get(provider, {})
    cpu = PROVIDERS["cpu"]
    return [(provider, options)] if provider == cpu else [(provider, options), cpu]
