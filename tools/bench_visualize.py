"""Measure feature visualisation: how good, and how fast against the same method in PyTorch.

    python tools/bench_visualize.py quality --images FOLDER [--steps 256] [--channels 16] [--networks a,b] [--json]
    python tools/bench_visualize.py speed [--steps 512] [--repeats 1] [--threads 2] [--networks a,b]
        [--json]

Quality: the mean activation of a channel on its visualisation as a multiple of the highest on FOLDER's pictures (at
128 and 224 pixels), and what is left of it when the visualisation is moved by 8 pixels or turned by 5 degrees, the
worst of six ways; medians over the channels, and in how many of them the first exceeds 1 and the second 0.5.

Speed: one grid of 16 channels at 128 pixels, building included. The rival is lucent's method in PyTorch eager: the same
spectrum, colours, steps and optimiser, its transforms (pad 12, jitter 8, scale, rotate, jitter 4), all channels in one
batch. The two take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from onnxdream import objectives
from onnxdream.interpret.parametrization import COLOR, frequencies
from onnxdream.interpret.top_activations import picture_files, read_center_crop, record_top_activations
from onnxdream.interpret.transforms import AffineWarp
from onnxdream.interpret.visualizer import Visualizer
from onnxdream.networks.model import load_model
from tools import networks

LAYERS = {"squeezenet1_1": ("fire5", "fire8"), "efficientnet_lite0": ("block5", "block10")}
TORCH = {"squeezenet1_1": networks.SqueezeNet, "efficientnet_lite0": networks.EfficientNetLite0}
RECIPES = ("fourier", "maco", "pixel")
SIZE = (128, 128)
MOVED = [AffineWarp(SIZE, 1, 0, shift) for shift in ((8, 0), (-8, 0), (0, 8), (0, -8))]
MOVED += [AffineWarp(SIZE, 1, math.radians(turn), (0, 0)) for turn in (5, -5)]


def quality(name: str, layer: str, channels: range, files: list[Path], steps: int) -> dict[str, dict[str, float]]:
    """For each recipe: activation against natural pictures, what is left under moves, and in how many channels."""
    model = load_model(name)
    goals = [objectives.channel(layer, c) for c in channels]
    natural = np.max(
        [
            record_top_activations(model, layer, [read_center_crop(f, s) for f in files]).means.max(1)
            for s in (SIZE, (224, 224))
        ],
        axis=0,
    )[list(channels)]
    rows = {}
    for recipe in RECIPES:
        visualizer = Visualizer(model, recipe=recipe, size=SIZE, steps=steps)
        pictures = visualizer(goals).pictures
        reached = visualizer.measure(goals, pictures)
        batch = pictures.transpose(0, 3, 1, 2).astype(np.float32)
        moved = [np.rint(warp(batch)).astype(np.uint8).transpose(0, 2, 3, 1) for warp in MOVED]
        left = np.min([visualizer.measure(goals, m) for m in moved], axis=0) / np.maximum(reached, 1e-9)
        times = reached / np.maximum(natural, 1e-9)
        rows[recipe] = {
            "activation": float(np.median(reached)), "natural": float(np.median(natural)),
            "times_natural": float(np.median(times)), "exceed": int((times > 1).sum()),
            "left": float(np.median(left)), "robust": int((left > 0.5).sum()), "channels": len(channels),
        }  # fmt: skip
    return rows


def lucent_grid(network: nn.Module, channels: range, steps: int) -> torch.Tensor:
    """Visualisations of channels of `network`'s output, as lucent makes them: pictures [n,3,H,W] in 0..1."""
    height, width = SIZE
    network.requires_grad_(False)
    scale = torch.from_numpy(math.sqrt(height * width) / np.maximum(frequencies(SIZE), 1 / max(SIZE))).float()
    color = torch.from_numpy(COLOR)
    spectrum = torch.randn(len(channels), 3, *scale.shape, 2).mul_(0.01).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=0.05)
    numbers = torch.tensor(list(channels))

    def pictures() -> torch.Tensor:
        planes = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=SIZE) / 4
        return torch.sigmoid((planes.permute(0, 2, 3, 1) @ color.T).permute(0, 3, 1, 2))

    for _ in range(steps):
        optimizer.zero_grad()
        x = functional.pad(pictures(), (12,) * 4, value=0.5)
        x = jitter(x, 8)
        scaled = [round(side * (1 + (random.randrange(11) - 5) / 50)) for side in x.shape[2:]]
        x = functional.interpolate(x, scaled, mode="bilinear", align_corners=False)
        x = jitter(rotate(x, random.choice([*range(-10, 11), 0, 0, 0, 0, 0])), 4)
        activation = network(x * 255)
        activation[torch.arange(len(numbers)), numbers].mean((1, 2)).sum().neg().backward()
        optimizer.step()
    return pictures().detach()


def jitter(x: torch.Tensor, most: int) -> torch.Tensor:
    dy, dx = random.randrange(most), random.randrange(most)
    return x[:, :, dy : x.shape[2] - most + dy, dx : x.shape[3] - most + dx]


def rotate(x: torch.Tensor, degrees: float) -> torch.Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    grid = functional.affine_grid(
        torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]]).expand(len(x), 2, 3), list(x.shape), False
    )
    return functional.grid_sample(x, grid, align_corners=False)


def speed(name: str, layer: str, channels: range, steps: int, repeats: int, threads: int) -> dict[str, float]:
    """Seconds a grid, of both, and their ratios: of the time, and of the processor time, which other programs on the
    machine hardly change."""
    torch.set_num_threads(threads)
    model, network = load_model(name), TORCH[name](layer)
    goals = [objectives.channel(layer, c) for c in channels]
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(clocked(lambda: Visualizer(model, size=SIZE, steps=steps, threads=threads)(goals)))
        theirs.append(clocked(lambda: lucent_grid(network, channels, steps)))
        print(f"  {ours[-1][0]:.1f} s, lucent's method {theirs[-1][0]:.1f} s", file=sys.stderr, flush=True)
    pairs = list(zip(theirs, ours, strict=True))
    return {
        "onnxdream_s": statistics.median(o[0] for o in ours), "lucent_s": statistics.median(t[0] for t in theirs),
        "ratio": statistics.median(t[0] / o[0] for t, o in pairs),
        "cpu_ratio": statistics.median(t[1] / o[1] for t, o in pairs),
    }  # fmt: skip


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, processor seconds) that `work` takes."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--networks", default=",".join(LAYERS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    channels, rows = range(options.channels), {}
    if options.what == "quality" and options.images is None:
        parser.error("quality needs --images FOLDER")
    for name in options.networks.split(","):
        for layer in LAYERS[name]:
            print(f"{name} {layer} …", file=sys.stderr, flush=True)
            if options.what == "quality":
                found = quality(name, layer, channels, picture_files(options.images), options.steps or 256)
                rows.update({f"{name} {layer} {recipe}": row for recipe, row in found.items()})
            else:
                rows[f"{name} {layer}"] = speed(
                    name, layer, channels, options.steps or 512, options.repeats, options.threads
                )
    if options.json:
        print(json.dumps(rows))
        return
    table = Table(box=None)
    for heading in ["", *next(iter(rows.values()))]:
        table.add_column(heading.replace("_", " "), justify="right")
    for label, row in rows.items():
        table.add_row(label, *(f"{value:.3g}" for value in row.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
