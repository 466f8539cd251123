"""One ONNX file that dreams anywhere: writing it, and proving that what was written is right.

docs/portable.md says what such a file takes and gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .dream.shaping import Shaping
from .dream.step_graph import build_gradient_model, build_step_model
from .engines.select import select
from .errors import ModelError, OptionError, PictureError, VerifyError, first_line
from .images import write_whole

if TYPE_CHECKING:
    import onnx

    from .engines.base import Session
    from .networks.model import Model
    from .objectives import Objective

# A gradient whose directional derivatives are further off than this is taken for wrong: single precision and the kinks
# of ReLUs and pools within a step account for less.
TOLERANCE = 0.02
# The same where the network computes in half precision.
HALF_TOLERANCE = 0.05
PLAIN = Shaping()
_DIRECTIONS = 8
_PICTURES = 8
# Mean changes of a pixel, of 255, for the difference quotients: small enough to stay between most kinks, large enough
# for the precision. Which they are depends on the network.
_CHANGES = (0.1, 0.03, 0.01, 0.003, 0.001)
_HALF_CHANGES = (0.1, 0.03, 0.01)


def export_model(
    model: Model,
    objective: Objective,
    path: Path,
    *,
    gradient_only: bool = False,
    shaping: Shaping = PLAIN,
    size: tuple[int, int] | None = None,
    target: str = "cpu",
    half: bool = False,
    check: Callable[[Path], None] | None = None,
) -> onnx.ModelProto:
    """Write the step model of an objective as one file.

    Args:
        model: The network.
        objective: What the model ascends.
        path: Where to; its name ends in .onnx.
        gradient_only: Write the gradient model instead.
        shaping: What becomes of the gradient before it is added to the picture; nothing with `gradient_only`.
        size: (height, width) of the pictures, for runtimes that need to know it; the batch is then 1.
        target: The runtime to write for, one of `lowering.targets.TARGETS`.
        half: Let the network compute in half precision.
        check: Given the file under another name before it takes its place, which it prevents by raising.

    Returns:
        The model.

    Raises:
        OptionError: `path`, `shaping` or `target` cannot be.
        OutputError: The file cannot be written.
        PictureError: The layer cannot be computed at `size`.
        LayerError: A layer or channel does not exist.
        NoGradientError: An operator has no derivative rule.
    """
    if path.suffix.lower() != ".onnx":
        raise OptionError(f"{path}: an exported model's name ends in .onnx")
    if gradient_only and shaping != PLAIN:
        raise OptionError("bands, colors, headroom and smooth shape the step, and a gradient model has none; omit them")
    taken = "" if size is None else model.refusal(objective.layers, size, objective.places)
    if size is not None and taken:
        raise PictureError(f"size {size[1]}x{size[0]}: {', '.join(objective.layers)} takes {taken}")
    if gradient_only:
        proto = build_gradient_model(model, objective, target=target, half=half, size=size)
    else:
        proto = build_step_model(model, objective, **shaping.options(), target=target, half=half, size=size)

    def write(to: Path) -> None:
        to.write_bytes(proto.SerializeToString())
        if check is not None:
            check(to)

    write_whole(path, write)
    return proto


def is_staircase(proto: onnx.ModelProto) -> bool:
    """Whether a model rounds on its way, so that differences of its objective are 0 or jumps, and prove nothing."""
    return any(node.op_type == "QuantizeLinear" for node in proto.graph.node)


def verify(
    path: Path,
    *,
    size: tuple[int, int],
    shaping: Shaping = PLAIN,
    gradient_model: onnx.ModelProto | None = None,
    half: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> float:
    """The error of an exported file's gradient, relative to the largest.

    Directional derivatives <gradient, v> are compared with difference quotients of the objective that the file itself
    computes, in several directions v; of several pictures and distances the best agreement counts, since kinks spoil
    it here and there, while a wrong gradient is wrong everywhere. A plain step model tells the gradient only up to its
    length, so there all directions together must agree up to one factor. One that shapes the gradient does not tell it:
    there the gradient of another model is compared, and the step with what `Shaping.climb` makes of that.

    Args:
        path: The file.
        size: (height, width) of the random pictures to try it on.
        shaping: What the model was built with, and so is `half`.
        gradient_model: The gradient model of the same objective, for a step model with `shaping`.
        half: See `shaping`.
        device: What to run it on, see `engines.select`; the model must be lowered for that.
        seed: Where random numbers start.

    Raises:
        ModelError: The file is no model of ours.
        VerifyError: Its objective never changes, or is NaN or infinite.
        BackendError: It does not run.
    """
    session = select(device).open(_loaded(path))
    if set(session.inputs) not in ({"image"}, {"image", "step_size", "shift"}):
        raise ModelError(f"{path}: its inputs are {', '.join(session.inputs)}; this is no model onnxdream exported")
    rng = np.random.default_rng(seed)

    def objective(at: np.ndarray) -> float:
        return float(session.run(_feeds(session, at))["objective"][0])

    source = session if gradient_model is None else select(device).open(gradient_model)
    is_step = "shift" in source.inputs
    best, step_error = math.inf, 0.0
    for _ in range(_PICTURES):
        image = _picture(size, rng)
        outputs = source.run(_feeds(source, image))
        if not all(np.isfinite(values).all() for values in outputs.values()):
            remedy = "export it without --half" if half else "choose another layer or objective"
            raise VerifyError(f"{path}: gives NaN or infinity on a picture of noise; {remedy}")
        gradient = np.asarray(outputs["dreamed"] - image if is_step else outputs["gradient"], np.float64)
        if np.abs(gradient).max():
            # Parts of the gradient itself: in a direction at random nearly nothing would change.
            directions = [v for v in (gradient * _patch(size, rng) for _ in range(_DIRECTIONS)) if v.any()] or [
                gradient
            ]
            predicted = np.array([np.sum(gradient * v) for v in directions])
            for change in _HALF_CHANGES if half else _CHANGES:
                measured = np.array([_slope(objective, image, v, change) for v in directions])
                factor = float(predicted @ measured / (predicted @ predicted)) if is_step else 1.0
                best = min(best, float(np.abs(measured - factor * predicted).max() / np.abs(measured).max()))
            if gradient_model is not None:
                step_error = max(step_error, _step_error(session, shaping, image, outputs["gradient"]))
        if best < TOLERANCE / 4:
            break
    if math.isinf(best):
        raise VerifyError("the objective does not respond to the pictures tried, so nothing can be verified")
    return max(best, step_error)


def _step_error(session: Session, shaping: Shaping, image: np.ndarray, gradient: np.ndarray) -> float:
    """How far a step model's step is from that of `Shaping.climb`, root mean square over root mean square."""
    expected = image.copy()
    shaping.climb(expected, gradient.copy(), 1.0, None)
    dreamed = session.run(_feeds(session, image))["dreamed"]
    return float(np.linalg.norm(dreamed - expected) / np.linalg.norm(expected - image))


