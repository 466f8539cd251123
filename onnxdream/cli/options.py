"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import OptionError
from ..settings import RunSettings, Settings, VideoSettings, explanation, layered
from . import terminal

_LOOK = "How it looks"
_RUN = "How it runs"


def _look(name: str, *flags: str, panel: str | None = _LOOK, **more: Any) -> Any:
    """The option of a setting, with its explanation and, where it is a number, its default."""
    default, text = getattr(Settings, name), explanation(Settings, name)
    if name == "half":
        text += " [single]"
    elif isinstance(default, (int, float)) and not isinstance(default, bool):
        text += f" [{default:g}]"
    return typer.Option(*flags, help=text, rich_help_panel=panel, **more)


def video_option(name: str, panel: str) -> Any:
    """The option of one of VideoSettings, with its explanation."""
    return typer.Option(help=explanation(VideoSettings, name), rich_help_panel=panel)


def _run(name: str, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, help=explanation(RunSettings, name), rich_help_panel=_RUN, **more)


ModelOption = Annotated[str | None, _look("model", "--model", "-m")]
ModelsOption = Annotated[list[str] | None, _look("model", "--model", "-m")]
LayerOption = Annotated[list[str] | None, _look("layers", "--layer", "-l", metavar="NAME[:WEIGHT]")]
InputsOption = Annotated[list[str] | None, _look("inputs", "--input", metavar="NAME=VALUE|FILE.npy")]
ObjectiveOption = Annotated[str | None, _look("objective")]
ChannelsOption = Annotated[str | None, _look("channels", metavar="3,5-8")]
GuideOption = Annotated[Path | None, _look("guide")]
OctavesOption = Annotated[int | None, _look("octaves")]
ScaleOption = Annotated[float | None, _look("octave_scale")]
StepsOption = Annotated[int | None, _look("steps")]
StepSizeOption = Annotated[float | None, _look("step_size")]
JitterOption = Annotated[int | None, _look("jitter")]
ExponentOption = Annotated[float | None, _look("exponent")]
BandsOption = Annotated[str | None, _look("bands", metavar="0.3,1,1,0.3")]
ColorsOption = Annotated[str | None, _look("colors")]
HeadroomOption = Annotated[float | None, _look("headroom")]
SmoothOption = Annotated[float | None, _look("smooth")]
HalfOption = Annotated[bool | None, _look("half", "--half/--single", panel=None)]
SeedOption = Annotated[int | None, _look("seed")]
KeepColorsOption = Annotated[bool | None, _look("keep_colors", "--keep-colors")]
PresetOption = Annotated[str | None, typer.Option("--preset", "-p", help="A named look, see `onnxdream models`.")]
ConfigOption = Annotated[Path | None, typer.Option(help="Settings from a TOML file.")]
LikeOption = Annotated[Path | None, typer.Option(help="Settings from a picture or video onnxdream wrote.")]
DeviceOption = Annotated[str, _run("device")]
BackendOption = Annotated[
    str, typer.Option(help="auto, onnxruntime or opencv: what runs the network.", rich_help_panel=_RUN)
]
ThreadsOption = Annotated[int, _run("threads", min=0)]
MemoryOption = Annotated[str, _run("max_memory", "--max-memory", metavar="4G")]
MAX_MEMORY = f"{RunSettings.max_memory >> 30}G"


def _go_offline(wanted: bool) -> bool:
    if wanted:
        os.environ["ONNXDREAM_OFFLINE"] = "1"
    return wanted


def _be_quiet(wanted: bool) -> bool:
    terminal.quiet = wanted
    if wanted:
        terminal.hide_notes()
    return wanted


OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Never download.", callback=_go_offline, rich_help_panel=_RUN)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.", rich_help_panel=_RUN)]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there already.", rich_help_panel=_RUN)
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no notes.", callback=_be_quiet, rich_help_panel=_RUN),
]


def parse_bytes(text: str) -> int:
    """'512M' or '4G' -> bytes. Raises OptionError."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(text[-1:].upper())
    try:
        return int(float(text[:-1]) * unit) if unit else int(text)
    except (ValueError, OverflowError):
        raise OptionError(f"memory {text!r} is not a size such as 512M or 4G") from None


def parse_size(text: str) -> tuple[int, int]:
    """'640x480' -> (480, 640). Raises OptionError."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise OptionError(f"size {text!r} is not of the form 640x480")
    return int(height), int(width)


