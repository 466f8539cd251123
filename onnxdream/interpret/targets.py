"""What to visualise: labelled objectives, chosen by channels, classes and signs."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import LayerError, OptionError, PictureError
from ..networks.model import Model
from ..objectives import Objective, channel, direction, diversity, l2, logit, neuron
from ..settings import parse_channels
from .parametrization import MaCo, natural_magnitude
from .top_activations import picture_files, read_crops
from .visualizer import RECIPES, VisualizationRecipe, Visualizer

log = logging.getLogger(__name__)

KINDS = ("channel", "neuron", "cosine", "layer")
SIGNS = ("positive", "negative", "both")
_DEFAULT_CHANNELS = 16  # how many channels are shown if none are chosen
_SCALE_STEPS = 32  # ascent steps that tell the scale of a channel's activation


@dataclass(frozen=True)
class VisualizationTarget:
    """One picture to make.

    Attributes:
        label: The text below it.
        objective: What it maximises.
    """

    label: str
    objective: Objective


def select_channels(model: Model, layer: str, text: str | None) -> tuple[int, ...]:
    """Parse a choice of a layer's channels.

    Args:
        model: The network.
        layer: The layer's name.
        text: Numbers and ranges such as "3,5-8", or "all". None: the first 16.

    Returns:
        The channels' numbers, each once.

    Raises:
        OptionError: The text cannot be parsed.
        LayerError: The layer has no such channel.
    """
    count = model.layer(layer).channels
    if text is None:
        return tuple(range(min(count, _DEFAULT_CHANNELS)))
    numbers = tuple(range(count)) if text == "all" else tuple(dict.fromkeys(parse_channels(text)))
    for number in numbers:
        if number >= count:
            raise LayerError(f"layer {layer} has channels 0 to {count - 1}; there is no channel {number}")
    return numbers


def class_index(model: Model, name: str, count: int) -> int:
    """The number of a class.

    Args:
        model: The network, whose card names the classes.
        name: The class's name or number. For a name with its kind appended, such as "tabby cat", the class "tabby" is
            taken, and a note says so.
        count: How many classes there are.

    Returns:
        The number, counted from 0.

    Raises:
        OptionError: There is no such class; the message suggests similar names.
    """
    labels = model.card.labels[:count]
    if name.isdecimal():
        if int(name) < count:
            return int(name)
        raise OptionError(f"{model.name} has no class {name}; its classes are 0 to {count - 1}")
    if not labels:
        raise OptionError(f"{model.name} has no class names (labels in its card); give the class by its number")
    folded = [label.casefold().strip() for label in labels]
    wanted = name.casefold().strip()
    if wanted in folded:
        return folded.index(wanted)
    shorter = " ".join(wanted.split()[:-1])
    if shorter and folded.count(shorter) == 1:
        taken = folded.index(shorter)
        log.warning(f"no class is called {name!r}; {labels[taken]} is shown")
        return taken
    close = difflib.get_close_matches(wanted, folded, n=4, cutoff=0.5)
    within = [label for label in folded if wanted and (wanted in label or set(label.split()) <= set(wanted.split()))]
    near = [labels[folded.index(label)] for label in dict.fromkeys([*within[:4], *close])][:4]
    hint = f"did you mean {', '.join(near)}?" if near else "see the labels of its card"
    raise OptionError(f"{model.name} has no class {name!r}; {hint}")


def channel_label(model: Model, layer: str, number: int) -> str:
    """A channel's number, followed by the class's name if the layer is the classifier's output."""
    labels = model.card.labels
    at = model.layer(layer)
    return f"{number} {labels[number]}" if not at.spatial and len(labels) == at.channels else str(number)


def channel_targets(
    model: Model, layer: str, numbers: Sequence[int], *, kind: str = "channel", sign: str = "positive"
) -> list[VisualizationTarget]:
    """The targets for channels of a layer.

    Args:
        model: The network.
        layer: The layer's name.
        numbers: The channels' numbers.
        kind: "channel" (its mean), "neuron" (the one in the middle), "cosine" (its direction, with the cosine squared)
            or "layer" (all channels at once, whatever `numbers`).
        sign: "positive" (what excites the channel), "negative" (what inhibits it) or "both".

    Returns:
        A target for each channel, or two with the sign "both".

    Raises:
        OptionError: There is no such kind or sign.
    """
    if kind not in (*KINDS, "logit"):
        raise OptionError(f"unknown objective {kind!r}; objectives are {', '.join(KINDS)}")
    if sign not in SIGNS:
        raise OptionError(f"unknown sign {sign!r}; signs are {', '.join(SIGNS)}")
    if kind == "layer":
        return [VisualizationTarget(layer, l2(layer))]
    count = model.layer(layer).channels
    makers: dict[str, Callable[[int], Objective]] = {
        "channel": lambda c: channel(layer, c),
        "neuron": lambda c: neuron(layer, c),
        "logit": lambda c: logit(layer, c),
        "cosine": lambda c: direction(layer, np.eye(count, dtype=np.float32)[c], cosine_power=2),
    }
    make = makers[kind]
    signs = {"positive": (1,), "negative": (-1,), "both": (1, -1)}[sign]
    return [
        VisualizationTarget(("-" if s < 0 else "") + channel_label(model, layer, c), make(c) if s > 0 else -make(c))
        for c in numbers
        for s in signs
    ]


