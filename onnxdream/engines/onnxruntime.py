"""ONNX Runtime: sessions on a chosen device, and ascents whose picture stays in that device's memory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import BackendError, OptionError, OutOfMemoryError, first_line
from ..graph.shapes import IR_VERSION, OPSET
from .base import Engine, Picture, Session, Step, allowed_threads
from .read_write_lock import ReadWriteLock

if TYPE_CHECKING:
    import onnx
    from onnxruntime import IOBinding, OrtValue

log = logging.getLogger(__name__)

# Device names people type, in the order `auto` tries them.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_AUTO = ("cuda", "cpu")
# Split reads its sizes from the host, which a captured CUDA graph would go on to do when they are gone.
_HARMFUL = {"CUDAExecutionProvider": ["GatherSliceToSplitFusion"]}
_NO_GRAPH = -1  # the number of no CUDA graph
# While CUDA captures what one thread does, most calls of other threads fail, and so does the capture.
_device_lock = ReadWriteLock()


@functools.cache
def runtime() -> ModuleType:
    """The onnxruntime module.

    Raises:
        BackendError: It is missing or broken.
    """
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


def resolve_device(device: str) -> list[str]:
    """The names of the devices to try for `device`, best first.

    Raises:
        OptionError: There is no device of this name.
        BackendError: ONNX Runtime is missing, or lacks the device.
    """
    offered = [name for name, provider in PROVIDERS.items() if provider in runtime().get_available_providers()]
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
    """Whether a device that is offered can be used here. Warns where it cannot."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "trial", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    try:
        OnnxRuntimeSession(model, [device]).run({"x": np.zeros(1, np.float32)})
    except BackendError as error:
        log.warning(f"{error}; falling back to cpu")
        return False
    return True


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime on one device.

    Args:
        devices: The names of the devices to try for each session, best first.
    """

    target = "cpu"

    def __init__(self, devices: Sequence[str]) -> None:
        self.device, self._devices = devices[0], devices
        self.provider, self.on_cpu = PROVIDERS[self.device], self.device == "cpu"

    @property
    def version(self) -> str:
        """See Engine."""
        return str(runtime().__version__)

    def open(
        self, model: onnx.ModelProto, *, fixed_shapes: Mapping[str, int] | None = None, threads: int = 0
    ) -> OnnxRuntimeSession:
        """See Engine."""
        return OnnxRuntimeSession(model, self._devices, fixed_shapes=fixed_shapes, threads=threads)


class OnnxRuntimeSession(Session):
    """One ONNX model on one device.

    With the lengths of all axes known, ONNX Runtime keeps CPU tensors in its blocked layout.

    Args:
        model: See `Engine.open`.
        devices: The names of the devices to try, best first. The one obtained is the attribute `device`.
        fixed_shapes: See `Engine.open`.
        threads: See there.
        capture: Keep the buffers of a step model from one ascent to the next, and on CUDA capture its steps as CUDA
            graphs.
        nhwc: Let CUDA put the channels of tensors last.

    Raises:
        BackendError: No device could be used.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        devices: Sequence[str],
        *,
        fixed_shapes: Mapping[str, int] | None = None,
        threads: int = 0,
        capture: bool = False,
        nhwc: bool = False,
    ) -> None:
        fixed_shapes = fixed_shapes or {}
        super().__init__(model, fixed_shapes)
        ort = runtime()
        self._idle: list[StepLoop] = []  # ready for the next ascent
        self._capture, self._graph_ids = capture, itertools.count(1)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = allowed_threads(threads)
        # The pattern of the first run is laid out in a second block beside the first, which doubles the memory.
        options.enable_mem_pattern = False
        # Threads that go on spinning after a run take the cores from the next octave's session and from OpenCV.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Quantised layers are computed in floating point: kernels for 8-bit integers saturate on x86 without VNNI.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        for axis, length in fixed_shapes.items():
            options.add_free_dimension_override_by_name(axis, length)
        data = self._serialized(model, fixed_shapes)
        for position, name in enumerate(devices):
            wanted = PROVIDERS[name]
            try:
                with _device_lock.read_lock():
                    self._session = ort.InferenceSession(
                        data,
                        options,
                        providers=_with_fallback(wanted, capture=capture, nhwc=nhwc),
                        disabled_optimizers=_HARMFUL.get(wanted),
                    )
                obtained = self._session.get_providers()[0]
                reason = "it did not start" if obtained != wanted else ""
            except Exception as error:
                if isinstance(_translated(error), OutOfMemoryError) and name == "cpu":
                    raise OutOfMemoryError from error
                obtained, reason = "", first_line(error)
            if obtained == wanted:
                self.device, self.provider = name, wanted
                break
            if position + 1 == len(devices):
                what = "onnxruntime cannot run this graph" if name == "cpu" else f"{name} cannot be used"
                raise BackendError(f"{what}: {reason}; see `onnxdream info`")
            log.warning(f"{name} cannot be used ({reason}); falling back to {devices[position + 1]}")
        self._outputs = [o.name for o in self._session.get_outputs()]

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _using_device():
            outputs = self._session.run(None, dict(feeds))
        # What the session returns lies in its own memory, none of which is given back while an output lives.
        return {name: np.array(value) for name, value in zip(self._outputs, outputs, strict=True)}

    def ascend(
        self,
        image: np.ndarray | Picture,
        steps: Iterable[Step],
        mask: np.ndarray | None = None,
        *,
        replay: bool = True,
    ) -> Iterator[tuple[np.ndarray, DevicePicture]]:
        """See Session.

        Between steps the picture stays in the device's memory, in two buffers that take turns; with `capture` the next
        ascent takes them over.

        Args:
            image: See there.
            steps: See there.
            mask: See there.
            replay: Replay steps that were captured, and capture those that were not yet.
        """
        self._check("image", image.shape)
        if mask is not None:
            self._check("mask", mask.shape)
        keep = self._capture and replay
        if keep and self._idle:
            loop = self._idle.pop()
        else:
            graph_ids = (next(self._graph_ids), next(self._graph_ids)) if keep else (_NO_GRAPH, _NO_GRAPH)
            loop = StepLoop(weakref.proxy(self), image.shape, mask, graph_ids if self._capture else (None, None))
        try:
            loop.start(image, mask)
            for turn, (size, shift) in enumerate(steps):
                yield loop.step(turn % 2, size, shift)
        finally:
            if keep:
                self._idle.append(loop)

    def to_device(self, array: np.ndarray) -> OrtValue:
        """A copy of `array` in the device's memory.

        Raises:
            OutOfMemoryError: There is too little of it.
            BackendError: The device failed.
        """
        # On the CPU an OrtValue shares the array's memory, so the array must be its own.
        with _using_device():
            return runtime().OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self._memory, 0)

    def allocate(self, shape: Sequence[int]) -> OrtValue:
        """A float32 tensor of this shape in the device's memory, its numbers undefined. Raises as `to_device`."""
        with _using_device():
            return runtime().OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._memory, 0)

    def bind(self, inputs: Mapping[str, OrtValue], outputs: Mapping[str, OrtValue]) -> IOBinding:
        """A binding of inputs and outputs by name, all of them in the device's memory."""
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def run_bound(self, binding: IOBinding, graph_id: int | None = None, *, exclusive: bool = False) -> None:
        """Run with what is bound.

        Args:
            binding: What `bind` gave.
            graph_id: With `capture`, the number of the CUDA graph to replay, which the first run in each thread
                captures, or -1 to do neither.
            exclusive: Wait until no other thread uses the device, and keep it from them.

        Raises:
            OutOfMemoryError: There is too little memory.
            BackendError: The device failed.
        """
        options = None
        if graph_id is not None:
            options = runtime().RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(graph_id))
        with _using_device(exclusive=exclusive):
            self._session.run_with_iobinding(binding, options)

    @property
    def _memory(self) -> str:
        return "cuda" if self.device == "cuda" else "cpu"


