"""Settings: what they are called, their types, ranges, defaults and explanations; and where their values come from.

The command line, the Python API, presets, TOML files, timelines and the settings that results carry all go by these
classes. Values are layered, later ones winning: defaults, a preset, a TOML file, the settings stored in a result, the
command line.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

from annotated_types import Ge, Interval, Predicate, doc

from .errors import OptionError
from .networks import registry

if TYPE_CHECKING:
    from pydantic import BaseModel

_MIB = 1 << 20
COLORS = ("natural", "vivid", "free", "ink")


def opponent_gains(colors: str) -> tuple[float, float] | None:
    """'0.6,0.3' -> (0.6, 0.3), the gains of red-blue and green-magenta; None where it is no two numbers in 0..4."""
    try:
        red_blue, green_magenta = (float(part) for part in colors.split(","))
    except ValueError:
        return None
    return (red_blue, green_magenta) if 0 <= red_blue <= 4 and 0 <= green_magenta <= 4 else None


def _are_colors(colors: str) -> bool:
    return colors in COLORS or opponent_gains(colors) is not None


def _are_networks(also: tuple[tuple[str, ...], ...]) -> bool:
    return all(network and all(network) for network in also)


def _are_bands(bands: tuple[float, ...]) -> bool:
    return not bands or (len(bands) <= 12 and all(0 <= gain <= 100 for gain in bands) and any(bands))


class _Checked:
    """Settings whose values are checked when they are made."""

    def __post_init__(self) -> None:
        for name, value in self.check(**vars(self)).items():
            object.__setattr__(self, name, value)

    @classmethod
    def check(cls, **values: Any) -> dict[str, Any]:
        """Some settings by name, each as its type has it. Raises OptionError for a wrong name, type or value."""
        import pydantic

        for name in values:
            if name not in defaults(cls):
                raise OptionError(f"unknown setting {name!r}{_hint(name, defaults(cls))}")
        plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}  # NumPy's
        try:
            checked = _model(cls).model_validate(plain)  # type: ignore[arg-type]  # classes can be hashed
        except pydantic.ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            name = str(wrong["loc"][0])
            raise OptionError(_complaint(name, _hints(cls)[name], wrong["type"], wrong["input"])) from error
        return {name: getattr(checked, name) for name in values}


@dataclass(frozen=True)
class Settings(_Checked):
    """Everything that decides what a dream looks like, in types that JSON and TOML know."""

    model: Annotated[str, doc("A network's name or an ONNX file; repeatable.")] = registry.DEFAULT
    inputs: Annotated[tuple[str, ...], doc("A constant for another input; repeatable.")] = ()
    layers: Annotated[tuple[str, ...], doc("Layer to dream with; repeatable.")] = ()  # none: the recommended one
    also: Annotated[
        tuple[tuple[str, ...], ...], Predicate(_are_networks), doc("Further networks, each with its layers.")
    ] = ()
    objective: Annotated[
        Literal["l2", "root", "centred", "power", "mean", "channel", "neuron", "logit"],
        doc("l2, root, centred, power, mean, channel, neuron or logit."),
    ] = "l2"
    exponent: Annotated[float, Interval(ge=1, le=8), doc("That of the objective power.")] = 4.0
    channels: Annotated[tuple[int, ...], doc("Only these channels of the layer.")] = ()
    guide: Annotated[str, doc("A picture whose features the dream should resemble.")] = ""
    octaves: Annotated[int, Interval(ge=1, le=64), doc("How many sizes to dream at.")] = 4
    octave_scale: Annotated[float, Interval(gt=1, le=8), doc("From one size to the next.")] = 1.4
    steps: Annotated[int, Interval(ge=0, le=100_000), doc("Ascent steps at each size.")] = 10
    step_size: Annotated[float, Interval(ge=-255, le=255), doc("Mean change of a pixel a step, of 255.")] = 1.5
    jitter: Annotated[int, Interval(ge=0, le=100_000), doc("Largest random shift, in pixels.")] = 32
    bands: Annotated[tuple[float, ...], Predicate(_are_bands), doc("Gains of the bands, fine to coarse, or none.")] = (
        0.3, 1.0, 1.0, 0.3,
    )  # fmt: skip
    colors: Annotated[str, Predicate(_are_colors), doc("natural, vivid, free, ink, or two gains.")] = "natural"
    headroom: Annotated[float, Interval(ge=0, le=255), doc("Softer steps this near to black and white.")] = 20.0
    smooth: Annotated[float, Interval(ge=0, le=16), doc("Blur the gradient around this many pixels.")] = 0.0
    half: Annotated[bool, doc("Half precision: faster on some GPUs.")] = False
    seed: Annotated[int, Ge(0), doc("Same seed, same dream.")] = 0
    keep_colors: Annotated[bool, doc("Keep the picture's own colours.")] = False

    def updated(self, changes: Mapping[str, Any], source: str = "") -> Settings:
        """These settings with `changes` on top; `source` names where they come from in an error.

        Layers and channels of another network mean nothing, so a new model resets them; where a model is named, further
        networks are those named with it. Raises OptionError for an unknown name, or a value of the wrong kind or out of
        range.
        """
        changes = {name: _listed(name, value) for name, value in changes.items()}
        if "model" in changes:
            changes = {"also": (), **changes}
        if changes.get("model", self.model) != self.model:
            changes = {"layers": (), "channels": (), "inputs": (), **changes}
        try:
            return dataclasses.replace(self, **self.check(**changes))
        except OptionError as error:
            raise OptionError(f"{source}: {error}" if source else str(error)) from error

    @property
    def networks(self) -> list[str]:
        """The names or files of all networks."""
        return [self.model, *(name for name, *_ in self.also)]

    def stored(self) -> dict[str, Any]:
        """All settings in types that JSON knows, with the version, as a picture carries them."""
        from .version import __version__

        return {"version": __version__, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class RunSettings(_Checked):
    """What decides how fast a dream is and how much it takes, but not what it looks like."""

    device: Annotated[str, doc("auto, cpu, cuda, openvino, …")] = "auto"
    threads: Annotated[int, Interval(ge=0, le=1024), doc("CPU threads, 0 for all cores.")] = 0
    max_memory: Annotated[int, Ge(64 * _MIB), doc("Tile pictures that need more.")] = 4096 * _MIB


Method = Literal["flow", "warp", "blend", "independent"]
Flow = Literal["dis-ultrafast", "dis-fast", "dis-medium", "farneback", "none"]


@dataclass(frozen=True)
class VideoSettings(_Checked):
    """What decides how a dream moves with a video; see `video.dreamer.VideoDreamer`."""

    method: Annotated[Method, doc("flow, warp, blend or independent.")] = "flow"
    flow: Annotated[Flow, doc("dis-ultrafast, dis-fast, dis-medium, farneback or none.")] = "dis-medium"
    frame_steps: Annotated[int, Interval(ge=0, le=100_000), doc("Steps for frames within a scene.")] = 2
    frame_step: Annotated[float, Ge(0), doc("Their size, as a share of the step size.")] = 0.75
    strength: Annotated[float, Ge(0), doc("How far a dream may build up.")] = 2.0
    blend: Annotated[float, Interval(ge=0, le=1), doc("Share of the previous dream, for warp and blend.")] = 0.5
    target_fps: Annotated[float, Ge(0), doc("Frames per second to keep, 0 for no target.")] = 0.0


@dataclass(frozen=True)
class VisualizationSettings(_Checked):
    """How pictures are made of what a network looks for; see `interpret.visualizer.Visualizer`."""

    recipe: Annotated[Literal["fourier", "maco", "pixel"], doc("fourier, maco or pixel.")] = "fourier"
    size: Annotated[int, Interval(ge=16, le=4096), doc("Pixels a side of each picture.")] = 128
    steps: Annotated[int, Interval(ge=1, le=100_000), doc("Ascent steps.")] = 256
    seed: Annotated[int, Ge(0), doc("Same seed, same pictures.")] = 0


def explanation(settings: type[Any], name: str) -> str:
    """What a setting does, in a few words."""
    return str(next(m.documentation for m in _hints(settings)[name].__metadata__ if hasattr(m, "documentation")))


def defaults(settings: type[Any]) -> dict[str, Any]:
    """The default of each setting by name."""
    return {field.name: field.default for field in dataclasses.fields(settings)}


def _listed(name: str, value: Any) -> Any:
    """Layers and channels as a tuple, also where there is only one."""
    if name == "channels" and isinstance(value, str):
        return parse_channels(value)
    if name == "bands" and isinstance(value, str):
        return parse_bands(value)
    if name == "also" and isinstance(value, (list, tuple)):
        return tuple(tuple(network) if isinstance(network, (list, tuple)) else (network,) for network in value)
    if name in ("layers", "channels", "bands", "inputs"):
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return value


def _hints(settings: type[Any]) -> dict[str, Any]:
    return get_type_hints(settings, include_extras=True)


@functools.cache
def _model(settings: Any) -> type[BaseModel]:
    """The settings as pydantic has them, which takes long to import."""
    import pydantic

    fields: dict[str, Any] = {name: (_hints(settings)[name], value) for name, value in defaults(settings).items()}
    config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
    return pydantic.create_model(settings.__name__, __config__=config, **fields)


_WANTED = {
    "also": "a list of networks, each a list of its name and its layers, such as [['googlenet', 'inception_4c']]",
    "bands": "up to 12 gains from 0 to 100, fine to coarse, such as 0.3,1,1,0.3, or none",
    "colors": "natural, vivid, free, ink, or gains of red-blue and green-magenta from 0 to 4, such as 0.6,0.3",
}
_KINDS = {"bool_type": "true or false", "float_type": "a number", "int_type": "a whole number", "string_type": "a text"}


def _complaint(name: str, hint: Any, kind: str, value: Any) -> str:
    """One line on a value that is not what the type `hint` allows; `kind` is pydantic's word for what is wrong."""
    if kind in _KINDS:
        return f"{name} is {value!r}, which is not {_KINDS[kind]}"
    if kind == "literal_error":
        return f"unknown {name} {value!r}; {name}s are {', '.join(get_args(get_args(hint)[0]))}"
    wanted = _WANTED[name] if name in _WANTED else _range(hint.__metadata__[0])
    return f"{name} is {value!r}; it must be {wanted}"


