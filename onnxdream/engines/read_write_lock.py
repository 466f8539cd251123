"""A lock that many share or one has alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class ReadWriteLock:
    """Any number of threads hold it for reading at once; one that holds it for writing holds it alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0

    @contextlib.contextmanager
    def read_lock(self) -> Iterator[None]:
        """Hold it beside other readers."""
        with self._condition:
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold it alone, once all readers have let go; not to be taken by a thread that is a reader."""
        with self._condition:
            self._condition.wait_for(lambda: not self._readers)
            yield
