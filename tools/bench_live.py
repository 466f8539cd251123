"""Measure the OpenCV-style filter: rate, overhead, memory over many frames, and the two engines against each other.

    python tools/bench_live.py [--clip FILE] [--sizes 320x180,640x360] [--fps 25] [--frames 250] [--many 10000]

For each size and layer, `apply` with `target_fps`, flow and all: its rate, what it chose, and its time over that of
the ascents in it, repeated alone (`overhead`); for the first size that in CPU time too. Then the latency of `live`
on the clip, played as a camera; one ascent step on OpenCV's engine over one on ONNX Runtime, in turn, medians; and the
resident memory after each tenth of `--many` frames.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np

from onnxdream import objectives
from onnxdream.dream.dreamer import Dreamer
from onnxdream.images import to_batch
from onnxdream.networks.model import load_model
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.live.capture import LatestFrame, open_feed
from onnxdream.video.live.session import Live

CLIP = Path(__file__).parent.parent / "tests" / "data" / "clip.mp4"


class Recorder(Dreamer):
    """A Dreamer that can repeat what it was last asked for."""

    last: tuple[np.ndarray, dict[str, Any]]

    def ascend(self, source: np.ndarray, **options: Any) -> Any:
        self.last = source, {**options, "rng": copy.deepcopy(options.get("rng"))}
        return super().ascend(source, **options)

    def repeat(self) -> None:
        super().ascend(self.last[0], **self.last[1])


def frames(clip: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """All frames of a clip, BGR."""
    capture, images = cv2.VideoCapture(str(clip)), []
    while (read := capture.read())[0]:
        images.append(cv2.resize(read[1], size, interpolation=cv2.INTER_AREA))
    return images


def rate(images: list[np.ndarray], layer: str, fps: float, count: int) -> dict[str, Any]:
    dreamer = Recorder(load_model("squeezenet1_1"), objectives.l2(layer), smooth=0.5)
    video = VideoDreamer(dreamer, flow="dis-ultrafast", target_fps=fps)
    loop = [*images, *images[-2:0:-1]]  # there and back, so that nothing jumps
    whole, ascent, efforts = [], [], []
    for number in range(count):
        began = time.perf_counter()
        video.apply(loop[number % len(loop)])
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        dreamer.repeat()
        ascent.append(time.perf_counter() - began)
        efforts.append(str(video.getEffort()))
    settled = slice(count // 3, None)
    took = sorted(whole[settled])
    return {
        "size": "x".join(map(str, images[0].shape[1::-1])),
        "layer": layer,
        "fps": 1 / statistics.mean(took),
        "late": sum(t > 1 / fps for t in took) / len(took),
        "p95_ms": 1e3 * took[int(0.95 * len(took))],
        "first_ms": 1e3 * whole[0],
        "overhead": statistics.median(w / a for w, a in zip(whole[settled], ascent[settled], strict=True)) - 1,
        "effort": efforts[-1],
        "changes": sum(a != b for a, b in itertools.pairwise(efforts)),
    }


def cpu_overhead(images: list[np.ndarray], layer: str) -> dict[str, Any]:
    """What `apply` adds to its ascent at 1+1+1 steps, in CPU time on one thread: the same on a busy machine."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    dreamer = Recorder(load_model("squeezenet1_1"), objectives.l2(layer), smooth=0.5, octaves=3, threads=1)
    video = VideoDreamer(dreamer, flow="dis-ultrafast", frame_steps=1)
    whole, ascent = [], []
    for image in images[:24]:
        began = time.process_time()
        video.apply(image)
        whole.append(time.process_time() - began)
        began = time.process_time()
        dreamer.repeat()
        ascent.append(time.process_time() - began)
    cv2.setNumThreads(threads)
    apply, ascended = (1e3 * statistics.median(t[4:]) for t in (whole, ascent))
    size = "x".join(map(str, images[0].shape[1::-1]))
    return {"size": size, "layer": layer, "apply_ms": apply, "ascent_ms": ascended, "overhead": apply / ascended - 1}


