"""The inputs of a network: which one takes the picture, in what form, and what the others are given."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..graph.cut import cut
from ..graph.shapes import inputs_of
from .card import IMAGENET, Preprocessing

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

_MOST_CHANNELS = 64  # of what is taken for a picture
# What moves the numbers of a picture around without computing with them.
_MOVES = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Flatten", "Gather", "Split", "Concat"}


def parse_inputs(texts: Iterable[str]) -> dict[str, str]:
    """Split constants for inputs, NAME=VALUE or NAME=FILE.npy, into names and values.

    Args:
        texts: The constants.

    Returns:
        The values, by name.

    Raises:
        ModelError: One has no "=".
    """
    found = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not (name and equals and value):
            raise ModelError(f"input {text!r} is not of the form NAME=VALUE or NAME=FILE.npy")
        found[name] = value
    return found


def set_constants(proto: onnx.ModelProto, constants: Mapping[str, Any], path: Path) -> None:
    """Turn inputs into constants, in place.

    Args:
        proto: The network as it is in its file.
        constants: By input, a number, an array, the path of a NumPy file, or numbers as text: "0.5", "640,480", "true".
        path: The network's file, for messages.

    Raises:
        ModelError: There is no such input, or the value does not fit it.
    """
    import onnx

    weights = {t.name for t in proto.graph.initializer}
    inputs = {i.name: i for i in proto.graph.input if i.name not in weights}
    for name, value in constants.items():
        if name not in inputs:
            raise ModelError(
                f"{path}: has no input {name!r}; its inputs are {', '.join(map(describe, inputs.values()))}"
            )
        tensor = inputs[name].type.tensor_type
        array = _as_array(value, f"{path}: input {name}")
        dims = [d.dim_value for d in tensor.shape.dim] if tensor.HasField("shape") else list(array.shape)
        fitted = _fitted(array, dims)
        if fitted is None:
            shape = f"[{','.join(map(str, array.shape))}]"
            raise ModelError(f"{path}: input {describe(inputs[name])} cannot be given numbers of the shape {shape}")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(fitted.astype(dtype), name))
        proto.graph.input.remove(inputs[name])


def _as_array(value: Any, what: str) -> np.ndarray:
    """Numbers given as such, as text or as a file. Raises ModelError."""
    if not isinstance(value, str):
        return np.asarray(value)
    try:
        if value.lower().endswith(".npy"):
            return np.asarray(np.load(Path(value).expanduser(), allow_pickle=False))
        words = {"true": 1.0, "false": 0.0}
        numbers = [words.get(part.strip().lower()) or float(words.get(part.strip().lower(), part))
                   for part in value.split(",")]  # fmt: skip
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{what}: {value!r} is neither numbers such as 0.5 or 640,480 nor a NumPy file: {error}"
        ) from error
    return np.asarray(numbers if "," in value else numbers[0])


def _fitted(array: np.ndarray, dims: list[int]) -> np.ndarray | None:
    """The array in the shape `dims`, where 0 is any length, and 1 if nothing tells; None where it does not fit."""
    if array.ndim == len(dims) and all(d in (0, n) for d, n in zip(dims, array.shape, strict=True)):
        return array
    if array.size == 1:
        return np.full([d or 1 for d in dims], array.reshape(()))
    free = [axis for axis, d in enumerate(dims) if not d]
    known = math.prod(d for d in dims if d)
    if array.size == known:
        return array.reshape([d or 1 for d in dims])
    if free and array.size % known == 0:
        return array.reshape([array.size // known if axis == free[-1] else d or 1 for axis, d in enumerate(dims)])
    return None


def picture_input(proto: onnx.ModelProto, path: Path) -> tuple[str, Preprocessing | None]:
    """Find the input that takes a picture, and let it take floating-point numbers, in place.

    What needs another input is cut off, since that has no value.

    Args:
        proto: The network as it is in its file, with its constants set.
        path: The network's file, for messages.

    Returns:
        The name of the input, and the preprocessing that its type tells, if it does.

    Raises:
        ModelError: No input takes a picture, or several do.
    """
    weights = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights]
    pictures = inputs if len(inputs) == 1 else [i for i in inputs if _channel_axis(i) is not None]
    listed = ", ".join(map(describe, inputs))
    if not inputs:
        raise ModelError(f"{path}: takes no input, so no picture")
    if len(pictures) != 1:
        many = "several pictures" if pictures else "several inputs, none of which is a picture"
        raise ModelError(
            f"{path}: takes {many} ({listed}); give the others a value with --input NAME=VALUE or FILE.npy"
        )
    picture = pictures[0]
    others = [i for i in inputs if i is not picture]
    if others:
        used = {name for node in proto.graph.node for name in inputs_of(node)}
        names = [i.name for i in others if i.name in used]
        reasons = {
            i.name: f"input {i.name}, which has no value; give it one with --input {i.name}=VALUE" for i in others
        }
        cut(proto, lambda _: None, reasons)
        if not any(picture.name in inputs_of(node) for node in proto.graph.node):
            raise ModelError(
                f"{path}: takes several inputs ({listed}); give the others a value with --input NAME=VALUE"
            )
        if names:
            log.warning(
                f"{path}: layers behind its input {', '.join(names)} are left out; to have them, give it a value with "
                f"--input {names[0]}=VALUE"
            )
    value = next(i for i in proto.graph.input if i.name == picture.name)
    if _channel_axis(value) is None:
        raise ModelError(f"{path}: input {describe(value)} is not a picture [N,3,H,W] or [N,H,W,3]; export it as one")
    return value.name, _as_floats(proto, value, path)


def describe(value: onnx.ValueInfoProto) -> str:
    """An input in words: its name and shape, with its type where that is not float."""
    import onnx

    tensor = value.type.tensor_type
    dims = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return f"{value.name} [{','.join(dims)}]" + ("" if kind in ("float", "undefined") else f" ({kind})")


def _channel_axis(value: onnx.ValueInfoProto) -> int | None:
    """Which axis of a picture, counted from its end, holds the channels: -3 or -1; None where it is no picture."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if len(dims) not in (3, 4) or value.type.tensor_type.elem_type in (8, 9):  # texts, and yes or no
        return None
    first, last = dims[-3], dims[-1]
    usual = (1, 3, 4)
    if last in usual and first not in usual:
        return -1
    if first in usual or (first == 0 and (last == 0 or last > _MOST_CHANNELS or len(dims) == 4)):
        return -3
    if 0 < first <= _MOST_CHANNELS and not 0 < last < first:
        return -3
    return -1 if 0 < last <= _MOST_CHANNELS else None


