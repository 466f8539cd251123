"""Options of commands that can spread their work over a Ray cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OptionError
from .options import NetworkCommand

if TYPE_CHECKING:
    from ..cluster.ray import RayCluster

_PANEL = "On a cluster"
_ADDRESS = re.compile(r"auto|ray://\S+|[^\s/:]+:\d+")

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[auto|HOST:PORT|ray://HOST:PORT]",
        help="Spread the work over a Ray cluster; auto: the one this machine belongs to.",
        rich_help_panel=_PANEL,
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="At most this many at once; else as many as fit.", rich_help_panel=_PANEL)
]
CpusOption = Annotated[int, typer.Option("--cpus-per-worker", min=1, help="Cores of each.", rich_help_panel=_PANEL)]
GpusOption = Annotated[
    float, typer.Option("--gpus-per-worker", min=0, help="GPUs of each; 0.5: two share one.", rich_help_panel=_PANEL)
]


class RayCommand(NetworkCommand):
    """A command whose `--ray` may stand alone, for `--ray auto`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a lone `--ray` its address."""
        given: list[str] = []
        for place, argument in enumerate(args):
            given.append(argument)
            if argument == "--ray" and not _ADDRESS.fullmatch(" ".join(args[place + 1 : place + 2])):
                given.append("auto")
        try:
            return super().parse_args(ctx, given)
        except Exception as error:  # a usage error, whose class Typer keeps to itself
            said = str(getattr(error, "message", ""))
            if "--ray" in args and "extra argument" in said:
                raise OptionError(f"{said.rstrip('.')}; an address of a cluster is HOST:PORT") from error
            raise


@contextmanager
def own_stdout(cluster: RayCluster | None) -> Iterator[None]:
    """Keep off stdout what Ray prints there about lost nodes; what matters of it is logged."""
    with ExitStack() as stack:
        if cluster is not None:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def cluster_from(ray: str | None, workers: int | None, cpus: int, gpus: float) -> RayCluster | None:
    """The cluster that the options describe; None without --ray. Raises OptionError."""
    if ray is None:
        if workers is not None or cpus != 1 or gpus:
            raise OptionError("--workers, --cpus-per-worker and --gpus-per-worker are for --ray")
        return None
    if not _ADDRESS.fullmatch(ray):
        raise OptionError(f"--ray {ray!r} is not auto, HOST:PORT or ray://HOST:PORT")
    from ..cluster.ray import RayCluster

    return RayCluster(ray, workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
