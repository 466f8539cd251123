"""Independent tasks spread over a Ray cluster; lost tasks are retried.

A task may run twice, so one that writes files must write them under a name of its own and then rename them. The
machines of the cluster need the same version of onnxdream installed.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import cv2

from ..engines.base import limit_threads
from ..errors import ClusterError, OnnxDreamError, OptionError, first_line

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
ReportProgress = Callable[[int], None]  # called with how much of its task a worker has done, in any unit

_MAX_FAILED = 3  # tasks; after that no more are started
_MAX_LOST = 20  # times one task may be lost with its worker
_INTERVAL = 0.5  # seconds between progress reports


@dataclass(frozen=True)
class ClusterProgress:
    """What the cluster is doing at this moment.

    Attributes:
        workers: How many are at work.
        amount: The sum of what they report as done of their present tasks.
    """

    workers: int
    amount: int


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster to spread work over.

    Args:
        address: "auto" (the cluster this machine belongs to, or $RAY_ADDRESS), host:port of the head of a cluster this
            machine belongs to, or ray://host:port of any cluster.
        workers: The most tasks submitted at once; as many as keep every worker busy if None.
        cpus_per_worker: Cores for each task, at least 1.
        gpus_per_worker: GPUs for each task: a fraction below 1, or an integer.
        retries: How often a failed task is retried. One whose worker or node dies is retried more often.

    Raises:
        OptionError: A setting is out of range.
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
        """Connect until the block is left; a connection made before stays open.

        Yields:
            The `ray` module.

        Raises:
            ClusterError: Ray is not installed, or there is no cluster at the address.
        """
        ray = ray_module()
        if ray.is_initialized():
            yield ray
            return
        try:
            _check_reachable(self.address)
            options = {"address": self.address, "log_to_driver": False, "logging_level": "error"}
            try:
                ray.init(**options)
            except ConnectionAbortedError:  # the server for outside drivers sometimes fails to start their process
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
        on_progress: Callable[[ClusterProgress], bool | None] = lambda progress: None,
    ) -> Generator[tuple[Item, Result], None, None]:
        """Yield (item, `work(item, report)`) for each item, in the order they are finished.

        If `on_progress` returns False, or the generator is closed early, the submitted tasks are cancelled.

        Args:
            work: The function. It is sent to each worker process once and keeps its state there between items. `report`
                takes how much of the item is done, in any unit.
            items: What to call it with; they may be found while the first are being worked on.
            on_progress: Called about twice a second. If it returns False, the generator ends without an error.

        Yields:
            An item and what `work` returned for it.

        Raises:
            ClusterError: Some items failed too often. It is raised after all other items and names them by their str();
                its cause is the group of their errors. After three such items no more are started.
        """
        with self.connected() as ray:
            run = _Map(self, ray, work, iter(items), on_progress)
            try:
                yield from run.results()
            finally:
                run.cancel_tasks()
            if not run.cancelled:
                run.check()

    def on_each_node(self, function: Callable[..., Result], *arguments: Any) -> list[Result]:
        """Call a function on each node that has room for a worker; if none has, on the first node that does.

        Args:
            function: The function.
            *arguments: Its arguments.

        Returns:
            What it returned on each node.

        Raises:
            ClusterError: It failed on a node.
        """
        with self.connected() as ray:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            task = ray.remote(function)
            calls = [
                task.options(
                    num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                ).remote(*arguments)
                for node in self._nodes(ray)
            ]
            if not calls:
                self.warn_no_room()
                needs = {"num_cpus": self.cpus_per_worker, "num_gpus": self.gpus_per_worker}
                calls = [task.options(**needs).remote(*arguments)]
            try:
                return list(ray.get(calls))
            except ray.exceptions.RayError as error:
                raise ClusterError(f"a node of the cluster failed: {_cause(error)}") from error

    def _nodes(self, ray: Any) -> list[dict[str, Any]]:
        return [node for node in ray.nodes() if node["Alive"] and self._capacity(node)]

    def _capacity(self, node: dict[str, Any]) -> int:
        """How many workers a node has room for."""
        has = node["Resources"]
        capacity = int(has.get("CPU", 0) // self.cpus_per_worker)
        if self.gpus_per_worker:
            capacity = min(capacity, int(has.get("GPU", 0) / self.gpus_per_worker))
        return capacity

    def warn_no_room(self) -> None:
        """Note that no node has room for a worker."""
        gpus = f" and {self.gpus_per_worker:g} GPUs" if self.gpus_per_worker else ""
        log.warning(f"no node has {self.cpus_per_worker} CPUs{gpus} for a worker; waiting for one")

    def room(self, ray: Any) -> int:
        """How many workers the cluster has room for now.

        Args:
            ray: The module, connected to the cluster.
        """
        return sum(map(self._capacity, self._nodes(ray)))


@dataclass
class _Task(Generic[Item]):
    """An item and how often it has failed."""

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
    on_progress: Callable[[ClusterProgress], bool | None]
    failed: list[tuple[_Task[Item], OnnxDreamError]] = field(default_factory=list)
    cancelled: bool = False  # `on_progress` returned False

    def __post_init__(self) -> None:
        cluster, ray = self.cluster, self.ray
        self._work = ray.put(self.work)
        self._amounts = ray.remote(_Amounts).options(num_cpus=0, max_restarts=-1).remote()
        self._remote = ray.remote(_run_task).options(
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.gpus_per_worker,
            max_retries=0,  # counted here
            scheduling_strategy="SPREAD",
        )
        self._pending: dict[Any, _Task[Item]] = {}
        self._to_retry: deque[_Task[Item]] = deque()
        self._submitted = 0
        self._exhausted = False
        if not cluster.room(ray):
            cluster.warn_no_room()

    def results(self) -> Iterator[tuple[Item, Result]]:
        """Yield the results until all items are done or `on_progress` returns False."""
        query: Any = None
        while not self.cancelled:
            self._submit_tasks()
            if not self._pending:
                return
            ready, _ = self.ray.wait(list(self._pending), timeout=_INTERVAL)
            for call in ready:
                yield from self._finished(call, self._pending.pop(call))
            query = self._report(query)

    def _submit_tasks(self) -> None:
        """Submit tasks until there are twice as many as there is room for, so that no worker waits."""
        most = self.cluster.workers or max(2, 2 * self.cluster.room(self.ray))
        while len(self._pending) < most:
            if self._to_retry:
                task = self._to_retry.popleft()
            elif self._exhausted or len(self.failed) >= _MAX_FAILED:
                return
            else:
                try:
                    item = next(self.items)
                except StopIteration:
                    self._exhausted = True
                    return
                task = _Task(self._submitted, item)
                self._submitted += 1
            references = [self._work, self._amounts]  # in a list, so that Ray passes the references themselves
            call = self._remote.remote(references, task.number, task.item, self.cluster.cpus_per_worker)
            self._pending[call] = task

    def _finished(self, call: Any, task: _Task[Item]) -> Iterator[tuple[Item, Result]]:
        errors = self.ray.exceptions
        try:
            result = self.ray.get(call)
        except (errors.RayTaskError, errors.RayError) as error:
            cause = _cause(error)
            if isinstance(error, errors.RayTaskError):
                task.failures += 1
            else:
                task.losses += 1
            if task.failures > self.cluster.retries or task.losses > _MAX_LOST:
                self.failed.append((task, cause))
            else:
                self._to_retry.append(task)
                log.warning(f"{task.item}: {cause}; it is retried")
            return
        finally:
            self._amounts.forget.remote(task.number)
        yield task.item, result

    def _report(self, query: Any) -> Any:
        """Report the progress if the last query has been answered; return the next query."""
        if query is None:
            return self._amounts.amounts.remote()
        if not self.ray.wait([query], timeout=0)[0]:
            return query
        try:
            amounts = self.ray.get(query)
        except self.ray.exceptions.RayError:
            pass  # the actor went down with its node and starts again on another
        else:
            self.cancelled = self.on_progress(ClusterProgress(len(amounts), sum(amounts.values()))) is False
        return self._amounts.amounts.remote()

    def cancel_tasks(self) -> None:
        """Cancel the submitted tasks."""
        if not self.ray.is_initialized():
            return  # any call would start a new cluster
        for call in self._pending:
            with suppress(Exception):
                self.ray.cancel(call, force=True)
        with suppress(Exception):
            self.ray.kill(self._amounts)

    def check(self) -> None:
        """Raise ClusterError if tasks have failed."""
        if not self.failed:
            return
        reasons = (f"{task.item} failed {task.failures + task.losses} times: {e}" for task, e in self.failed)
        causes = ExceptionGroup("tasks failed", [error for _, error in self.failed])
        raise ClusterError("; ".join(reasons)) from causes


class _Amounts:
    """An actor that knows how much of each running task is done."""

    def __init__(self) -> None:
        self._by_task: dict[int, int] = {}

    def note(self, number: int, amount: int) -> None:
        self._by_task[number] = amount

    def forget(self, number: int) -> None:
        self._by_task.pop(number, None)

    def amounts(self) -> dict[int, int]:
        return self._by_task


def _run_task(references: list[Any], number: int, item: Any, cpus: int) -> Any:
    """Run one task, in a worker process of the cluster."""
    work, amounts = references
    limit_threads(cpus)
    cv2.setNumThreads(cpus)
    last = 0.0

    def report(amount: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > _INTERVAL:
            last = now
            amounts.note.remote(number, amount)

    report(0)
    return _fetch_work(work)(item, report)


@functools.lru_cache(maxsize=1)
def _fetch_work(reference: Any) -> Any:
    return ray_module().get(reference)


@functools.cache
def ray_module() -> Any:
    """The `ray` module. Raises ClusterError, naming the extra to install, if it is missing."""
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # or a call after the connection starts a new cluster
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"ray cannot be imported ({error}); install it with `pip install onnxdream[ray]`") from error
    return ray


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at an address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _cause(error: BaseException) -> OnnxDreamError:
    """What went wrong in a task, in one line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, OnnxDreamError):
        return cause
    if isinstance(cause, ray_module().exceptions.WorkerCrashedError):
        return ClusterError("its worker died")
    if isinstance(cause, ray_module().exceptions.NodeDiedError):
        return ClusterError("its node is gone")
    return ClusterError(f"{type(cause).__name__}: {first_line(cause)}")