def _range(bounds: Interval | Ge) -> str:
    low, above, high = bounds.ge, getattr(bounds, "gt", None), getattr(bounds, "le", None)
    if above is not None:
        return f"above {above} and at most {high}"
    if high is not None:
        return f"between {low} and {high}"
    if low == 64 * _MIB:
        return "at least 64 MiB, such as 64M or 4G"
    return f"at least {low}"


def _hint(name: str, known: Iterable[str], them: str = "known") -> str:
    """What was meant, or else what there is."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; {them} are {', '.join(known)}"


_SQUEEZENET, _GOOGLENET = {"model": "squeezenet1_1"}, {"model": "googlenet"}
_EFFICIENTNET, _EFFICIENTNET2 = {"model": "efficientnet_lite0"}, {"model": "efficientnet_lite2"}
PLAIN = {"bands": [], "colors": "free", "headroom": 0.0}  # the step without any shaping
PRESETS: dict[str, dict[str, Any]] = {
    # Looked at, on photographs of sky, people, animals, food and houses.
    "creatures": _SQUEEZENET | {"layers": ["fire8"], "octaves": 5, "steps": 12},
    "crowd": _SQUEEZENET | {"layers": ["fire8"], "objective": "root", "octaves": 5, "steps": 12, "colors": "vivid"},
    "fresco": _SQUEEZENET | {"layers": ["fire8"], "objective": "root", "octaves": 6, "octave_scale": 1.26},
    "eyes": _SQUEEZENET | {"layers": ["fire6"], "bands": [0.3, 1.0, 1.0, 0.1], "colors": "0.6,0.3"},
    "waves": _SQUEEZENET | {"layers": ["fire5"], "steps": 12, "colors": "vivid", "headroom": 32.0},
    "ink": _SQUEEZENET | {"layers": ["fire8"], "octaves": 5, "steps": 12, "colors": "ink"},
    "jewels": _SQUEEZENET | {"layers": ["fire4"], "steps": 12, "smooth": 0.5, **PLAIN},
    "ribbons": _EFFICIENTNET | {"layers": ["block5"], "steps": 12, "colors": "vivid"},
    "scales": _EFFICIENTNET | {"layers": ["block8"], "octaves": 5, "steps": 12, "step_size": 2.0, "colors": "vivid"},
    "menagerie": _EFFICIENTNET
    | {"layers": ["block10"], "objective": "centred", "octaves": 5, "steps": 16, "step_size": 2.0, "colors": "vivid"},
    "seals": _EFFICIENTNET | {"layers": ["block10"], "objective": "power", "octaves": 5, "steps": 16, "step_size": 2.0},
    "palms": _EFFICIENTNET2 | {"layers": ["block5"], "octaves": 5, "steps": 12, "colors": "vivid"},
    "cathedral": _EFFICIENTNET2
    | {
        "layers": ["block16"],
        "objective": "root",
        "octaves": 8,
        "octave_scale": 1.3,
        "step_size": 2.0,
        "colors": "vivid",
    },
    "bestiary": _EFFICIENTNET2
    | {"layers": ["block16"], "objective": "centred", "octaves": 5, "steps": 14, "step_size": 2.0},
    "pack": _SQUEEZENET | {"layers": ["fire8"], "also": [["efficientnet_lite2", "block13"]], "octaves": 5, "steps": 12},
    # Not looked at: networks that are downloaded on demand, at the layers that others chose for their dreams.
    "inception": _GOOGLENET | {"layers": ["inception_4c/output_1"], "steps": 20},
    "inception-animals": _GOOGLENET | {"layers": ["inception_4e/output_1"], "octaves": 5, "steps": 20},
    "inception-patterns": _GOOGLENET | {"layers": ["inception_3b/output_1"], "steps": 14, "colors": "vivid"},
    "vgg": {"model": "vgg16", "layers": ["vgg0_relu9_fwd"], "steps": 14},
    "resnet": {"model": "resnet50", "layers": ["resnetv17_stage3_activation3"], "steps": 14},
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
            raise OptionError(f"no preset called {preset!r}{_hint(preset, PRESETS, 'presets')}")
        settings = settings.updated(PRESETS[preset], f"preset {preset}")
    if config is not None:
        settings = settings.updated(read_toml(config), str(config))
    if like is not None:
        settings = settings.updated(*_stored_settings(like))
    return settings.updated(given)


# What networks dreamed with where no layer was named, before their cards recommended another or any.
_EARLIER_LAYERS = {
    "squeezenet1_1": "fire6",
    "googlenet": "inception_4d/pool_proj_2",
    "vgg16": "vgg0_relu8_fwd",
    "resnet50": "resnetv17_stage3_batchnorm11_fwd",
}


def _stored_settings(like: Path | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings that a picture stores, and what to call them. Raises PictureError."""
    from .images import read_settings

    stored = like if isinstance(like, Mapping) else read_settings(like)
    where = "the stored settings" if isinstance(like, Mapping) else str(like)
    settings = {name: value for name, value in stored.items() if name != "version"}
    if "version" in stored and "bands" not in stored:  # written before gradients were shaped
        layer = _EARLIER_LAYERS.get(settings.get("model", registry.DEFAULT))
        settings |= PLAIN | ({"layers": (layer,)} if layer and not settings.get("layers") else {})
    return settings, where


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises OptionError."""
    import tomllib

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


def parse_bands(text: str) -> tuple[float, ...]:
    """'0.3,1,1,0.3' -> (0.3, 1.0, 1.0, 0.3), 'none' -> (). Raises OptionError."""
    if text == "none":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"bands is {text!r}; it must be {_WANTED['bands']}") from None


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
