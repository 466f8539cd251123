"""The notes for people that the package logs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager


class _List(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def notes() -> Iterator[list[str]]:
    """The notes of the block, in a list that grows meanwhile."""
    logger, handler = logging.getLogger("onnxdream"), _List()
    logger.addHandler(handler)
    try:
        yield handler.texts
    finally:
        logger.removeHandler(handler)


@contextmanager
def noted(match: str) -> Iterator[list[str]]:
    """Like `notes`; one of them must match a regular expression."""
    with notes() as told:
        yield told
    assert any(re.search(match, text) for text in told), told
