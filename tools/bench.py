"""Time one ascent step against the same network in PyTorch, in one run on one picture.

    python tools/bench.py [--networks squeezenet,vgg16] [--size 427x640] [--batch 1] [--repeats 7]
    [--candidates onnxdream,openvino,openvino_half,half,eager,channels_last,compile,autocast,compile_autocast] [--json]

The candidates take turns, and medians are printed, and the ratio of the best rival to the best of ours: single
precision against single, half against half. `convs` is the time the convolutions of the step would take alone at the
GEMM rate measured on this machine: the floor. Memory is the growth of the process's peak in a process of its own for
each candidate.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onnxdream import objectives
from onnxdream.benchmark import matrix_product_rate
from onnxdream.dream.step_graph import build_step_model
from onnxdream.engines.select import select
from onnxdream.images import read_picture, resize, to_batch
from onnxdream.networks.model import Model, load_model
from tools import networks

PICTURE = Path(__file__).parent.parent / "tests" / "data" / "rocket.jpg"
CARD = {"preprocessing": {"channels": "RGB", "mean": [0, 0, 0], "std": [1, 1, 1]}}


def random(build: Callable[[], nn.Module]) -> nn.Module:
    """A network of random weights that takes pictures of 0..255, whose activations half precision can hold."""
    network = networks.seeded(build)
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    first.weight /= 255
    return network


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "squeezenet": ("fire8", lambda: networks.SqueezeNet("fire8")),
    "efficientnet_lite0": ("block10", lambda: networks.EfficientNetLite0("block10")),
    "googlenet": ("inception4c", lambda: random(networks.GoogLeNet)),
    "vgg16": ("relu4_3", lambda: random(networks.Vgg16)),
    "resnet50": ("layer3", lambda: random(networks.ResNet50)),
    "mobilenet_v3": ("block10", lambda: random(networks.MobileNetV3)),
}
BUNDLED = {"squeezenet": "squeezenet1_1", "efficientnet_lite0": "efficientnet_lite0"}
# (ours, PyTorch's) by the precision of the convolutions; autocast is PyTorch's mixed precision.
PRECISIONS = {
    "best": (("onnxdream", "openvino"), ("eager", "channels_last", "compile")),
    "half": (("half", "openvino_half"), ("autocast", "compile_autocast")),
}
OURS, RIVALS = (tuple(name for pair in PRECISIONS.values() for name in pair[side]) for side in (0, 1))

Step = Callable[[], None]


def load(name: str, network: nn.Module) -> tuple[Model, str]:
    """The network as an onnxdream model, and its layer."""
    if name in BUNDLED:
        return load_model(BUNDLED[name]), NETWORKS[name][0]
    with tempfile.TemporaryDirectory() as folder:
        path = networks.to_onnx(network, Path(folder) / f"{name}.onnx")
        path.with_suffix(".json").write_text(json.dumps(CARD))
        return load_model(path), "out"


def our_step(name: str, network: nn.Module, image: np.ndarray, device: str, *, half: bool) -> Step:
    model, layer = load(name, network)
    engine = select(device)
    proto = build_step_model(model, objectives.l2(layer), target=engine.target, half=half)
    fixed_shapes = {"N": image.shape[0], "H": image.shape[2], "W": image.shape[3]}
    threads = torch.get_num_threads() if engine.on_cpu else 0
    session = engine.open(proto, fixed_shapes=fixed_shapes, threads=threads)
    endless = iter(lambda: (1.5, (3, -5)), None)
    steps = iter(session.ascend(image, endless))

    def step() -> None:
        next(steps)

    return step


def torch_step(network: nn.Module, image: np.ndarray, device: str, rival: str) -> Step:
    order = torch.contiguous_format if rival == "eager" else torch.channels_last
    network = network.to(device, memory_format=order)
    respond = torch.compile(network) if rival.startswith("compile") else network
    half = torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16, rival.endswith("autocast"))
    state = {"x": torch.from_numpy(image).to(device).contiguous(memory_format=order)}

    def step() -> None:
        x = torch.roll(state["x"], (3, -5), (2, 3)).requires_grad_()
        with half:
            response = respond(x)
        objective = response.float().square().flatten(1).mean(1)
        (gradient,) = torch.autograd.grad(objective.sum(), x)
        gradient = gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        state["x"] = torch.roll((x.detach() + 1.5 * gradient).clamp(0, 255), (-3, 5), (2, 3))
        objective.cpu()

    return step


def make(candidate: str, name: str, image: np.ndarray, device: str) -> Step:
    network = NETWORKS[name][1]()
    if candidate in OURS:
        device = "openvino" if candidate.startswith("openvino") else device
        return our_step(name, network, image, device, half=candidate.endswith("half"))
    return torch_step(network, image, device, candidate)


def convolution_flops(network: nn.Module, image: np.ndarray) -> float:
    """Floating-point operations of the step's convolutions: forward, and once more for the gradient of the input."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.from_numpy(image[:1]))
    return 2.0 * counter.get_total_flops() * image.shape[0]


