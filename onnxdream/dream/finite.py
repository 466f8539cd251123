"""Where a network's numbers stop being finite, and what to do about it.

Steps tell that it happened at no cost: their objective is NaN then, see `step_graph`. Only afterwards is the layer
looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NoGradientError, NotFiniteError
from .step_graph import build_finite_model

if TYPE_CHECKING:
    from ..engines.base import Engine
    from ..networks.model import Model
    from ..objectives import Objective


def explain(model: Model, objective: Objective, image: np.ndarray, engine: Engine) -> NotFiniteError:
    """What to say where an objective or its gradient is not finite on a picture.

    Args:
        model: The network.
        objective: The objective.
        image: The picture, float32 [N,3,H,W] in 0..255.
        engine: What to compute on.

    Returns:
        An error that names the layer where it begins, for the caller to raise.
    """
    found = _first(model, objective.layers, image, engine)
    if found is not None:
        return found
    names = _before(model, objective.layers)
    good, bad = len(names), -1
    while good - bad > 1:  # going back from the objective, NaN stays NaN
        middle = (good + bad) // 2
        if _gradient_is_finite(model, objective, names[middle], image, engine):
            good = middle
        else:
            bad = middle
    if bad == -1:
        return NotFiniteError(
            f"{objective!r} of {model.name} gives NaN or infinity on this picture although every layer is finite; "
            "choose another layer or objective"
        )
    if good == len(names):
        return NotFiniteError(
            f"{objective!r} of {model.name} has a gradient that is NaN or infinite on this picture, from its own "
            "formula; choose another layer or objective"
        )
    at = model.layers[names[good]]
    return NotFiniteError(
        f"the gradient of {objective!r} of {model.name} turns NaN or infinite behind layer {at.name} (operator "
        f"{at.operator}) on this picture; {_advice(names[:good])}"
    )


def explain_activation(model: Model, layer: str, image: np.ndarray, engine: Engine) -> NotFiniteError:
    """What to say where a layer's activation is not finite on a picture.

    Args:
        model: The network.
        layer: The layer's name.
        image: See `explain`.
        engine: See there.

    Returns:
        An error that names the layer where it begins, for the caller to raise.
    """
    return _first(model, [layer], image, engine) or NotFiniteError(
        f"layer {layer} of {model.name} gives NaN or infinity on this picture; choose another layer"
    )


def _first(model: Model, layers: Sequence[str], image: np.ndarray, engine: Engine) -> NotFiniteError | None:
    """An error that names the first layer on the way to `layers` that is not finite; None where all are."""
    names = _before(model, layers)
    flags = engine.open(build_finite_model(model, names, target=engine.target)).run({"image": image})["finite"]
    bad = np.flatnonzero(~np.isfinite(flags))
    if not bad.size:
        return None
    at = model.layers[names[bad[0]]]
    advice = _advice(names[: bad[0]])
    return NotFiniteError(
        f"layer {at.name} of {model.name} (operator {at.operator}) gives NaN or infinity on this picture; {advice}"
    )


def _before(model: Model, layers: Sequence[str]) -> list[str]:
    """The names of `layers` and of all layers that they are computed from, in order."""
    needed, found = {model.layer(name).name for name in layers}, []
    for node in reversed(model.proto.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            found += [name for name in node.output if name in model.layers]
    return found[::-1]


def _gradient_is_finite(model: Model, objective: Objective, layer: str, image: np.ndarray, engine: Engine) -> bool:
    try:
        proto = build_finite_model(model, [layer], objective, target=engine.target)
    except NoGradientError:  # the objective does not change with it
        return True
    return bool(np.isfinite(engine.open(proto).run({"image": image})["finite"]).all())


def _advice(names: Sequence[str]) -> str:
    if not names:
        return "check the mean and std in its card"
    return f"choose a layer before it, such as {' or '.join(names[-2:][::-1])}"
