"""Settings: one place for their names, types, ranges, defaults and explanations, whoever gives the values."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import onnxdream
from onnxdream.cli import options
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import OptionError
from onnxdream.interpret.visualizer import RECIPES, Visualizer
from onnxdream.networks.model import Model
from onnxdream.settings import (
    PRESETS,
    Flow,
    RunSettings,
    Settings,
    VideoSettings,
    VisualizationSettings,
    defaults,
    explanation,
    layered,
)  # fmt: skip
from onnxdream.video import flow
from onnxdream.video.dreamer import VideoDreamer, create_video_dreamer

# What is wrong, and what must be said of it.
WRONG = {
    "octaves": {0: "it must be between 1 and 64", 65: "it must be between 1 and 64", 2.0: "is not a whole number"},
    "octave_scale": {1: "it must be above 1 and at most 8", 8.1: "it must be above 1 and at most 8"},
    "steps": {-1: "it must be between 0 and 100000", True: "is not a whole number", "ten": "is not a whole number"},
    "step_size": {float("inf"): "it must be between -255 and 255", float("nan"): "between -255 and 255"},
    "jitter": {100_001: "it must be between 0 and 100000"},
    "colors": {"red": "it must be natural, vivid, free, ink, or gains", "1,nan": "it must be natural, vivid"},
    "headroom": {300: "it must be between 0 and 255"},
    "smooth": {17: "it must be between 0 and 16", None: "is not a number"},
    "half": {1: "is not true or false"},
    "seed": {-1: "it must be at least 0", 10**30 + 0.5: "is not a whole number"},
}
CASES = [(name, value, says) for name, values in WRONG.items() for value, says in values.items()]


@pytest.mark.parametrize(("name", "value", "says"), CASES)
def test_every_source_is_held_to_the_same_ranges(
    squeezenet: Model, tmp_path: Path, name: str, value: Any, says: str
) -> None:
    with pytest.raises(OptionError, match=says) as made:
        Settings(**{name: value})
    text = str(made.value)
    assert text.startswith(f"{name} is {value!r}")
    assert "\n" not in text
    with pytest.raises(OptionError) as given:
        layered({name: value})
    with pytest.raises(OptionError) as dreamer:
        Dreamer(squeezenet, **{name: value})
    assert str(given.value) == str(dreamer.value) == text
    with pytest.raises(OptionError) as stored:
        layered({}, like={name: value})
    assert str(stored.value) == f"the stored settings: {text}"
    if value is not None:
        config = tmp_path / "a.toml"
        config.write_text(f"{name} = {json.dumps(value).replace('Infinity', 'inf').replace('NaN', 'nan')}")
        with pytest.raises(OptionError) as read:
            layered({}, config=config)
        assert str(read.value) == f"{config}: {text}"


def test_an_objective_that_there_is_not() -> None:
    with pytest.raises(
        OptionError,
        match=r"^unknown objective 'l3'; objectives are l2, root, centred, power, mean, channel, neuron, logit$",
    ):
        Settings(objective="l3")  # type: ignore[arg-type]


def test_names_that_there_are_not() -> None:
    with pytest.raises(OptionError, match=r"^unknown setting 'stesp'; did you mean steps\?$"):
        layered({"stesp": 3})
    with pytest.raises(OptionError, match=r"^preset x: unknown setting 'qwertz'; known are model, inputs, layers, "):
        Settings().updated({"qwertz": 3}, "preset x")


def test_how_it_runs() -> None:
    assert RunSettings() == RunSettings("auto", 0, 4 << 30)
    with pytest.raises(OptionError, match=r"^max_memory is 1024; it must be at least 64 MiB, such as 64M or 4G$"):
        RunSettings(max_memory=1024)
    with pytest.raises(OptionError, match=r"^threads is 2000; it must be between 0 and 1024$"):
        RunSettings.check(threads=2000)


def test_values_take_the_type_of_the_setting() -> None:
    settings = Settings(step_size=2, seed=np.int64(7), smooth=np.float32(0.5))  # type: ignore[arg-type]
    assert [type(value) for value in (settings.step_size, settings.seed, settings.smooth)] == [float, int, float]
    assert Settings().updated({"layers": "fire5", "channels": "3,5-7"}).channels == (3, 5, 6, 7)
    assert Settings().updated({"layers": "fire5", "channels": 3}).layers == ("fire5",)


def test_they_are_frozen_and_equal_by_value() -> None:
    settings = layered(PRESETS["waves"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 3  # type: ignore[misc]
    assert {settings: 1}[layered({}, preset="waves")] == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_stored_makes_the_same_settings(preset: str) -> None:
    settings = layered({"seed": 3}, preset=preset)
    stored = json.loads(json.dumps(settings.stored()))
    assert list(stored) == ["version", *defaults(Settings)]
    assert layered({}, like=stored) == settings


def test_a_dreamer_has_the_same_defaults() -> None:
    parameters = inspect.signature(Dreamer).parameters
    for name, default in {**defaults(Settings), **defaults(RunSettings)}.items():
        if name not in ("model", "inputs", "layers", "objective", "exponent", "channels", "guide", "keep_colors"):
            assert parameters[name].default == default


@pytest.mark.parametrize(
    ("made", "settings", "others"),
    [
        (VideoDreamer, VideoSettings, set()),
        (create_video_dreamer, VideoSettings, {"flow", "blend"}),  # its flow depends on the target rate
        (Visualizer, VisualizationSettings, {"size"}),  # a pair of them
        (onnxdream.visualize, VisualizationSettings, set()),
    ],
)
def test_so_have_what_makes_videos_and_visualisations(made: Any, settings: type[Any], others: set[str]) -> None:
    parameters = inspect.signature(made).parameters
    assert {name: parameters[name].default for name in set(defaults(settings)) - others} == {
        name: default for name, default in defaults(settings).items() if name not in others
    }


def test_names_that_settings_allow_are_those_that_there_are() -> None:
    assert set(get_args(Flow)) == set(flow.METHODS)
    assert all(callable(flow.estimator(name)) for name in flow.METHODS)
    assert set(get_args(get_type_hints(VisualizationSettings)["recipe"])) == set(RECIPES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "blur"}, "unknown method 'blur'; methods are flow, warp, blend, independent"),
        ({"flow": "raft"}, "unknown flow 'raft'; flows are dis-ultrafast, dis-fast, dis-medium, farneback, none"),
        ({"strength": -1}, "strength is -1; it must be at least 0"),
        ({"strength": float("inf")}, "strength is inf; it must be at least 0"),
        ({"frame_steps": 1.5}, "frame_steps is 1.5, which is not a whole number"),
        ({"blend": 1.2}, "blend is 1.2; it must be between 0 and 1"),
    ],
)
def test_a_video_dreamer_is_held_to_its_ranges(squeezenet: Model, options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError) as raised:
        VideoDreamer(Dreamer(squeezenet), **options)
    assert str(raised.value) == says


def test_the_command_line_has_every_setting_with_its_type() -> None:
    names = {"layer" if name == "layers" else name for name in defaults(Settings)} - {"also"}  # which --model names
    assert names == set(options._LOOK_OPTIONS) - {"preset", "like", "config"}
    for name in names:
        setting = "layers" if name == "layer" else name
        kind, option = get_args(options._LOOK_OPTIONS[name])
        assert option.help.startswith(explanation(Settings, setting))
        hint = get_type_hints(Settings)[setting]
        if hint in (int, float, bool):
            assert kind == hint | None
            shown = "single" if hint is bool else f"{defaults(Settings)[setting]:g}"
            assert option.help.endswith(f" [{shown}]") or name == "keep_colors"


def test_pictures_made_before_gradients_were_shaped_dream_as_they_did() -> None:
    old = {"version": "0.1.0", "model": "squeezenet1_1", "layers": [], "steps": 7}
    settings = layered({}, like=old)
    assert (settings.bands, settings.colors, settings.headroom) == ((), "free", 0.0)
    assert (settings.layers, settings.steps) == (("fire6",), 7)
    assert layered({}, like={**old, "layers": ["fire5:2"]}).layers == ("fire5:2",)
    assert layered({}, like={**old, "model": "efficientnet_lite0"}).layers == ()  # whose default is what it was
    assert layered({}, like=Settings(colors="ink").stored()) == Settings(colors="ink")
