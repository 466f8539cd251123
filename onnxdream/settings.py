"""The settings of a dream: defaults, presets, files, and what a picture carries.

They are layered, later ones winning: defaults, a preset, a TOML file, the settings stored in a picture, the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import catalog, objectives
from .dream import Dreamer, features
from .errors import LayerError, OptionError
from .images import read_picture, read_settings
from .model import Model, load_model
from .objectives import Objective

OBJECTIVES = ("l2", "mean", "channel", "neuron", "logit")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a dream looks like, in types that JSON and TOML know."""

    model: str = catalog.DEFAULT
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
    seed: int = 0
    keep_colors: bool = False

    def updated(self, changes: Mapping[str, Any], source: str) -> Settings:
        """These settings with `changes` on top; `source` names where they come from in an error.

        Raises OptionError for an unknown name or a value of the wrong kind.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in changes.items():
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(fields)}"
                raise OptionError(f"{source}: unknown setting {name!r}{hint}")
            fields[name] = _as_kind(fields[name], value, f"{source}: {name}")
        return Settings(**fields)

    def stored(self) -> dict[str, Any]:
        """The settings that are not defaults, with the version, as a picture carries them."""
        from . import __version__

        default = Settings()
        changed = {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(default, k)}
        return {"version": __version__, **changed, "model": self.model, "layers": list(self.layers)}


def _as_kind(example: Any, value: Any, where: str) -> Any:
    """`value` as the type of `example`."""
    if isinstance(example, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(example, tuple):
        if isinstance(value, (list, tuple)):
            return tuple(value)
        if isinstance(value, (str, int)):
            return (value,)
    elif isinstance(example, float):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, type(example)) and not isinstance(value, bool):
        return value
    raise OptionError(f"{where} is {value!r}, which is not {_KINDS[type(example)]}")


_KINDS = {bool: "true or false", tuple: "a list", float: "a number", int: "a whole number", str: "a text"}

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
    given: Mapping[str, Any], *, preset: str | None = None, config: Path | None = None, like: Path | None = None
) -> Settings:
    """Defaults, then `preset`, then the TOML file `config`, then the picture `like`, then `given`.

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
        settings = settings.updated(_read_toml(config), str(config))
    if like is not None:
        stored = {k: v for k, v in read_settings(like).items() if k != "version"}
        settings = settings.updated(stored, str(like))
    if "model" in given and "layers" not in given and given["model"] != settings.model:
        given = {**given, "layers": ()}  # the layers of another network mean nothing here
    return settings.updated(given, "option")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise OptionError(f"{path}: not a TOML file: {error}") from error


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
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def parse_layer(text: str) -> tuple[str, float]:
    """'fire5:0.5' -> ('fire5', 0.5); a name that holds a colon itself is left alone."""
    name, colon, weight = text.rpartition(":")
    try:
        return (name, float(weight)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0


def build_objective(settings: Settings, model: Model, device: str = "auto") -> Objective:
    """The objective the settings describe. Raises OptionError, LayerError, and PictureError for the guide."""
    if settings.objective not in OBJECTIVES:
        raise OptionError(f"unknown objective {settings.objective!r}; objectives are {', '.join(OBJECTIVES)}")
    if settings.objective in ("channel", "neuron", "logit") and not settings.channels:
        raise OptionError(f"objective {settings.objective} needs --channels")
    if settings.guide and settings.objective != "l2":
        raise OptionError(f"a guide is an objective of its own and does not go with objective {settings.objective}")
    names: Sequence[str] = settings.layers or (model.default_layer(),)
    total: Objective | None = None
    for text in names:
        name, weight = parse_layer(text)
        layer = model.layer(name)
        if settings.guide:
            if not layer.spatial:
                raise LayerError(f"layer {name} has no places to guide; choose a layer before the network's pooling")
            picture = read_picture(Path(settings.guide)).rgb
            part = objectives.guide(name, features(model, name, picture, device=device))
        elif settings.objective == "channel" or (settings.objective == "l2" and settings.channels):
            part = objectives.channel(name, *settings.channels)
        elif settings.objective in ("neuron", "logit"):
            parts = [objectives.neuron(name, c) for c in settings.channels]
            part = sum(parts[1:], parts[0])
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
        seed=settings.seed,
        max_memory=max_memory,
        device=device,
        threads=threads,
    )
