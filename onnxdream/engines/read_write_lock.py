"""Who may use a device when."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class ReadWriteLock:
    """Any number of threads use a device at once, but for one that wants it alone.

    While CUDA records what one thread does, most calls of other threads fail, and so does the recording.
    """

    def __init__(self) -> None:
        self._door = threading.Condition()
        self._inside = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Beside others."""
        with self._door:
            self._inside += 1
        try:
            yield
        finally:
            with self._door:
                self._inside -= 1
                self._door.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """When all others are out, and none comes in; not within a turn of one's own."""
        with self._door:
            self._door.wait_for(lambda: not self._inside)
            yield