def _as_floats(proto: onnx.ModelProto, value: onnx.ValueInfoProto, path: Path) -> Preprocessing | None:
    """Let a picture of whole numbers be one of floating-point numbers; the preprocessing it then needs, if it was.

    Where the network only casts it, the numbers are not rounded; where it computes with integers, they are.
    """
    import onnx
    from onnx import TensorProto

    tensor = value.type.tensor_type
    if tensor.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
        return None
    whole, tensor.elem_type = tensor.elem_type, TensorProto.FLOAT
    moved, only_cast = {value.name}, True
    for node in proto.graph.node:
        if moved & inputs_of(node) and node.op_type != "Cast":
            only_cast &= node.op_type in _MOVES
            moved |= set(node.output)
    if not only_cast:
        if whole not in (TensorProto.UINT8, TensorProto.INT8):
            raise ModelError(f"{path}: input {describe(value)} is computed with in whole numbers; export it as float")
        for node in proto.graph.node:
            node.input[:] = [f"{value.name}/whole" if name == value.name else name for name in node.input]
        zero = np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(whole))
        for name, array in (("one", np.ones((), np.float32)), ("zero", zero)):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{value.name}/{name}"))
        inputs = [value.name, f"{value.name}/one", f"{value.name}/zero"]
        proto.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", inputs, [f"{value.name}/whole"]))
    else:
        for info in [v for v in proto.graph.value_info if v.name in moved]:
            proto.graph.value_info.remove(info)
    shift = 128.0 if whole == TensorProto.INT8 else 0.0
    return Preprocessing("RGB", (shift,) * 3, (1.0,) * 3)


def to_channels_first(proto: onnx.ModelProto, input_name: str) -> None:
    """Make a network that takes [N,H,W,C], [H,W,C] or [C,H,W] take [N,C,H,W], in place.

    Args:
        proto: The network in canonical form.
        input_name: The input that takes the picture.
    """
    import onnx

    value = next(i for i in proto.graph.input if i.name == input_name)
    shape = value.type.tensor_type.shape
    kept = [onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in shape.dim]
    axis, single = _channel_axis(value), len(kept) == 3
    if axis == -3 and not single:
        return
    steps, at = [], input_name
    if axis == -1:
        steps.append(onnx.helper.make_node("Transpose", [at], [f"{input_name}/nhwc"], perm=[0, 2, 3, 1]))
        kept = [*kept[:-3], kept[-1], *kept[-3:-1]]
        at = f"{input_name}/nhwc"
    if single:
        axes = onnx.numpy_helper.from_array(np.zeros(1, np.int64), f"{input_name}/axes")
        proto.graph.initializer.append(axes)
        steps.append(onnx.helper.make_node("Squeeze", [at, axes.name], [f"{input_name}/single"]))
        kept.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))
        at = f"{input_name}/single"
    for node in proto.graph.node:
        node.input[:] = [at if name == input_name else name for name in node.input]
    for step in reversed(steps):
        proto.graph.node.insert(0, step)
    del shape.dim[:]
    shape.dim.extend(kept)


def assumed_preprocessing(channels: int, told: Preprocessing | None, path: Path) -> Preprocessing:
    """What a network without a card is taken to expect.

    Args:
        channels: How many channels its picture has, 0 where the file does not tell.
        told: What its type tells; see `picture_input`.
        path: The network's file, for messages.

    Returns:
        The values 0..255 themselves where whole numbers are wanted, or else ImageNet's normalisation.

    Raises:
        ModelError: A picture does not have that many channels.
    """
    letters = {0: "RGB", 1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if letters is None:
        raise ModelError(
            f"{path}: takes {channels} channels, and a picture gives 1, 3 or 4 (grey, RGB, RGB and alpha); name them "
            'in a card, such as "channels": "RGBRGB" for two pictures'
        )
    if told is not None:
        return Preprocessing(letters, told.mean[:1] * len(letters), told.std[:1] * len(letters))
    if letters == "L":
        return Preprocessing("L", (127.5,), (127.5,))
    return IMAGENET if letters == "RGB" else Preprocessing("RGBA", (*IMAGENET.mean, 0.0), (*IMAGENET.std, 255.0))
