"""Work spread over a Ray cluster: pieces that do not depend on each other, each tried again when it is lost.

Everything here treats the same piece done twice as harmless; whoever writes files from a piece writes them under a name
of its own and renames them. The machines of the cluster need onnxdream installed, in the same version.
"""

from __future__ import annotations

import functools
import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import cv2

from ..engines.onnxruntime import limit_threads
from ..errors import ClusterError, OnnxDreamError, OptionError, first_line

Item = TypeVar("Item")
Result = TypeVar("Result")
ReportProgress = Callable[[int], None]  # takes how much of its piece a worker has done so far, in any unit

_MOST_FAILED = 3  # pieces; then no more are begun
_MOST_LOST = 20  # times one piece may go down with its worker
_BEAT = 0.5  # seconds between looks at how far the workers are


@dataclass(frozen=True)
class ClusterProgress:
    """What is going on at this moment."""

    workers: int  # at work
    amount: int  # what they have done of the pieces in hand, summed


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster to spread work over.

    `address` is "auto" (the cluster this machine belongs to, or $RAY_ADDRESS), host:port of the head of a cluster this
    machine belongs to, or ray://host:port of any. At most `workers` pieces are in hand at once, as many as fit where it
    is None; each takes `cpus_per_worker` cores and `gpus_per_worker` GPUs, which may be a fraction. A piece that fails
    is tried again `retries` times; one whose worker or node dies, more often. Raises OptionError for settings out of
    range.
    """

    address: str = "auto"
    workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    retries: int = 2

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"workers is {self.workers}; it must be at least 1")
        if self.cpus_per_worker < 1:
            raise OptionError(f"cpus_per_worker is {self.cpus_per_worker}; it must be at least 1")
        gpus = self.gpus_per_worker
        if not 0 <= gpus < 1 << 10 or (gpus > 1 and gpus != int(gpus)):
            raise OptionError(f"gpus_per_worker is {gpus}; it must be a share of one, or a whole number")
        if self.retries < 0:
            raise OptionError(f"retries is {self.retries}; it must be at least 0")

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The `ray` module, connected until the block is left, or for longer where it was before.

        Raises ClusterError when there is no ray, or no cluster at the address.
        """
        ray = ray_module()
        if ray.is_initialized():
            yield ray
            return
        try:
            _knock(self.address)
            options = {"address": self.address, "log_to_driver": False, "logging_level": "error"}
            try:
                ray.init(**options)
            except ConnectionAbortedError:  # the server for drivers outside now and then fails to start one's process
                ray.init(**options)
        except Exception as error:
            raise ClusterError(
                f"no Ray cluster at {self.address}: {first_line(error)}; start one with `ray start --head`, and on "
                "each other machine `ray start --address=HEAD:6379`"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()

    def map(
        self,
        work: Callable[[Item, ReportProgress], Result],
        items: Iterable[Item],
        *,
        on_progress: Callable[[ClusterProgress], None] = lambda progress: None,
    ) -> Generator[tuple[Item, Result], None, None]:
        """Yield (item, `work(item, report)`) for each of `items`, as they are finished.

        `work` is sent to each worker process once and keeps what it remembers there between items. `items` may be found
        while the first are being worked on. When the generator is closed early, what is in hand is given up. After all
        others, raises ClusterError naming, by their str(), the items that failed too often, with the exit code of the
        cause; after three of them no more are begun.
        """
        with self.connected() as ray:
            run = _Map(self, ray, work, iter(items), on_progress)
            try:
                yield from run.results()
            finally:
                run.give_up()
            run.check()

    def on_each_node(self, function: Callable[..., Result], *arguments: Any) -> list[Result]:
        """What `function` gives on each node that has room for a worker, or on the first that comes where none has yet.

        Raises ClusterError.
        """
        with self.connected() as ray:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

            task = ray.remote(function)
            calls = [
                task.options(num_cpus=0, scheduling_strategy=On(node["NodeID"], soft=True)).remote(*arguments)
                for node in self._nodes(ray)
            ]
            if not calls:
                self.note_no_room()
                needs = {"num_cpus": self.cpus_per_worker, "num_gpus": self.gpus_per_worker}
                calls = [task.options(**needs).remote(*arguments)]
            try:
                return list(ray.get(calls))
            except ray.exceptions.RayError as error:
                raise ClusterError(f"a node of the cluster fails: {_cause(error)}") from error

    def _nodes(self, ray: Any) -> list[dict[str, Any]]:
        return [node for node in ray.nodes() if node["Alive"] and self._places(node)]

    def _places(self, node: dict[str, Any]) -> int:
        """How many workers a node has room for."""
        has = node["Resources"]
        places = int(has.get("CPU", 0) // self.cpus_per_worker)
        return min(places, int(has.get("GPU", 0) / self.gpus_per_worker)) if self.gpus_per_worker else places

    def note_no_room(self) -> None:
        """Say that no node has room for a worker."""
        gpus = f" and {self.gpus_per_worker:g} GPUs" if self.gpus_per_worker else ""
        warnings.warn(f"no node has {self.cpus_per_worker} CPUs{gpus} for a worker; waiting for one", stacklevel=2)

    def room(self, ray: Any) -> int:
        """How many workers the cluster has room for at this moment."""
        return sum(map(self._places, self._nodes(ray)))


@dataclass
class _Piece(Generic[Item]):
    """An item and how it has gone so far."""

    number: int
    item: Item
    failures: int = 0
    losses: int = 0


@dataclass
class _Map(Generic[Item, Result]):
    """One call of `RayCluster.map`."""

    cluster: RayCluster
    ray: Any
    work: Callable[[Item, ReportProgress], Result]
    items: Iterator[Item]
    on_progress: Callable[[ClusterProgress], None]
    failed: list[tuple[_Piece[Item], BaseException]] = field(default_factory=list)

    def __post_init__(self) -> None:
        cluster, ray = self.cluster, self.ray
        self._work = ray.put(self.work)
        self._tally = ray.remote(_Tally).options(num_cpus=0, max_restarts=-1).remote()
        self._task = ray.remote(_worked).options(
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.gpus_per_worker,
            max_retries=0,  # counted here
            scheduling_strategy="SPREAD",
        )
        self._pending: dict[Any, _Piece[Item]] = {}
        self._again: deque[_Piece[Item]] = deque()
        self._began = 0
        self._exhausted = False
        if not cluster.room(ray):
            cluster.note_no_room()

    def results(self) -> Iterator[tuple[Item, Result]]:
        asked: Any = None
        while True:
            self._begin()
            if not self._pending:
                return
            ready, _ = self.ray.wait(list(self._pending), timeout=_BEAT)
            for call in ready:
                yield from self._finished(call, self._pending.pop(call))
            asked = self._look(asked)

    def _begin(self) -> None:
        """Hand out as many pieces as there should be in hand; twice what there is room for, so that nobody waits."""
        most = self.cluster.workers or max(2, 2 * self.cluster.room(self.ray))
        while len(self._pending) < most:
            if self._again:
                piece = self._again.popleft()
            elif self._exhausted or len(self.failed) >= _MOST_FAILED:
                return
            else:
                try:
                    item = next(self.items)
                except StopIteration:
                    self._exhausted = True
                    return
                piece = _Piece(self._began, item)
                self._began += 1
            # In a list, so that Ray hands over the reference itself.
            call = self._task.remote([self._work, self._tally], piece.number, piece.item, self.cluster.cpus_per_worker)
            self._pending[call] = piece

    def _finished(self, call: Any, piece: _Piece[Item]) -> Iterator[tuple[Item, Result]]:
        errors = self.ray.exceptions
        try:
            result = self.ray.get(call)
        except (errors.RayTaskError, errors.RayError) as error:
            cause = _cause(error)
            if isinstance(error, errors.RayTaskError):
                piece.failures += 1
            else:
                piece.losses += 1
            if piece.failures > self.cluster.retries or piece.losses > _MOST_LOST:
                self.failed.append((piece, cause))
            else:
                self._again.append(piece)
                warnings.warn(f"{piece.item}: {cause}; it is done again", stacklevel=1)
            return
        finally:
            self._tally.forget.remote(piece.number)
        yield piece.item, result

    def _look(self, asked: Any) -> Any:
        """Tell how far the workers are, when the answer to the last question is there; the next question."""
        if asked is None:
            return self._tally.amounts.remote()
        if not self.ray.wait([asked], timeout=0)[0]:
            return asked
        with suppress(self.ray.exceptions.RayError):  # it went down with its node, and begins anew on another
            amounts = self.ray.get(asked)
            self.on_progress(ClusterProgress(len(amounts), sum(amounts.values())))
        return self._tally.amounts.remote()

    def give_up(self) -> None:
        if not self.ray.is_initialized():
            return  # any call would begin a cluster of its own
        for call in self._pending:
            with suppress(Exception):
                self.ray.cancel(call, force=True)
        with suppress(Exception):
            self.ray.kill(self._tally)

    def check(self) -> None:
        """Raise ClusterError when pieces have failed."""
        if not self.failed:
            return
        told = "; ".join(f"{piece.item} failed {piece.failures + piece.losses} times: {e}" for piece, e in self.failed)
        error = ClusterError(told)
        error.exit_code = max(getattr(cause, "exit_code", 1) for _, cause in self.failed)
        raise error from self.failed[0][1]


class _Tally:
    """An actor that knows how far each piece in hand is."""

    def __init__(self) -> None:
        self._amounts: dict[int, int] = {}

    def note(self, number: int, amount: int) -> None:
        self._amounts[number] = amount

    def forget(self, number: int) -> None:
        self._amounts.pop(number, None)

    def amounts(self) -> dict[int, int]:
        return self._amounts


def _worked(references: list[Any], number: int, item: Any, cpus: int) -> Any:
    """One piece of work, in a worker process of the cluster."""
    work, tally = references
    limit_threads(cpus)
    cv2.setNumThreads(cpus)
    last = 0.0

    def report(amount: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > _BEAT:
            last = now
            tally.note.remote(number, amount)

    report(0)
    return _received(work)(item, report)


@functools.lru_cache(maxsize=1)
def _received(reference: Any) -> Any:
    return ray_module().get(reference)


@functools.cache
def ray_module() -> Any:
    """Ray itself. Raises ClusterError, naming the extra to install, when it is missing."""
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # else a call after the connection begins a new cluster
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"ray cannot be imported ({error}); install it with `pip install onnxdream[ray]`") from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError when nobody listens at an address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _cause(error: BaseException) -> BaseException:
    """What went wrong in a task, in one line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, OnnxDreamError):
        return cause
    if isinstance(cause, ray_module().exceptions.WorkerCrashedError):
        return ClusterError("its worker died")
    if isinstance(cause, ray_module().exceptions.NodeDiedError):
        return ClusterError("its node is gone")
    return ClusterError(f"{type(cause).__name__}: {first_line(cause)}")
