"""Step after step of an ascent in the memory of a device, recorded once where the device can."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendError
from .memory import OnDevice, read, write

if TYPE_CHECKING:
    from .onnxruntime import Session

UNRECORDED = -1  # the number of no recording


class BoundRun:
    """One binding of a session, to be run again and again."""

    def __init__(self, session: Session, binding: Any, recording: int | None) -> None:
        self._session, self._binding, self._recording = session, binding, recording
        self._in_thread = threading.local()

    def run(self) -> None:
        """Run it; where it is recorded, the first time in each thread, and replayed from then on."""
        if self._recording in (None, UNRECORDED) or getattr(self._in_thread, "recorded", False):
            self._session.run_bound(self._binding, self._recording)
            return
        try:
            self._session.run_bound(self._binding, self._recording, alone=True)
            self._in_thread.recorded = True
        except BackendError:
            self._recording = UNRECORDED
            self._session.run_bound(self._binding, self._recording)


class StepLoop:
    """What the steps of an ascent read and write, and the two bindings that take turns.

    A recorded CUDA graph reads and writes where it did when it was recorded, so each binding has its own recording:
    those of the numbers `recordings`, where there are any.
    """

    def __init__(
        self,
        session: Session,
        shape: tuple[int, ...],
        mask: np.ndarray | None,
        recordings: tuple[int | None, int | None],
    ) -> None:
        self._shape, self._size = shape, 0.0
        self._pictures = [session.room(*shape) for _ in range(2)]
        self._given = {
            "step_size": session.on_device(np.array(self._size, np.float32)),
            "shift": session.on_device(np.zeros(2, np.int64)),
        }
        if mask is not None:
            self._given["mask"] = session.on_device(mask)
        self._objective = session.room(shape[0])
        self._turns = []
        for source, recording in enumerate(recordings):
            outputs = {"dreamed": self._pictures[1 - source], "objective": self._objective}
            binding = session.binding({"image": self._pictures[source], **self._given}, outputs)
            self._turns.append(BoundRun(session, binding, recording))

    def start(self, image: np.ndarray | Callable[[Any], None], mask: np.ndarray | None) -> None:
        """Take `image`, and `mask` where there is one, for the ascent that begins."""
        if callable(image):
            image(self._pictures[0])
        elif image.shape != self._shape:
            raise BackendError(f"a session for pictures {list(self._shape)} was given one of {list(image.shape)}")
        else:
            write(self._pictures[0], image)
        if mask is not None:
            write(self._given["mask"], mask)

    def step(self, turn: int, size: float, shift: tuple[int, int]) -> tuple[np.ndarray, OnDevice]:
        """(the objective before the step, the picture after it)."""
        if size != self._size:
            self._size = size
            write(self._given["step_size"], np.array(size))
        write(self._given["shift"], np.array(shift), np.int64)
        self._turns[turn].run()
        return read(self._objective), OnDevice(self._pictures[1 - turn])