class DevicePicture(Picture):
    """A picture in a device's memory.

    Args:
        value: The tensor that holds it.
    """

    def __init__(self, value: OrtValue) -> None:
        self.value, self.shape = value, tuple(value.shape())

    def fetch(self) -> np.ndarray:
        """See Picture."""
        return _read(self.value)


class ComputedPicture(Picture):
    """A picture that a device computes wherever it is wanted.

    Args:
        session: The session whose device that is.
        shape: [N,3,H,W].
        write: Writes it into a tensor of this shape in the device's memory.
    """

    def __init__(self, session: OnnxRuntimeSession, shape: tuple[int, ...], write: Callable[[OrtValue], None]) -> None:
        self._session, self.shape, self.write = session, shape, write

    def fetch(self) -> np.ndarray:
        """See Picture."""
        return self.in_place().fetch()

    def in_place(self) -> DevicePicture:
        """The picture in memory of its own. Raises OutOfMemoryError or BackendError."""
        value = self._session.allocate(self.shape)
        self.write(value)
        return DevicePicture(value)


class BoundRun:
    """One binding of a session, to be run again and again; where it has a CUDA graph, captured and replayed."""

    def __init__(self, session: OnnxRuntimeSession, binding: IOBinding, graph_id: int | None) -> None:
        self._session, self._binding, self._graph_id = session, binding, graph_id
        self._in_thread = threading.local()

    def run(self) -> None:
        """Run it. The first time in each thread it is captured."""
        if self._graph_id in (None, _NO_GRAPH) or getattr(self._in_thread, "captured", False):
            self._session.run_bound(self._binding, self._graph_id)
            return
        try:
            self._session.run_bound(self._binding, self._graph_id, exclusive=True)
            self._in_thread.captured = True
        except BackendError:
            self._graph_id = _NO_GRAPH
            self._session.run_bound(self._binding, self._graph_id)


