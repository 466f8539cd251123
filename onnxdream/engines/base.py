"""The interface of engines: what `select` gives for a device, what it opens, and the pictures that stay with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendError, OutOfMemoryError
from ..graph.specialize import serialize_for_shape
from ..images import resize

if TYPE_CHECKING:
    import onnx

Step = tuple[float, tuple[int, int]]  # (step size, (dy, dx) that the picture is rolled by)

_most_threads = 0


def limit_threads(count: int) -> None:
    """Let no session opened from now on in this process take more CPU threads.

    Args:
        count: The most threads; 0 for no limit.
    """
    global _most_threads  # noqa: PLW0603
    _most_threads = count


def allowed_threads(threads: int) -> int:
    """The number of threads for a session that asks for `threads`, both 0 where the engine is to choose."""
    return min(threads or _most_threads, _most_threads or threads)


class Picture(ABC):
    """A batch of pictures float32 [N,3,H,W] in 0..255, wherever an engine keeps it."""

    shape: tuple[int, ...]

    @abstractmethod
    def fetch(self) -> np.ndarray:
        """A copy in the host's memory.

        Raises:
            OutOfMemoryError: There is too little memory for it.
            BackendError: The engine failed.
        """


class HostPicture(Picture):
    """Pictures in the host's memory.

    Args:
        array: float32 [N,3,H,W] in 0..255; not copied before `fetch`.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape = array, array.shape

    def fetch(self) -> np.ndarray:
        """See Picture."""
        return np.array(self._array)


class Octaves(ABC):
    """Leads an ascent from octave to octave: each starts from the source plus the detail dreamed so far, scaled up."""

    @abstractmethod
    def start(self, size: tuple[int, ...]) -> np.ndarray | Picture:
        """What the octave of `size` (height, width) starts from, for `Session.ascend`."""

    @abstractmethod
    def end(self, picture: Picture) -> None:
        """Take what the octave begun last came to."""

    @abstractmethod
    def whole(self, picture: Picture) -> np.ndarray:
        """The dream float32 at the source's size, `picture` being what the octave begun last came to."""


class HostOctaves(Octaves):
    """Octaves whose pictures lie in the host's memory.

    Args:
        source: float32 [N,3,H,W] in 0..255.
    """

    def __init__(self, source: np.ndarray) -> None:
        self._source, self._base = source, source
        self._detail = np.zeros_like(source[:, :, :1, :1])

    def start(self, size: tuple[int, ...]) -> np.ndarray:
        """See Octaves."""
        self._base = resize(self._source, size)
        image: np.ndarray = self._base + resize(self._detail, size)
        np.clip(image, 0, 255, out=image)
        return image

    def end(self, picture: Picture) -> None:
        """See Octaves."""
        self._detail = picture.fetch() - self._base

    def whole(self, picture: Picture) -> np.ndarray:
        """See Octaves."""
        dream = picture.fetch()
        if dream.shape != self._source.shape:
            dream = self._source + resize(dream - self._base, self._source.shape[2:])
            np.clip(dream, 0, 255, out=dream)
        return dream


class Session(ABC):
    """A model made ready to run.

    Attributes:
        provider: What runs it: the name of ONNX Runtime's provider, "OpenVINO" or "OpenCV".
        inputs: The shape of each input by name, None for an axis of any length.
    """

    provider: str

    def __init__(self, model: onnx.ModelProto, fixed_shapes: Mapping[str, int]) -> None:
        self.inputs = {
            i.name: tuple(fixed_shapes.get(d.dim_param) or d.dim_value or None for d in i.type.tensor_type.shape.dim)
            for i in model.graph.input
        }

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluate the model once.

        Args:
            feeds: An array for each input, by name.

        Returns:
            A copy of each output, by name.

        Raises:
            OutOfMemoryError: There is too little memory.
            BackendError: An array does not have the shape of its input, or the engine failed.
        """
        for name, array in feeds.items():
            self._check(name, array.shape)
        return self._run(feeds)

    def ascend(
        self, image: np.ndarray | Picture, steps: Iterable[Step], mask: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, Picture]]:
        """Run a step model again and again, each time from where it came to.

        Args:
            image: Where to start, float32 [N,3,H,W] in 0..255.
            steps: The size and roll of each step.
            mask: float32 [1,1,H,W] in 0..1, where the model takes one.

        Yields:
            After each step, the objective [N] before it and the picture after it, which is to be fetched before the
            next step.

        Raises:
            OutOfMemoryError: There is too little memory.
            BackendError: `image` or `mask` does not have the shape of its input, or the engine failed.
        """
        feeds = {"image": image if isinstance(image, np.ndarray) else image.fetch()}
        if mask is not None:
            feeds["mask"] = mask
        for size, shift in steps:
            feeds["step_size"], feeds["shift"] = np.array(size, np.float32), np.array(shift, np.int64)
            outputs = self.run(feeds)
            feeds["image"] = outputs["dreamed"]
            yield outputs["objective"], HostPicture(outputs["dreamed"])

    @abstractmethod
    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `run`."""

    def _serialized(self, model: onnx.ModelProto, fixed_shapes: Mapping[str, int]) -> bytes:
        """The file of a model for these lengths of its symbolic axes."""
        try:
            return serialize_for_shape(model, fixed_shapes)
        except MemoryError as error:
            raise OutOfMemoryError from error

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise BackendError when arrays of this shape are no input called `name`."""
        expected = self.inputs.get(name)
        if expected is None:
            raise BackendError(f"there is no input {name!r}, only {', '.join(self.inputs)}")
        if len(shape) != len(expected) or any(
            e not in (None, length) for e, length in zip(expected, shape, strict=True)
        ):
            taken = ", ".join("any" if length is None else str(length) for length in expected)
            raise BackendError(f"a session that takes {name} of [{taken}] was given one of {list(shape)}")


class Engine(ABC):
    """What runs models on one device.

    Attributes:
        device: The device's name, one of `select.DEVICES`.
        provider: What runs models there, as sessions have it.
        target: What graphs for it are to be lowered for; see `lowering.targets`.
        on_cpu: Whether it computes on the cores that Python runs on.
    """

    device: str
    provider: str
    target: str
    on_cpu: bool = True

    @property
    @abstractmethod
    def version(self) -> str:
        """The version of the library beneath."""

    @abstractmethod
    def open(
        self, model: onnx.ModelProto, *, fixed_shapes: Mapping[str, int] | None = None, threads: int = 0
    ) -> Session:
        """Make a model ready to run.

        Args:
            model: A model lowered for `target`.
            fixed_shapes: The lengths of symbolic axes of the inputs (N, H, W), where the session is for these alone;
                it is then faster.
            threads: The most CPU threads it takes; 0 lets the engine choose.

        Raises:
            OutOfMemoryError: There is too little memory.
            BackendError: The engine cannot run the model, or the device cannot be used.
        """

    def octaves(self, source: np.ndarray) -> Octaves:
        """What leads an ascent from octave to octave where the engine's sessions take whole pictures.

        Args:
            source: float32 [N,3,H,W] in 0..255.
        """
        return HostOctaves(source)
