"""`onnxdream looks`: sheets of one photograph under many looks."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from helpers.command_line import onnxdream
from helpers.paths import DATA
from onnxdream.images import read_settings
from onnxdream.networks.card import Card
from onnxdream.networks.registry import bundled, networks
from onnxdream.settings import PRESETS

ROCKET = DATA / "rocket.jpg"


def sheet(folder: Path, *arguments: object) -> list[dict[str, object]]:
    done = onnxdream("looks", ROCKET, *arguments, "--json", "--quiet", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)["looks"]
    assert read_settings(folder / json.loads(done.stdout)["output"])["looks"] == [look["command"] for look in found]
    return found


def test_every_recommended_layer_of_a_network(tmp_path: Path) -> None:
    found = sheet(tmp_path, "-m", "squeezenet1_1", "--size", 64, "--columns", 3)
    layers = Card.read(networks()["squeezenet1_1"]).recommended
    assert [look["command"] for look in found] == [
        f"onnxdream image rocket.jpg -m squeezenet1_1 -l {layer}" for layer in layers
    ]
    picture = iio.imread(tmp_path / "rocket-looks.jpg")
    assert picture.shape[1] == 4 + 3 * 68
    tiles = [picture[top : top + 40, left : left + 64] for top in (4, 67) for left in (4, 72, 140)]
    assert all(np.abs(tile.astype(float) - tiles[0]).mean() > 3 for tile in tiles[1:])  # the first is the photograph


@pytest.mark.slow
def test_every_preset_by_the_command_that_makes_it(tmp_path: Path) -> None:
    found = sheet(tmp_path, "--size", 96)
    here = [name for name, preset in PRESETS.items() if preset["model"] in bundled()]
    assert [look["command"] for look in found] == [
        "onnxdream image rocket.jpg",
        *(f"onnxdream image rocket.jpg -p {name}" for name in here),
    ]
    for look in found[1:4]:
        options = shlex.split(str(look["command"]))[3:]
        done = onnxdream(
            "image", ROCKET, *options, "--size", 96, "-o", "one.png", "--overwrite", "--quiet", folder=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert read_settings(tmp_path / "one.png") == look["settings"]


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    done = onnxdream("looks", tmp_path / "none.jpg", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'none.jpg'}: ")
