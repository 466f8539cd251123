"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OptionError
from . import terminal

if TYPE_CHECKING:
    from ..settings import Settings

_LOOK = "How it looks"
_RUN = "How it runs"

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="A network's name or an ONNX file.", rich_help_panel=_LOOK)
]
LayerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layer", "-l", metavar="NAME[:WEIGHT]", help="Layer to dream with; repeatable.", rich_help_panel=_LOOK
    ),
]
ObjectiveOption = Annotated[str | None, typer.Option(help="l2, mean, channel, neuron or logit.", rich_help_panel=_LOOK)]
ChannelsOption = Annotated[
    str | None, typer.Option(metavar="3,5-8", help="Only these channels of the layer.", rich_help_panel=_LOOK)
]
GuideOption = Annotated[
    Path | None, typer.Option(help="A picture whose features the dream should resemble.", rich_help_panel=_LOOK)
]
OctavesOption = Annotated[int | None, typer.Option(help="How many sizes to dream at. [4]", rich_help_panel=_LOOK)]
ScaleOption = Annotated[float | None, typer.Option(help="From one size to the next. [1.4]", rich_help_panel=_LOOK)]
StepsOption = Annotated[int | None, typer.Option(help="Ascent steps at each size. [10]", rich_help_panel=_LOOK)]
StepSizeOption = Annotated[
    float | None, typer.Option(help="Mean change of a pixel a step, of 255. [1.5]", rich_help_panel=_LOOK)
]
JitterOption = Annotated[int | None, typer.Option(help="Largest random shift, in pixels. [32]", rich_help_panel=_LOOK)]
SmoothOption = Annotated[
    float | None, typer.Option(help="Blur the gradient around this many pixels. [0]", rich_help_panel=_LOOK)
]
HalfOption = Annotated[
    bool | None, typer.Option("--half/--single", help="Half precision: faster on some GPUs. [single]")
]
SeedOption = Annotated[int | None, typer.Option(help="Same seed, same dream. [0]", rich_help_panel=_LOOK)]
KeepColorsOption = Annotated[
    bool | None, typer.Option("--keep-colors", help="Keep the picture's own colours.", rich_help_panel=_LOOK)
]
PresetOption = Annotated[str | None, typer.Option("--preset", "-p", help="A named look, see `onnxdream models`.")]
ConfigOption = Annotated[Path | None, typer.Option(help="Settings from a TOML file.")]
LikeOption = Annotated[Path | None, typer.Option(help="Settings from a picture or video onnxdream wrote.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, openvino, …", rich_help_panel=_RUN)]
BackendOption = Annotated[
    str, typer.Option(help="auto, onnxruntime or opencv: what runs the network.", rich_help_panel=_RUN)
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="CPU threads, 0 for all cores.", rich_help_panel=_RUN)]
MemoryOption = Annotated[
    str, typer.Option("--max-memory", metavar="4G", help="Tile pictures that need more.", rich_help_panel=_RUN)
]


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
    "preset": PresetOption, "like": LikeOption, "config": ConfigOption, "model": ModelOption, "layer": LayerOption,
    "objective": ObjectiveOption, "channels": ChannelsOption, "guide": GuideOption, "octaves": OctavesOption,
    "octave_scale": ScaleOption, "steps": StepsOption, "step_size": StepSizeOption, "jitter": JitterOption,
    "smooth": SmoothOption, "half": HalfOption, "seed": SeedOption, "keep_colors": KeepColorsOption,
}  # fmt: skip
_BASES = ("preset", "config", "like")
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
_MOVES = ("method", "flow", "frame_steps", "strength", "scale", "size", "start", "end", "timeline")  # only in videos
Look = dict[str, Any]


def with_look(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: in place of its parameter `look` the command has the options that decide the look, but for `left_out`.

    It gets them as {name of the setting, or preset, config, like: value, None where not given}.
    """
    names = [name for name in _LOOK_OPTIONS if name not in left_out]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            look = {name: given.pop(name) for name in names}
            look["layers"] = look.pop("layer") or None
            command(look=look, **given)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            options = {name: _LOOK_OPTIONS[name] for name in names} if parameter.name == "look" else {}
            parameters += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
                for name, option in options.items()
            ] or [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def has_base(look: Look) -> bool:
    """Whether a preset, a picture, or a file that names it decides how smooth the dream is."""
    from ..settings import read_toml

    return any(look.get(name) for name in ("preset", "like")) or (
        look.get("config") is not None and "smooth" in read_toml(look["config"])
    )


def settings_from(look: Look) -> Settings:
    """Settings from the options that were given (None: not given), over preset, file and picture."""
    from ..settings import layered, parse_channels

    changes = {name: value for name, value in look.items() if value is not None and name not in _BASES}
    if isinstance(changes.get("channels"), str):
        changes["channels"] = parse_channels(changes["channels"])
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
