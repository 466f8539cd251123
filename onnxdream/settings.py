"""The settings of a dream: defaults, presets, files, and what a picture carries.

They are layered, later ones winning: defaults, a preset, a TOML file, the settings stored in a picture, the command
line.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import objectives
from .dream.dreamer import Dreamer, features
from .errors import LayerError, OptionError
from .images import read_picture, read_settings
from .networks import registry
from .networks.model import Model, load_model
from .objectives import Objective

OBJECTIVES = ("l2", "mean", "channel", "neuron", "logit")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a dream looks like, in types that JSON and TOML know."""

    model: str = registry.DEFAULT
    layers: tuple[str, ...] = ()  # NAME or NAME:WEIGHT; empty: the model's recommended one
    objective: str = "l2"
    channels: tuple[int, ...] = ()
    guide: str = ""
    octaves: int = 4
    octave_scale: float = 1.4
    steps: int = 10
    step_size: float = 1.5
    jitter: int = 32
    smooth: float = 0.0
    half: bool = False
    seed: int = 0
    keep_colors: bool = False

    def updated(self, changes: Mapping[str, Any], source: str) -> Settings:
        """These settings with `changes` on top; `source` names where they come from in an error.

        Layers and channels of another network mean nothing, so a new model resets them. Raises OptionError for an
        unknown name or a value of the wrong kind.
        """
        if changes.get("model", self.model) != self.model:
            changes = {"layers": (), "channels": (), **changes}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in changes.items():
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(fields)}"
                raise OptionError(f"{source}: unknown setting {name!r}{hint}")
            fields[name] = _as_kind(name, getattr(Settings, name), value, f"{source}: {name}")
        return Settings(**fields)

    def stored(self) -> dict[str, Any]:
        """All settings in types that JSON knows, with the version, as a picture carries them."""
        from .version import __version__

        return {"version": __version__, **dataclasses.asdict(self)}


def _as_kind(name: str, example: Any, value: Any, where: str) -> Any:
    """`value` as the type of `example`, the setting's default; a list's items as the setting's own."""
    if isinstance(example, tuple):
        if name == "channels" and isinstance(value, str):
            return parse_channels(value)
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        return tuple(_as_kind("", _ITEMS[name], item, where) for item in items)
    if isinstance(value, bool) == isinstance(example, bool):
        if isinstance(example, float) and isinstance(value, (int, float)) and abs(value) < 1e30:
            return float(value)
        if isinstance(value, type(example)):
            return value
    raise OptionError(f"{where} is {value!r}, which is not {_KINDS[type(example)]}")


_KINDS = {bool: "true or false", float: "a number", int: "a whole number", str: "a text"}
_ITEMS: dict[str, Any] = {"layers": "", "channels": 0}

# Looked at, on photographs of sky, people, animals and houses.
PRESETS: dict[str, dict[str, Any]] = {
    "eyes": {"model": "squeezenet1_1", "layers": ["fire6"]},
    "waves": {"model": "squeezenet1_1", "layers": ["fire5"], "steps": 14},
    "jewels": {"model": "squeezenet1_1", "layers": ["fire4"], "steps": 12, "smooth": 0.5},
    "creatures": {"model": "squeezenet1_1", "layers": ["fire8"], "octaves": 5, "steps": 20},
    "ribbons": {"model": "efficientnet_lite0", "layers": ["block5"], "steps": 14},
    "scales": {"model": "efficientnet_lite0", "layers": ["block8"], "octaves": 5, "steps": 16, "step_size": 2.0},
    "menagerie": {"model": "efficientnet_lite0", "layers": ["block10"], "octaves": 5, "steps": 20, "step_size": 2.0},
}


def layered(
    given: Mapping[str, Any],
    *,
    preset: str | None = None,
    config: Path | None = None,
    like: Path | Mapping[str, Any] | None = None,
) -> Settings:
    """Defaults, then `preset`, then the TOML file `config`, then the picture `like` or what one stores, then `given`.

    Raises OptionError or PictureError, naming the source of what is wrong.
    """
    settings = Settings()
    if preset is not None:
        if preset not in PRESETS:
            near = difflib.get_close_matches(preset, PRESETS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"presets are {', '.join(PRESETS)}"
            raise OptionError(f"no preset called {preset!r}; {hint}")
        settings = settings.updated(PRESETS[preset], f"preset {preset}")
    if config is not None:
        settings = settings.updated(read_toml(config), str(config))
    if like is not None:
        stored = like if isinstance(like, Mapping) else read_settings(like)
        where = "the stored settings" if isinstance(like, Mapping) else str(like)
        settings = settings.updated({k: v for k, v in stored.items() if k != "version"}, where)
    return settings.updated(given, "option")


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises OptionError."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise OptionError(f"{path}: not a TOML file: {error}") from error


_MOST_CHANNELS = 1_000_000


def parse_channels(text: str) -> tuple[int, ...]:
    """'3,5-8' -> (3, 5, 6, 7, 8). Raises OptionError."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            raise OptionError(f"channels {text!r} are not numbers and ranges such as 3,5-8") from None
        if low > high:
            raise OptionError(f"channels {text!r}: the range {part.strip()} runs backwards")
        if high > _MOST_CHANNELS:
            raise OptionError(f"channels {text!r}: no network has {high} channels")
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def parse_layer(text: str, known: Container[str] = ()) -> tuple[str, float]:
    """'fire5:0.5' -> ('fire5', 0.5); a name in `known` that holds a colon itself is left alone. Raises OptionError."""
    name, colon, after = text.rpartition(":")
    if not colon or text in known:
        return text, 1.0
    try:
        weight = float(after)
    except ValueError:
        return text, 1.0
    if not abs(weight) < 1e30:
        raise OptionError(f"layer {text}: the weight {after} is not a finite number")
    return name, weight


def build_objective(settings: Settings, model: Model, device: str = "auto") -> Objective:
    """The objective the settings describe. Raises OptionError, LayerError, and PictureError for the guide."""
    if settings.objective not in OBJECTIVES:
        raise OptionError(f"unknown objective {settings.objective!r}; objectives are {', '.join(OBJECTIVES)}")
    if settings.objective in ("channel", "neuron", "logit") and not settings.channels:
        raise OptionError(f"objective {settings.objective} needs --channels")
    if settings.guide and (settings.objective != "l2" or settings.channels):
        raise OptionError("a guide is an objective of its own; leave --objective and --channels out")
    names: Sequence[str] = settings.layers
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
        else:
            part = objectives.l2(name) if settings.objective == "l2" else objectives.mean(name)
        total = weight * part if total is None else total + weight * part
    assert total is not None
    return total


def build_dreamer(settings: Settings, *, max_memory: int, device: str = "auto", threads: int = 0) -> Dreamer:
    """The Dreamer the settings describe. Raises what loading the model, the objective and the Dreamer raise."""
    model = load_model(settings.model)
    return Dreamer(
        model,
        build_objective(settings, model, device),
        octaves=settings.octaves,
        octave_scale=settings.octave_scale,
        steps=settings.steps,
        step_size=settings.step_size,
        jitter=settings.jitter,
        smooth=settings.smooth,
        half=settings.half,
        seed=settings.seed,
        max_memory=max_memory,
        device=device,
        threads=threads,
    )
