"""Measure what a film on a cluster costs: the seams of long shots, two workers against one, and each stage's share.

    python tools/bench_cluster.py seams a.mp4 b.mp4      # which overlap hides that a long shot was divided
    python tools/bench_cluster.py workers a.mp4          # two workers of one core against one, in turn
    python tools/bench_cluster.py model a.mp4 [--gpu 200 --cores 8]  # what limits a film on N GPUs

`seams`: the dream is divided every 40 frames with an overlap of K; its warp error beyond the source's and its strength
over the K frames of the fade (and the pairs around it) are given as ratios to those of an undivided dream, same frames.
K = 1 is as good as a hard cut. `workers` times whole jobs on a real local Ray cluster, with nodes of one core each.
`model` measures the core-seconds of decoding, cut detection, flow, ascent, encoding and joining, and computes from them
the hours that each needs for an hour of film at 24 frames a second on N GPUs, each with the ascent of --gpu of the
cores here (an assumption, not a measurement) and --cores of them beside it. Readout and writing share one 10 Gbit/s
disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from onnxdream import objectives
from onnxdream.cluster.object_store import ObjectStoreFiles
from onnxdream.cluster.ray import RayCluster
from onnxdream.dream.dreamer import Dreamer
from onnxdream.images import to_batch
from onnxdream.networks.model import load_model
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.evaluate.metrics import compare
from onnxdream.video.io.open import Encoding, finish, open_source, open_writer
from onnxdream.video.job.job import dream_video
from onnxdream.video.job.pipeline import JobSpec

OVERLAPS = (1, 8, 16, 24, 32)
PART = 40  # frames
SHOT = 4.0  # seconds, of a feature film's average shot
NETWORK = 10e9 / 8  # bytes a second into and out of the shared disk
MACHINES = (1, 10, 100, 1000)


def video_dreamer(layer: str, threads: int = 0) -> VideoDreamer:
    return VideoDreamer(Dreamer(load_model("squeezenet1_1"), objectives.l2(layer), threads=threads))


def shrunk(clip: Path, folder: Path, frames: int, width: int) -> Path:
    """The first frames of a clip, `width` wide, without loss."""
    target = folder / f"{clip.stem}-{width}.mkv"
    with open_source(clip) as video:
        height = round(width * video.info.height / video.info.width / 2) * 2
        info = replace(video.info, width=width, height=height, aspect=Fraction(1))
        writer = open_writer(folder / "segment", info, Encoding("ffv1"), target)
        for frame in islice(video.frames(), frames):
            writer.write(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA), frame.pts)
        writer.close()
        finish(target, [folder / "segment"], None, info, metadata={})
    return target


def frames_of(path: Path) -> list[np.ndarray]:
    with open_source(path) as video:
        return [frame.rgb for frame in video.frames()]


def seams(clip: Path, frames: int, width: int, layer: str, folder: Path) -> Iterator[tuple[int, float, float]]:
    """(overlap, warp error, strength) for each overlap, as ratios to the undivided dream."""
    small, dreamer = shrunk(clip, folder, frames, width), video_dreamer(layer)
    sources = frames_of(small)

    def dreamed(overlap: int) -> list[np.ndarray]:
        target = folder / f"{clip.stem}-{overlap}.mkv"
        dream_video(small, target, dreamer, encoding=Encoding("ffv1"), segment_frames=PART, overlap=overlap)
        return frames_of(target)

    whole = dreamed(0)

    def figures(dream: list[np.ndarray], overlap: int) -> tuple[float, float]:
        errors, strengths = [], []
        for seam in range(PART, frames - 1, PART):
            window = slice(seam - overlap - 1, seam + 1)
            errors.append(compare(zip(sources[window], dream[window], strict=True)).excess)
            faded = dream[seam - overlap : seam]
            strengths += [dreamer.dreamer.measure(to_batch(frame)) for frame in faded]
        return statistics.mean(errors), statistics.mean(strengths)

    for overlap in OVERLAPS:
        (error, strength), (usual, usual_strength) = figures(dreamed(overlap), overlap), figures(whole, overlap)
        yield overlap, error / usual, strength / usual_strength


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep what is started in the block on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def workers(clip: Path, frames: int, width: int, layer: str, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of whole jobs: on one core, and on clusters with one and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    small = shrunk(clip, folder, frames, width)
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    seconds: dict[str, list[float]] = {"one machine, one core": [], "1 worker": [], "2 workers": []}

    def job(name: str, cluster: RayCluster | None) -> None:
        began = time.perf_counter()
        options: dict[str, Any] = {"segment_frames": 48, "overlap": 16, "overwrite": True, "cluster": cluster}
        dream_video(small, folder / "out.mkv", video_dreamer(layer, threads=1), **options)
        seconds[name].append(time.perf_counter() - began)

    cores = sorted(os.sched_getaffinity(0))
    made = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    try:
        for _ in range(rounds):
            with on_core(cores[0]):
                job("one machine, one core", None)
            for count in (1, 2):
                nodes = []
                for core in cores[:count]:
                    with on_core(core):
                        nodes.append(made.add_node(**node))
                made.wait_for_nodes()
                job(f"{count} worker{'s' * (count > 1)}", RayCluster(made.address))
                for each in nodes:
                    made.remove_node(each)
    finally:
        made.shutdown()
    return seconds


@dataclass(frozen=True)
class Terms:
    """Core-seconds, and bytes, that one frame takes."""

    cuts: float  # decoding and looking for cuts, on the machine that started the job
    decode: float
    flow: float
    ascent: float
    encode: float
    join: float  # on the machine that started the job
    read: float  # bytes
    written: float


def terms(clip: Path, layer: str, folder: Path) -> Terms:
    """Measured on all frames of the clip, flow and ascent on nine of them."""
    dreamer, target = video_dreamer(layer), folder / "out.mkv"
    with open_source(clip) as video:
        info, decoded = video.info, list(video.frames())
        spec = JobSpec(clip, {}, target, dreamer, Encoding(), segment_frames=10**9)

        def timed(work: Callable[[], Any], frames: int = len(decoded)) -> float:
            began = time.process_time()  # of all threads; other programs on the machine do not count
            work()
            return (time.process_time() - began) / frames

        decode = timed(lambda: list(video.frames()))
        cuts = timed(lambda: list(spec.find_chunks(video)))
        pictures = [f.rgb for f in decoded[:9]]
        prepared = [dreamer.prepare(pictures[0])]
        flow = timed(lambda: prepared.extend(dreamer.prepare(p) for p in pictures[1:]), 8)
        dreamer.develop(prepared[0])  # opens the sessions
        first = timed(lambda: dreamer.develop(prepared[0]), 1)
        further = timed(lambda: [dreamer.develop(p) for p in prepared[1:]], 8)

        def encoded() -> None:
            with open_writer(folder / "segment", info, Encoding(), target) as writer:
                for frame in decoded:
                    writer.write(frame.image, frame.pts)

        encode = timed(encoded)
        join = timed(lambda: finish(target, [folder / "segment"], clip, info, metadata={}))
    sizes = [path.stat().st_size / len(decoded) for path in (clip, folder / "segment")]
    return Terms(cuts, decode, flow, further + first / (24 * SHOT), encode, join, *sizes)


def store(folder: Path, megabytes: int = 200) -> float:
    """MB/s of a file from here through Ray's object store into a file of another node's."""
    from ray.cluster_utils import Cluster

    (folder / "film").write_bytes(os.urandom(megabytes << 20))
    node = {"num_cpus": 1, "object_store_memory": 2 * megabytes << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    try:
        made.add_node(**node)
        made.wait_for_nodes()
        cluster = RayCluster(made.address)
        with cluster.connected():
            cluster.on_each_node(os.path.abspath, "")  # starts a worker
            began = time.perf_counter()
            files = ObjectStoreFiles({"film": folder / "film"}, "bench_cluster")
            cluster.on_each_node(ObjectStoreFiles.unpack, files)
            seconds = time.perf_counter() - began
            cluster.on_each_node(ObjectStoreFiles.discard, files)
    finally:
        made.shutdown()
    return megabytes * (1 << 20) / 1e6 / seconds


def limits(t: Terms, machines: int, gpu: float, cores: int) -> dict[str, float]:
    """Hours that each part of the work needs for an hour of film; the longest is what limits."""
    film = 3600 * 24
    at_once = min(machines, 3600 / SHOT)  # there are no more shots than that
    seconds = {
        "finding cuts": film * t.cuts,
        "ascent": film * t.ascent / gpu / at_once,
        "flow, decode, encode": film * (t.decode + t.flow + t.encode) / cores / at_once,
        "shared disk": film * (t.read + t.written) / NETWORK,
        "joining": film * t.join,
    }
    return {name: value / 3600 for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["seams", "workers", "model"])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layer", default="fire6")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu", type=float, default=200.0)
    parser.add_argument("--cores", type=int, default=8)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    table, console = Table(box=None), Console(width=140)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "seams":
            columns = {c: list(seams(c, options.frames, options.width, options.layer, folder)) for c in options.clips}
            for heading in ("overlap", *(f"{c.stem}: {f}" for c in columns for f in ("warp error", "strength"))):
                table.add_column(heading, justify="right")
            for rows in zip(*columns.values(), strict=True):
                table.add_row(str(rows[0][0]), *(f"{value:.2f}" for row in rows for value in row[1:]))
        elif options.what == "workers":
            times = workers(options.clips[0], options.frames, options.width, options.layer, options.rounds, folder)
            alone = statistics.median(times["1 worker"])
            for heading in ("on", "median seconds", "1 worker / this", "all seconds"):
                table.add_column(heading, justify="right")
            for on, figures in times.items():
                middle = statistics.median(figures)
                each = " ".join(f"{seconds:.1f}" for seconds in figures)
                table.add_row(on, f"{middle:.1f}", f"{alone / middle:.2f}x", each)
            console.print(f"load of the machine: {os.getloadavg()[1]:.1f}, on {os.cpu_count()} cores")
        else:
            t = terms(options.clips[0], options.layer, folder)
            console.print("core-seconds (and bytes) a frame:", {name: f"{v:.4g}" for name, v in vars(t).items()})
            console.print(f"through the object store, to another node on this machine: {store(folder):.0f} MB/s")
            for heading in ("GPUs", *limits(t, 1, 1, 1), "hours, limited by"):
                table.add_column(heading, justify="right")
            for machines in MACHINES:
                hours = limits(t, machines, options.gpu, options.cores)
                table.add_row(str(machines), *(f"{h:.3f}" for h in hours.values()), max(hours, key=lambda n: hours[n]))
        console.print(table)


if __name__ == "__main__":
    main()
