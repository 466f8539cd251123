"""Run one stage of a pipeline ahead of the next, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")

_DONE = object()
_PATIENCE = 0.1  # seconds between looks at whether the consumer has gone


def ahead(stage: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yield what `stage` yields, computed by a thread at most `depth` items ahead.

    An exception in the stage is raised here, after the items before it. When the consumer stops early, so does the
    thread, and the stage is closed.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in stage:
                if not put(item):
                    break
        except BaseException as error:
            failure.append(error)
        finally:
            close = getattr(stage, "close", None)
            if close is not None:
                close()
            put(_DONE)

    thread = threading.Thread(target=work, daemon=True, name=f"ahead-{getattr(stage, '__name__', 'stage')}")
    thread.start()
    try:
        while (item := ready.get()) is not _DONE:
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
    if failure:
        raise failure[0]
