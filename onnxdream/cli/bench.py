"""`onnxdream bench`: how fast this machine dreams."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import OptionError
from . import options as o
from .look import show_table
from .terminal import note_line, print_json


def bench(
    *,
    model: o.ModelOption = None,
    layer: o.LayerOption = None,
    sizes: Annotated[str, typer.Option(help="Which of 360p, 720p and 1080p.")] = "360p,720p,1080p",
    seconds: Annotated[float, typer.Option(help="How long to measure each.")] = 3.0,
    half: o.HalfOption = None,
    device: o.DeviceOption = "auto",
    threads: o.ThreadsOption = 0,
    max_memory: o.MemoryOption = o.MAX_MEMORY,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Measure how fast this machine dreams: ascent steps and video frames a second."""
    from .. import benchmark

    unknown = [name for name in sizes.split(",") if name not in benchmark.SIZES]
    if unknown:
        raise OptionError(f"unknown size {unknown[0]!r}; sizes are {', '.join(benchmark.SIZES)}")
    settings = o.settings_from({"model": model, "layers": layer or None, "half": half})
    found = {}
    for name in sizes.split(","):
        if not quiet:
            note_line(f"measuring {name} …")
        found[name] = benchmark.measure(
            settings, benchmark.SIZES[name], seconds=seconds, max_memory=o.parse_bytes(max_memory), device=device,
            threads=threads,
        )  # fmt: skip
    records = [
        {"name": name, "width": at.size[1], "height": at.size[0], "steps_per_second": round(1 / at.step, 2),
         "convolutions_share": None if at.floor is None else round(at.floor / at.step, 3),
         "video_fps": round(1 / at.frame, 2)}
        for name, at in found.items()
    ]  # fmt: skip
    provider = next(iter(found.values())).provider
    if as_json:
        print_json({"model": settings.model, "layers": settings.layers, "half": settings.half, "provider": provider,
                    "sizes": records})  # fmt: skip
        return
    show_table(
        f"{settings.model} on {provider}",
        ["size", "pixels", "steps/s", "convolutions alone", "video fps"],
        [
            [str(r["name"]), f"{r['width']}x{r['height']}", f"{r['steps_per_second']:g}",
             "" if r["convolutions_share"] is None else f"{r['convolutions_share']:.0%} of a step",
             f"{r['video_fps']:g}"]
            for r in records
        ],
    )  # fmt: skip