class StepLoop:
    """What the steps of an ascent read and write, and the two bindings that take turns.

    A captured CUDA graph reads and writes where it did when it was captured, so each binding has its own, numbered by
    `graph_ids`.
    """

    def __init__(
        self,
        session: OnnxRuntimeSession,
        shape: tuple[int, ...],
        mask: np.ndarray | None,
        graph_ids: tuple[int | None, int | None],
    ) -> None:
        self._size = 0.0
        self._pictures = [session.allocate(shape) for _ in range(2)]
        self._given = {
            "step_size": session.to_device(np.array(self._size, np.float32)),
            "shift": session.to_device(np.zeros(2, np.int64)),
        }
        if mask is not None:
            self._given["mask"] = session.to_device(mask)
        self._objective = session.allocate(shape[:1])
        self._runs = []
        for source, graph_id in enumerate(graph_ids):
            outputs = {"dreamed": self._pictures[1 - source], "objective": self._objective}
            binding = session.bind({"image": self._pictures[source], **self._given}, outputs)
            self._runs.append(BoundRun(session, binding, graph_id))

    def start(self, image: np.ndarray | Picture, mask: np.ndarray | None) -> None:
        """Take `image`, and `mask` where there is one, for the ascent that begins."""
        if isinstance(image, ComputedPicture):
            image.write(self._pictures[0])
        else:
            _write(self._pictures[0], image.fetch() if isinstance(image, Picture) else image)
        if mask is not None:
            _write(self._given["mask"], mask)

    def step(self, turn: int, size: float, shift: tuple[int, int]) -> tuple[np.ndarray, DevicePicture]:
        """(the objective before the step, the picture after it)."""
        if size != self._size:
            self._size = size
            _write(self._given["step_size"], np.array(size))
        _write(self._given["shift"], np.array(shift), np.int64)
        self._runs[turn].run()
        return _read(self._objective), DevicePicture(self._pictures[1 - turn])


@contextlib.contextmanager
def _using_device(*, exclusive: bool = False) -> Iterator[None]:
    """Use a device, beside other threads or alone. Raises OutOfMemoryError or BackendError."""
    try:
        with _device_lock.write_lock() if exclusive else _device_lock.read_lock():
            yield
    except Exception as error:
        raise _translated(error) from error


def _read(value: OrtValue) -> np.ndarray:
    with _using_device():
        return np.array(value.numpy())


def _write(value: OrtValue, array: np.ndarray, dtype: type = np.float32) -> None:
    """Put `array` into a tensor of `dtype` and as many numbers."""
    with _using_device():
        value.update_inplace(np.ascontiguousarray(array, dtype).reshape(value.shape()))


def _translated(error: Exception) -> Exception:
    """An error of onnxruntime as one of ours."""
    text = str(error)
    signs = ("failed to allocate memory", "out of memory", "bad_alloc", "bad allocation")
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in signs):
        return OutOfMemoryError()
    return BackendError(f"onnxruntime failed: {first_line(error)}")


def _with_fallback(provider: str, *, capture: bool, nhwc: bool) -> list[Any]:
    """The provider with its options, and the CPU for the few shape operators it leaves."""
    options = {
        # Octaves change the picture's size; an exhaustive search for each size costs more than it gives back.
        "CUDAExecutionProvider": {
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(capture)),
            "prefer_nhwc": str(int(nhwc)),
        },
    }.get(provider, {})
    cpu = PROVIDERS["cpu"]
    return [(provider, options)] if provider == cpu else [(provider, options), cpu]
