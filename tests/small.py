"""Small ONNX networks, written node by node, and the command line as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Random weights that keep activations near 1."""
    fan_in = max(1, int(np.prod(shape[1:])))
    return np.random.default_rng(seed).normal(0, fan_in**-0.5, shape).astype(np.float32)


def network(
    nodes: Sequence[onnx.NodeProto],
    *,
    size: Sequence[int | str] = ("N", 3, "H", "W"),
    outputs: Sequence[str] = ("out",),
    rank: int = 4,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 18,
    domains: Sequence[str] = (),
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """A network with the picture input `x` of `size`, further `inputs`, and `constants`; its outputs have `rank`."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", FLOAT, list(size)), *inputs],
        [helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def conv(source: str, target: str, **attributes: Any) -> list[onnx.NodeProto]:
    """A 3x3 convolution with the weight `w_<target>`, and a ReLU."""
    hidden = f"{target}_before"
    return [
        helper.make_node("Conv", [source, f"w_{target}"], [hidden], name=f"conv_{target}", pads=[1] * 4, **attributes),
        helper.make_node("Relu", [hidden], [target], name=f"relu_{target}"),
    ]


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=f"the_{output}", **attributes)


def plain(**options: Any) -> onnx.ModelProto:
    """Two convolutions, `a` and `out`."""
    return network(
        [*conv("x", "a", strides=[2, 2]), *conv("a", "out")],
        w_a=weights(8, 3, 3, 3),
        w_out=weights(6, 8, 3, 3),
        **options,
    )


def classifier(**options: Any) -> onnx.ModelProto:
    """A convolution `a`, then a fully connected layer `out` that fixes the picture's size at 48x64."""
    return network(
        [
            *conv("x", "a", strides=[4, 4]),
            node("Flatten", ["a"], "flat", axis=1),
            node("Gemm", ["flat", "w_fc"], "out", transB=1),
        ],
        w_a=weights(8, 3, 3, 3),
        w_fc=weights(10, 8 * 12 * 16),
        rank=2,
        **options,
    )


def flash(path: Path, *, frames: int, at: int, size: tuple[int, int], levels: tuple[int, int], keys: int) -> Path:
    """A film of darkness and silence, 25 frames a second, but for frame `at` and the sound that goes with it.

    `size` is (width, height), `levels` the grey of dark and light frames, `keys` the frames from one key frame on.
    """
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", 25, options={"g": str(keys)})
        (video.width, video.height), video.pix_fmt = size, "yuv420p"
        sound: Any = out.add_stream("pcm_s16le", 48000, layout="mono")
        for number in range(frames):
            image = np.full((*size[::-1], 3), levels[number == at], np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
            wave = np.full((1, 1920), 20000 if number == at else 0, np.int16)
            noise = av.AudioFrame.from_ndarray(wave, "s16", "mono")
            noise.rate, noise.pts, noise.time_base = 48000, number * 1920, Fraction(1, 48000)
            out.mux(sound.encode(noise))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path


def loud_from(path: Path) -> float:
    """When the sound of such a film begins, in seconds."""
    with av.open(str(path)) as container:
        parts = [(f.pts * f.time_base, f.rate, f.to_ndarray().ravel()) for f in container.decode(audio=0)]
    wave = np.abs(np.concatenate([p.astype(np.float64) for _, _, p in parts]))
    return float(parts[0][0]) + int(np.argmax(wave > wave.max() / 2)) / parts[0][1]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "onnxdream.cli.app", *map(str, arguments)]


def onnxdream(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder`."""
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
