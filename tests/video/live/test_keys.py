"""What keys do in a live session, and what the files that they make say about it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from helpers.command_line import onnxdream
from helpers.paths import DATA
from onnxdream.dream.build import build_dreamer, build_objective
from onnxdream.images import Picture, write_picture
from onnxdream.settings import RunSettings, Settings, layered
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.io.open import read_video_settings
from onnxdream.video.live.capture import LatestFrame, open_feed
from onnxdream.video.live.session import Live
from onnxdream.video.live.window import DisplayWindow


class Keys(DisplayWindow):
    """Somebody without a display, who presses one key after the other, each when the last has done what it does."""

    def __init__(self, *actions: str) -> None:
        self.actions, self.said, self.texts = [*actions, "quit"], list[str](), list[str]()
        self._wanted = 0

    def show(self, image: np.ndarray, text: list[str]) -> None:
        self.texts.append(text[0])

    def pressed(self) -> list[str]:
        if len(self.said) < self._wanted:
            return []
        action = self.actions.pop(0)
        self._wanted = len(self.said) + (2 if "layer" in action else 1)
        return [action]


def session(keys: Keys, folder: Path, layer: str, rate: Fraction | None = None, **look: Any) -> Live:
    """A live session over the clip, made as the command makes it, until all keys have been pressed."""
    settings = layered({"layers": [layer], "octaves": 1, "steps": 1, **look})
    video = VideoDreamer(build_dreamer(settings, max_memory=RunSettings.max_memory))
    feed = replace(open_feed(str(DATA / "clip.mp4"), longest=96, loop=True), rate=rate)
    with LatestFrame(feed) as latest:
        live = Live(video, latest, [], keys, folder=folder, settings=settings, note=keys.said.append)
        live.run()
    return live


def test_snapshots_and_recordings_say_what_was_dreamed(tmp_path: Path) -> None:
    """Channel 300 is there in fire6 and fire7, and not in fire5."""
    keys = Keys(
        "record", "snapshot", "next layer", "snapshot", "previous layer", "previous layer", "snapshot", "record",
        "next layer",
    )  # fmt: skip
    live = session(keys, tmp_path, "fire6", objective="channel", channels=(300,), seed=7)
    assert "layer fire5 by l2: layer fire5 has channels 0 to 255; there is no channel 300" in keys.said
    shown = list(dict.fromkeys(text.split(" fps")[0].rpartition(", ")[0] for text in keys.texts))
    assert shown == ["channel(fire6, 300)", "channel(fire7, 300)", "fire5"]
    assert repr(live.video.dreamer.objective) == "channel(fire6, 300)"  # which fits again
    *pictures, recording = map(Path, live.result.files)
    for picture, objective in zip(pictures, ("channel(fire6, 300)", "channel(fire7, 300)", "l2(fire5)"), strict=True):
        settings = layered({}, like=picture)
        assert settings.seed == 7
        assert repr(build_objective(settings, live.video.dreamer.model)) == objective
    stored = read_video_settings(recording)
    assert (stored["layers"], stored["objective"], stored["channels"]) == (["fire6"], "channel", [300])
    moments = [change.pop("time") for change in stored["at"]]
    assert stored["at"] == [
        {"layers": ["fire7"]},
        {"layers": ["fire6"]},
        {"layers": ["fire5"], "objective": "l2", "channels": []},
    ]
    assert 0 < moments[0] < moments[1] < moments[2]


def test_what_is_recorded_after_a_change_names_the_new_layer(tmp_path: Path) -> None:
    live = session(Keys("next layer", "record", "record"), tmp_path, "fire5:0.5")
    settings = read_video_settings(Path(live.result.files[0]))
    assert settings["layers"] == ["fire6"]
    assert "at" not in settings
    assert settings["source"] == str(DATA / "clip.mp4")


def test_several_layers_are_written_as_they_were_dreamed(tmp_path: Path) -> None:
    live = session(Keys("snapshot"), tmp_path, "fire5:0.5")
    assert layered({}, like=Path(live.result.files[0])).layers == ("fire5:0.5",)


def test_recordings_by_keys_have_the_rate_of_their_source(tmp_path: Path) -> None:
    assert session(Keys("record", "record"), tmp_path, "fire5", Fraction(50)).rate == 50
    live = session(Keys("record", "record"), tmp_path, "fire5")
    assert live.rate == max(1, round(live.result.fps))


def test_colors_are_kept_in_pictures_only(tmp_path: Path) -> None:
    """A file that asks for it is refused; of a picture that was made so the rest is taken."""
    (tmp_path / "keep.toml").write_text("keep_colors = true\n")
    picture = Picture(np.zeros((8, 8, 3), np.float32))
    write_picture(tmp_path / "kept.png", picture, Settings(keep_colors=True, octaves=1, steps=1).stored())
    common = ("live", DATA / "clip.mp4", "--headless", "-o", "out.mp4", "--frames", "1", "--size", "96")
    refused = onnxdream(*common, "--config", "keep.toml", folder=tmp_path)
    assert (refused.returncode, refused.stderr) == (
        2, "error: keep_colors is for pictures, not for video; omit it\n"
    )  # fmt: skip
    taken = onnxdream(*common, "--like", "kept.png", folder=tmp_path)
    assert (taken.returncode, taken.stderr.splitlines()[0]) == (
        0, "note: keep_colors is for pictures and is left out"
    )  # fmt: skip
    assert read_video_settings(tmp_path / "out.mp4")["keep_colors"] is False


def test_keys_make_no_strength_that_cannot_be(tmp_path: Path) -> None:
    for action, end in (("weaker", 1e-3), ("stronger", 1e3)):
        video = session(Keys(*[action] * 40), tmp_path, "fire2").video
        assert (video.getStrength(), video.getFrameStep()) == (end, end)
