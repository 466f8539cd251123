"""Sessions kept for the next picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from .base import Engine, Session

if TYPE_CHECKING:
    import onnx

_MOST = 16  # sessions


class SessionCache:
    """Sessions of several models, one for each size of pictures; the least recently used are closed.

    Args:
        engine: What opens them.
        threads: See `Engine.open`.
        limit: How many bytes they may hold together.
    """

    def __init__(self, engine: Engine, *, threads: int = 0, limit: float = 4 << 30) -> None:
        self._engine, self._threads, self._limit = engine, threads, limit
        self._sessions: OrderedDict[tuple[Hashable, ...], tuple[Session, float]] = OrderedDict()

    def at(self, kind: Hashable, model: onnx.ModelProto, size: tuple[int, int, int], bytes_held: float = 0) -> Session:
        """The session of a model for pictures of one size.

        Args:
            kind: What tells the model from the others.
            model: Opened where there is no such session yet.
            size: [N,H,W].
            bytes_held: An estimate of what the session holds.

        Raises:
            OutOfMemoryError: There is too little memory.
            BackendError: The engine cannot run the model.
        """
        key = (kind, *size)
        if key not in self._sessions:
            while self._sessions and (len(self._sessions) >= _MOST or self._held() + bytes_held > self._limit):
                self._sessions.popitem(last=False)
            fixed_shapes = dict(zip("NHW", size, strict=True))
            session = self._engine.open(model, fixed_shapes=fixed_shapes, threads=self._threads)
            self._sessions[key] = session, bytes_held
        self._sessions.move_to_end(key)
        return self._sessions[key][0]

    def _held(self) -> float:
        return sum(size for _, size in self._sessions.values())