def high_water_mark() -> float:
    """Peak resident memory of this process in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def peak_memory(candidate: str, name: str, image: np.ndarray, device: str, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(2)
    before = high_water_mark()
    step = make(candidate, name, image, device)
    for _ in range(3):
        step()
    queue.put(high_water_mark() - before)


def measure(
    name: str, candidates: list[str], image: np.ndarray, repeats: int, device: str, rate: float
) -> dict[str, float]:
    steps = {c: make(c, name, image, device) for c in candidates}
    times: dict[str, list[float]] = {c: [] for c in candidates}
    for step in steps.values():
        step(), step()
    for _ in range(repeats):
        for candidate, step in steps.items():
            began = time.perf_counter()
            step()
            times[candidate].append(time.perf_counter() - began)
    medians = {c: statistics.median(t) for c, t in times.items()}
    row = {f"{c}_ms": 1000 * t for c, t in medians.items()}
    for precision, sides in PRECISIONS.items():
        ours, rival = (
            min((c for c in candidates if c in side), key=medians.__getitem__, default=None) for side in sides
        )
        if ours and rival:
            row[f"{precision}_ratio"] = statistics.median(b / a for a, b in zip(times[ours], times[rival], strict=True))
    if device == "cpu":
        row["convs_ms"] = 1000 * convolution_flops(NETWORKS[name][1](), image) / rate
        context = multiprocessing.get_context("spawn")
        for candidate in {"onnxdream", "eager"} & set(candidates):
            queue = context.Queue()
            process = context.Process(target=peak_memory, args=(candidate, name, image, device, queue))
            process.start()
            row[f"{candidate}_MiB"] = queue.get(timeout=300)
            process.join()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--candidates", default="onnxdream,eager,channels_last", help=", ".join(OURS + RIVALS))
    parser.add_argument("--size", default="427x640", help="HxW")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    candidates = options.candidates.split(",")
    if unknown := set(candidates) - {*OURS, *RIVALS}:
        parser.error(f"unknown candidate {', '.join(unknown)}; there are {', '.join(OURS + RIVALS)}")
    height, width = (int(v) for v in options.size.split("x"))
    image = np.repeat(resize(to_batch(read_picture(PICTURE).rgb), (height, width)), options.batch, 0)
    image = np.clip(image, 0, 255)

    rate = matrix_product_rate() if options.device == "cpu" else 0.0
    rows = {}
    for name in options.networks.split(","):
        print(f"{name} …", file=sys.stderr, flush=True)
        rows[name] = measure(name, candidates, image, options.repeats, options.device, rate)
    if options.json:
        print(json.dumps({"size": options.size, "batch": options.batch, "gemm_flops": rate, "networks": rows}))
        return
    at = f"; GEMM at {rate / 1e9:.0f} GFLOP/s" if rate else ""
    table = Table(title=f"One ascent step, {options.batch}x{options.size}, median ms{at}", box=None)
    columns = list(next(iter(rows.values())))
    for heading in ["network", *columns]:
        table.add_column(heading.replace("_", " "), justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:.2f}x" if c.endswith("ratio") else f"{row[c]:.0f}" for c in columns))
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