def _loaded(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as an ONNX model ({first_line(error)})") from error


def _slope(objective: Callable[[np.ndarray], float], image: np.ndarray, along: np.ndarray, change: float) -> float:
    """The derivative of `objective` along a direction, by a central difference of `change` where pixels move."""
    scale = change / float(np.abs(along[along != 0]).mean())
    step = (along * scale).astype(np.float32)
    return (objective(image + step) - objective(image - step)) / (2 * scale)


def _feeds(session: Session, image: np.ndarray) -> dict[str, np.ndarray]:
    feeds: dict[str, np.ndarray] = {
        "image": image,
        "step_size": np.ones((), np.float32),
        "shift": np.zeros(2, np.int64),
    }
    return {name: value for name, value in feeds.items() if name in session.inputs}


def _picture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise [1,3,H,W] far enough from 0 and 255 that no step is clipped."""
    import cv2

    coarse = rng.uniform(64, 192, (max(2, size[0] // 8), max(2, size[1] // 8), 3)).astype(np.float32)
    picture = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) + rng.normal(0, 4, (*size, 3))
    return np.ascontiguousarray(picture.astype(np.float32).transpose(2, 0, 1)[None])


def _patch(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A mask [1,3,H,W] of one area in one colour, so that no two directions average the same errors.

    It is large enough for the objective to change by more than single precision rounds it.
    """
    mask = np.zeros((1, 3, *size))
    height, width = (max(1, length // 4) for length in size)
    top, left = rng.integers(0, size[0] - height + 1), rng.integers(0, size[1] - width + 1)
    mask[0, rng.integers(3), top : top + height, left : left + width] = 1
    return mask