def latency(clip: Path, layer: str, fps: float, count: int) -> dict[str, Any]:
    """From the moment a picture comes to that its dream is there, the clip played as a camera; in frame times too."""
    video = VideoDreamer(
        Dreamer(load_model("squeezenet1_1"), objectives.l2(layer), smooth=0.5), flow="dis-ultrafast", target_fps=fps
    )
    with LatestFrame(open_feed(str(clip), loop=True)) as latest:
        result = Live(video, latest, []).run(frames=count)
    late = sorted(list(result.latencies)[count // 3 :])
    return {
        "layer": layer, "median_ms": 1e3 * statistics.median(late), "p95_ms": 1e3 * late[int(0.95 * len(late))],
        "frame_times": statistics.median(late) * 25, "dropped": result.dropped, "frames": result.frames,
        "effort": str(video.getEffort()),
    }  # fmt: skip


def resident() -> float:
    """MiB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(images: list[np.ndarray], count: int) -> list[float]:
    """MiB after each tenth of `count` frames."""
    video = VideoDreamer(Dreamer(load_model("squeezenet1_1"), objectives.l2("fire5"), octaves=2), frame_steps=1)
    sizes = []
    for number in range(count):
        video.apply(images[number % len(images)])
        if (number + 1) % (count // 10) == 0:
            sizes.append(resident())
    return sizes


def engines(size: tuple[int, int]) -> list[dict[str, Any]]:
    rows = []
    picture = to_batch(cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (*size[::-1], 3)), (0, 0), 2))
    for network, layer in [("squeezenet1_1", "fire5"), ("squeezenet1_1", "fire8"), ("efficientnet_lite0", "block5"),
                           ("efficientnet_lite0", "block10")]:  # fmt: skip
        model = load_model(network)
        dreamers = [Dreamer(model, objectives.l2(layer), octaves=1, steps=5, device=d) for d in ("cpu", "opencv")]
        times: list[list[float]] = [[], []]
        for _ in range(9):
            for dreamer, took in zip(dreamers, times, strict=True):
                began = time.perf_counter()
                dreamer.ascend(picture)
                took.append((time.perf_counter() - began) / 5)
        ours, theirs = (1e3 * statistics.median(t[1:]) for t in times)
        rows.append({"network": network, "layer": layer, "onnxruntime_ms": ours, "opencv_ms": theirs,
                     "ratio": theirs / ours})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--sizes", default="320x180,640x360,1280x720")
    parser.add_argument("--layers", default="fire5,fire6")
    parser.add_argument("--fps", type=float, default=25)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = [(int(w), int(h)) for w, h in (s.split("x") for s in options.sizes.split(","))]
    load = os.getloadavg()[0]
    rates = []
    for size in sizes:
        images = frames(options.clip, size)
        for layer in options.layers.split(","):
            rates.append(rate(images, layer, options.fps, options.frames))
            print("{size} {layer}: {fps:.1f} fps, {late:.0%} late, 95 % within {p95_ms:.0f} ms, overhead "
                  "{overhead:.0%}; {effort}; {changes} changes, first frame {first_ms:.0f} ms".format(**rates[-1]),
                  file=sys.stderr, flush=True)  # fmt: skip
    images = frames(options.clip, sizes[0])
    times = [cpu_overhead(images, layer) for layer in options.layers.split(",")]
    for row in times:
        print("{size} {layer}: {apply_ms:.1f} ms of CPU time a frame, {ascent_ms:.1f} of them its ascent, overhead "
              "{overhead:.0%}".format(**row), file=sys.stderr)  # fmt: skip
    lives = [latency(options.clip, layer, options.fps, options.frames) for layer in options.layers.split(",")]
    for row in lives:
        print("live {layer}: {median_ms:.0f} ms late (95 %: {p95_ms:.0f}), {frame_times:.2f} frame times, {dropped} "
              "dropped, {frames} dreamed; {effort}".format(**row), file=sys.stderr)  # fmt: skip
    rows = engines((320, 180))
    for row in rows:
        print("{network} {layer} at 320x180: {onnxruntime_ms:.1f} ms a step with ONNX Runtime, "
              "{opencv_ms:.1f} with OpenCV, "
              "{ratio:.2f}x".format(**row), file=sys.stderr)  # fmt: skip
    memory = growth(frames(options.clip, (96, 54)), options.many) if options.many else []
    print(f"load at the start {load:.2f}; MiB resident over {options.many} frames: "
          f"{' '.join(f'{m:.0f}' for m in memory)}", file=sys.stderr)  # fmt: skip
    if options.json:
        print(
            json.dumps(
                {"load": load, "rates": rates, "cpu": times, "live": lives, "engines": rows, "memory_mib": memory}
            )
        )


if __name__ == "__main__":
    main()