def class_targets(
    model: Model, names: Sequence[str], layer: str | None = None, sign: str = "positive"
) -> list[VisualizationTarget]:
    """The targets for classes: their logits in the classifier's output.

    Args:
        model: The network.
        names: The classes' names or numbers.
        layer: The classifier's output layer, by default the network's own.
        sign: See `channel_targets`.

    Returns:
        A target for each class, or two with the sign "both".

    Raises:
        OptionError: There is no such class.
        LayerError: The layer does not have one channel for each class.
    """
    output = layer or model.output_layer()
    count = model.layer(output).channels
    classes = {len(model.card.labels)} - {0}
    with contextlib.suppress(LayerError):
        classes.add(model.layer(model.output_layer()).channels)
    if classes and count not in classes:
        raise LayerError(f"layer {output} has {count} channels, not one for each class; omit --layer")
    numbers = dict.fromkeys(class_index(model, name, count) for name in names)
    return channel_targets(model, output, list(numbers), kind="logit", sign=sign)


def interpolation_targets(layer: str, first: int, last: int, frames: int) -> list[VisualizationTarget]:
    """The targets of a gradual transition from one channel to another.

    Args:
        layer: The layer's name.
        first: The channel at the start.
        last: The channel at the end.
        frames: How many pictures, 2 to 10,000.

    Returns:
        A target for each picture.

    Raises:
        OptionError: `frames` is out of range.
    """
    if not 2 <= frames <= 10_000:
        raise OptionError(f"frames is {frames}; from one channel to another it takes 2 to 10000")
    a, b = channel(layer, first), channel(layer, last)
    shares = [frame / (frames - 1) for frame in range(frames)]
    digits = 0 if frames <= 101 else 2  # so that no two labels are the same
    return [VisualizationTarget(f"{first}-{last} {share:.{digits}%}", (1 - share) * a + share * b) for share in shares]


def maco_from_folder(
    folder: Path, size: tuple[int, int], on_skip: Callable[[str], None] = lambda message: None
) -> VisualizationRecipe:
    """The recipe `maco` with the mean magnitude of the pictures in a folder.

    Args:
        folder: Contains PNG or JPEG files.
        size: (height, width) of the visualisations, in pixels.
        on_skip: Called with a message for each file that cannot be read; the file is skipped.

    Returns:
        The recipe.

    Raises:
        PictureError: The folder contains no readable picture.
    """
    pictures = [picture[0].astype(np.float32) for picture in read_crops(picture_files(folder), size, on_skip)]
    if not pictures:
        raise PictureError(f"{folder}: none of its pictures can be read; name a folder of PNG or JPEG files")
    magnitude = natural_magnitude(pictures, size)
    return replace(RECIPES["maco"], parametrization=partial(MaCo, magnitude=magnitude))


def diverse_targets(
    visualizer: Visualizer, target: VisualizationTarget, count: int, weight: float = 0.3
) -> list[VisualizationTarget]:
    """The targets of several different pictures of one objective; see `objectives.diversity`.

    Args:
        visualizer: Makes a short ascent to find the scale of the objective.
        target: What each picture maximises.
        count: How many pictures, 2 to 16.
        weight: The weight of diversity, in units of what the objective reaches in that ascent.

    Returns:
        A target for each picture.

    Raises:
        OptionError: `count` is out of range.
        LayerError: The layer is not spatial.
    """
    if not 2 <= count <= 16:
        raise OptionError(f"diversity is {count}; it must be between 2 and 16 pictures")
    visualizer.check([diversity(target.objective.layers[0])])
    rough = visualizer.with_steps(_SCALE_STEPS)
    scale = abs(float(rough.measure([target.objective], rough([target.objective]).pictures)[0]))
    goal = target.objective + (weight * scale) * diversity(target.objective.layers[0])
    return [VisualizationTarget(f"{target.label} {chr(97 + i)}", goal) for i in range(count)]


def describe_inactive(inactive: Mapping[str, Sequence[object]]) -> str:
    """A note about the channels {layer: channels} that an ascent left inactive."""
    named = []
    for layer, channels in inactive.items():
        more = f" and {len(channels) - 12} more" if len(channels) > 12 else ""
        named.append(f"{', '.join(map(str, channels[:12]))}{more} of {layer}")
    return f"nothing found for {'; '.join(named)}: inactive everywhere; try other steps, another size or seed"
