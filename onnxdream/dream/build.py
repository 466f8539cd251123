"""From settings to a Dreamer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import objectives
from ..errors import LayerError, OptionError
from ..images import read_picture
from ..networks.model import Model, load_model
from ..objectives import Objective
from ..settings import Settings, parse_layer
from .dreamer import Dreamer, features

_OF_A_LAYER = {
    "l2": objectives.l2, "root": objectives.root, "centred": objectives.centred, "mean": objectives.mean,
}  # fmt: skip


def build_objective(
    settings: Settings, model: Model, device: str = "auto", layers: Sequence[str] | None = None
) -> Objective:
    """The objective the settings describe, of `layers` or else their own.

    Raises OptionError, LayerError, and PictureError for the guide.
    """
    if settings.objective in ("channel", "neuron", "logit") and not settings.channels:
        raise OptionError(f"objective {settings.objective} needs --channels")
    if settings.objective in ("root", "centred", "power") and settings.channels:
        raise OptionError(f"objective {settings.objective} looks at all channels; leave --channels out")
    if settings.guide and (settings.objective != "l2" or settings.channels):
        raise OptionError("a guide is an objective of its own; leave --objective and --channels out")
    names: Sequence[str] = settings.layers if layers is None else layers
    if not names:
        names = (model.output_layer() if settings.objective == "logit" else model.default_layer(),)
    guide = read_picture(Path(settings.guide)).rgb if settings.guide else None
    total: Objective | None = None
    for text in names:
        name, weight = parse_layer(text, model.layers)
        layer = model.layer(name)
        if guide is not None and not layer.spatial:
            raise LayerError(f"layer {name} has no places to guide; choose one before the network's pooling")
        if settings.objective == "logit" and layer.spatial:
            raise LayerError(
                f"layer {name} is no classifier's output; leave --layer out, or choose a layer behind the pooling"
            )
        if guide is not None:
            part = objectives.guide(name, features(model, name, guide, device=device))
        elif settings.objective in ("neuron", "logit"):
            parts = [objectives.neuron(name, c) for c in settings.channels]
            part = sum(parts[1:], parts[0])
        elif settings.channels:
            part = objectives.channel(name, *settings.channels)
        elif settings.objective == "power":
            part = objectives.power(name, settings.exponent)
        else:
            part = _OF_A_LAYER[settings.objective](name)
        total = weight * part if total is None else total + weight * part
    assert total is not None
    return total


def build_dreamer(settings: Settings, *, max_memory: int, device: str = "auto", threads: int = 0) -> Dreamer:
    """The Dreamer the settings describe. Raises what loading the models, the objectives and the Dreamer raise."""
    models = [load_model(settings.model, inputs=settings.inputs), *(load_model(name) for name, *_ in settings.also)]
    layers = [settings.layers, *(layers for _, *layers in settings.also)]
    for model, names in zip(models, layers, strict=True):
        _check_owner(model, names, models)
    (model, objective), *also = (
        (model, build_objective(settings, model, device, names)) for model, names in zip(models, layers, strict=True)
    )
    return Dreamer(
        model,
        objective,
        also=also,
        octaves=settings.octaves,
        octave_scale=settings.octave_scale,
        steps=settings.steps,
        step_size=settings.step_size,
        jitter=settings.jitter,
        bands=settings.bands,
        colors=settings.colors,
        headroom=settings.headroom,
        smooth=settings.smooth,
        half=settings.half,
        seed=settings.seed,
        max_memory=max_memory,
        device=device,
        threads=threads,
    )


def _check_owner(model: Model, names: Sequence[str], models: Sequence[Model]) -> None:
    """Raise LayerError where a layer is missing from its network, with the one of `models` that has it."""
    for text in names:
        name, _ = parse_layer(text, model.layers)
        try:
            model.layer(name)
        except LayerError as error:
            owner = next((other.name for other in models if name in other.layers), None)
            if owner is None:
                raise
            raise LayerError(
                f"{model.name} has no layer {name}, but {owner} has; layers follow their network: -m {owner} -l {text}"
            ) from error
