"""What to visualise, from the words of the command line: labelled objectives."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import LayerError, OptionError
from ..model import Model
from ..objectives import Objective, channel, direction, diversity, l2, logit, neuron
from ..settings import parse_channels
from .excite import picture_files, read_square
from .parametrize import MaCo, natural_magnitude
from .visualize import RECIPES, Recipe, Visualizer

KINDS = ("channel", "neuron", "cosine", "layer")
SIGNS = ("positive", "negative", "both")
_FIRST = 16  # channels taken where none are named
_ROUGH = 32  # steps after which a channel's answer tells its scale


@dataclass(frozen=True)
class Wanted:
    """One picture to make."""

    label: str
    objective: Objective


def chosen_channels(model: Model, layer: str, text: str | None) -> tuple[int, ...]:
    """The channels that `text` ("0-15", "3,5-8", "all") names; the first 16 where it is None.

    Raises OptionError for what are no numbers, and LayerError for channels that the layer does not have.
    """
    count = model.layer(layer).channels
    if text is None:
        return tuple(range(min(count, _FIRST)))
    numbers = tuple(range(count)) if text == "all" else parse_channels(text)
    for number in numbers:
        if number >= count:
            raise LayerError(f"layer {layer} has channels 0 to {count - 1}; there is no channel {number}")
    return numbers


def class_index(model: Model, name: str) -> int:
    """The class called `name`, or numbered so. Raises OptionError with the nearest names when there is none."""
    labels = model.card.labels
    if name.isdecimal() and (not labels or int(name) < len(labels)):
        return int(name)
    if not labels:
        raise OptionError(f"{model.name} has no class names (labels in its card); give the class by its number")
    folded = [label.casefold().strip() for label in labels]
    wanted = name.casefold().strip()
    if wanted in folded:
        return folded.index(wanted)
    # A longer name, "tabby cat", for the class "tabby".
    parts = [i for i, label in enumerate(folded) if wanted.split()[:-1] == label.split()]
    if wanted and len(parts) == 1:
        return parts[0]
    holding = [labels[i] for i, label in enumerate(folded) if wanted and wanted in label]
    near = holding[:4] or [labels[folded.index(m)] for m in difflib.get_close_matches(wanted, folded, n=4, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else "see the labels of its card"
    raise OptionError(f"{model.name} has no class {name!r}; {hint}")


def channel_label(model: Model, layer: str, number: int) -> str:
    """A channel's number, with the class's name where the layer is the classifier's output."""
    labels = model.card.labels
    at = model.layer(layer)
    return f"{number} {labels[number]}" if not at.spatial and len(labels) == at.channels else str(number)


def wanted_channels(
    model: Model, layer: str, numbers: Sequence[int], *, kind: str = "channel", sign: str = "positive"
) -> list[Wanted]:
    """A picture for each channel of `layer`, or two, what excites it and what it shuns, with `sign` "both".

    `kind` is channel (its mean), neuron (the one in the middle), cosine (its direction with lucid's cosine squared) or
    layer (all channels at once, whatever `numbers`). Raises OptionError for other words.
    """
    if kind not in KINDS:
        raise OptionError(f"unknown objective {kind!r}; objectives are {', '.join(KINDS)}")
    if sign not in SIGNS:
        raise OptionError(f"unknown sign {sign!r}; signs are {', '.join(SIGNS)}")
    if kind == "layer":
        return [Wanted(layer, l2(layer))]
    count = model.layer(layer).channels
    makers: dict[str, Callable[[int], Objective]] = {
        "channel": lambda c: channel(layer, c),
        "neuron": lambda c: neuron(layer, c),
        "cosine": lambda c: direction(layer, np.eye(count, dtype=np.float32)[c], cosine_power=2),
    }
    make = makers[kind]
    signs = {"positive": (1,), "negative": (-1,), "both": (1, -1)}[sign]
    return [
        Wanted(("-" if s < 0 else "") + channel_label(model, layer, c), make(c) if s > 0 else -make(c))
        for c in numbers
        for s in signs
    ]


def wanted_classes(model: Model, names: Sequence[str], layer: str | None = None) -> list[Wanted]:
    """A picture for each class, of its logit in the classifier's output. Raises OptionError or LayerError."""
    output = layer or model.output_layer()
    numbers = [class_index(model, name) for name in names]
    return [Wanted(channel_label(model, output, number), logit(output, number)) for number in numbers]


def between(layer: str, first: int, last: int, frames: int) -> list[Wanted]:
    """`frames` pictures on the way from channel `first` to `last`. Raises OptionError for fewer than 2 frames."""
    if frames < 2:
        raise OptionError(f"frames is {frames}; it takes at least 2 from one channel to another")
    a, b = channel(layer, first), channel(layer, last)
    shares = [frame / (frames - 1) for frame in range(frames)]
    return [Wanted(f"{first}-{last} {share:.0%}", (1 - share) * a + share * b) for share in shares]


def natural_maco(folder: Path, size: tuple[int, int]) -> Recipe:
    """The recipe maco with the mean magnitude of the pictures in `folder`. Raises PictureError."""
    pictures = [read_square(file, size)[0] for file in picture_files(folder)]
    magnitude = natural_magnitude(pictures, size)
    return replace(RECIPES["maco"], parametrisation=partial(MaCo, magnitude=magnitude))


def diversified(visualizer: Visualizer, wanted: Wanted, count: int, weight: float = 0.3) -> list[Wanted]:
    """`count` pictures of one objective that are unlike each other in its layer; see `objectives.diversity`.

    `weight` is in units of what the objective reaches in a short climb. Raises OptionError and LayerError.
    """
    if not 2 <= count <= 16:
        raise OptionError(f"diversity is {count}; it must be between 2 and 16 pictures")
    rough = visualizer.with_steps(_ROUGH)
    scale = abs(float(rough.measure([wanted.objective], rough([wanted.objective]))[0]))
    goal = wanted.objective + (weight * scale) * diversity(wanted.objective.layers[0])
    return [Wanted(f"{wanted.label} {chr(97 + i)}", goal) for i in range(count)]