# The options that decide the look, by parameter.
_LOOK_OPTIONS = {
    "preset": PresetOption, "like": LikeOption, "config": ConfigOption, "model": ModelsOption, "layer": LayerOption,
    "inputs": InputsOption,
    "objective": ObjectiveOption, "exponent": ExponentOption, "channels": ChannelsOption, "guide": GuideOption,
    "octaves": OctavesOption, "octave_scale": ScaleOption, "steps": StepsOption, "step_size": StepSizeOption,
    "jitter": JitterOption, "bands": BandsOption, "colors": ColorsOption, "headroom": HeadroomOption,
    "smooth": SmoothOption, "half": HalfOption, "seed": SeedOption, "keep_colors": KeepColorsOption,
}  # fmt: skip
# The options that decide how it runs, by parameter, with their defaults.
_RUN_OPTIONS: dict[str, tuple[Any, Any]] = {
    "device": (DeviceOption, RunSettings.device), "backend": (BackendOption, "auto"),
    "threads": (ThreadsOption, RunSettings.threads), "max_memory": (MemoryOption, MAX_MEMORY),
    "offline": (OfflineOption, False), "as_json": (JsonOption, False), "quiet": (QuietOption, False),
}  # fmt: skip
_BASES = ("preset", "config", "like")
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
_MOVES = ("method", "flow", "frame_steps", "strength", "scale", "size", "start", "end", "timeline")  # only in videos
Look = dict[str, Any]
_ORDER = "onnxdream.networks"  # where a context keeps in which order --model and --layer were given


class NetworkCommand(TyperCommand):
    """A command that knows which `--model` a `--layer` stands behind."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the order of these options, which their values do not tell."""
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        ctx.meta[_ORDER] = [option.name for option in order if option.name in ("model", "layer")]
        return super().parse_args(ctx, args)


def networks_from(context: typer.Context, models: list[str] | None, layers: list[str] | None) -> Look:
    """The settings model, layers and also (None: not given) that `--model` and `--layer` stand for.

    A layer belongs to the network before it. Before the first are those of the default network, or of the only network
    named where none follows it.
    """
    rest = {"model": iter(models or []), "layer": iter(layers or [])}
    first: list[str] = []  # the layers before any network
    networks: list[tuple[str, list[str]]] = []
    for option in context.meta[_ORDER]:
        value = next(rest[option])
        if option == "model":
            networks.append((value, []))
        else:
            (networks[-1][1] if networks else first).append(value)
    if len(networks) == 1 and not networks[0][1]:
        networks, first = [(networks[0][0], first)], []
    model = None
    if networks and not first:
        (model, first), *networks = networks
    also = [(name, *names) for name, names in networks]
    return {"model": model, "layers": first or None, "also": also or None}


@dataclass(frozen=True)
class Run:
    """How a command runs: where, on how many CPU threads, in how many bytes, and what it prints."""

    device: str
    backend: str
    threads: int
    max_memory: int
    as_json: bool
    quiet: bool


def with_options(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: in place of its parameters `look` and `run` the command has the options for these.

    It gets `look` as {name of the setting, or preset, config, like: value, None where not given}, without those of
    `left_out`, and `run` as a `Run`.
    """
    look_options: dict[str, tuple[Any, Any]] = {
        name: (option, None) for name, option in _LOOK_OPTIONS.items() if name not in left_out
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(context: typer.Context, **given: Any) -> None:
            look = {name: given.pop(name) for name in look_options}
            look |= networks_from(context, look.pop("model"), look.pop("layer"))
            look["inputs"] = look["inputs"] or None
            run = {name: given.pop(name) for name in _RUN_OPTIONS if name != "offline"}
            del given["offline"]
            command(look=look, run=Run(**run | {"max_memory": parse_bytes(run["max_memory"])}), **given)

        parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            options = {"look": look_options, "run": _RUN_OPTIONS}.get(parameter.name)
            if options is None:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            parameters += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
                for name, (option, default) in options.items()
            ]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate


def files_in(look: Look) -> list[Path]:
    """The files that the options name."""
    return [Path(look[name]) for name in ("guide", "config", "like") if look.get(name)]


def settings_from(look: Look) -> Settings:
    """Settings from the options that were given (None: not given), over preset, file and picture."""
    changes = {name: value for name, value in look.items() if value is not None and name not in _BASES}
    if "guide" in changes:
        changes["guide"] = str(changes["guide"])
    bases = {name: look.get(name) for name in _BASES}
    if like := look.get("like"):
        bases["like"] = _stored_look(like)
    return layered(changes, **bases)


def _stored_look(path: Path) -> Look:
    """What a dreamed picture or video stores about how it looks, without how it moves."""
    if path.suffix.lower() in _VIDEOS or path.is_dir():
        from ..video.io.open import read_video_settings as read
    else:
        from ..images import read_settings as read
    return {name: value for name, value in read(path).items() if name not in _MOVES}
