"""What is there already stays, unless it is onnxdream's own under its default name, or --overwrite is given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from helpers import small_networks as small
from helpers.command_line import onnxdream
from onnxdream.errors import OutputError
from onnxdream.output_files import check_apart, check_free, is_own

QUICK = ("--octaves", 1, "--steps", 1, "--device", "cpu", "-m", "net.onnx", "-l", "a", "-q")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture, a small network and a picture of somebody else's."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    Image.fromarray(pixels).save(tmp_path / "theirs.png")
    onnx.save(small.plain(), tmp_path / "net.onnx")
    return tmp_path


def run(folder: Path, *arguments: object) -> str:
    """The error of a command; empty if it succeeds."""
    done = onnxdream(*arguments, folder=folder)
    assert (done.returncode == 2) == done.stderr.startswith("error: "), done.stderr
    return done.stderr


COMMANDS = [
    ("image", "in.png", *QUICK),
    ("activations", "in.png", "-m", "net.onnx", "-l", "a", "-q"),
    ("visualize", "net.onnx", "-l", "a", "--channels", "0", "--steps", 1, "--size", 16, "-q"),
]


# A file made earlier is lost without a warning: NickeManarin/ScreenToGif#1310.
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_file_that_is_there_stays_without_overwrite(folder: Path, command: tuple[object, ...]) -> None:
    before = (folder / "theirs.png").read_bytes()
    told = run(folder, *command, "-o", "theirs.png")
    assert told == "error: theirs.png: exists already; choose another name or use --overwrite\n"
    assert (folder / "theirs.png").read_bytes() == before
    assert run(folder, *command, "-o", "theirs.png", "--overwrite") == ""
    assert is_own(folder / "theirs.png")
    assert "exists already" in run(folder, *command, "-o", "theirs.png")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_default_name_replaces_only_our_own(folder: Path, command: tuple[object, ...]) -> None:
    there = set(folder.iterdir())
    assert run(folder, *command) == ""
    assert run(folder, *command) == ""
    (made,) = set(folder.iterdir()) - there
    Image.new("RGB", (9, 9)).save(made)
    told = run(folder, *command)
    assert told.startswith(f"error: {made.name}: exists already, and onnxdream did not make it; choose another name")
    assert run(folder, *command, "--overwrite") == ""


def test_a_sequence_replaces_no_folder_of_photographs(folder: Path) -> None:
    sequence = ("image", "in.png", "--frames", 3, *QUICK)
    assert run(folder, *sequence) == run(folder, *sequence) == ""
    (folder / "in-dream" / "holiday.jpg").write_bytes(b"")
    assert "did not make it" in run(folder, *sequence)
    assert "exists already" in run(folder, *sequence, "-o", "in-dream")
    assert run(folder, *sequence[:3], 2, *QUICK, "-o", "in-dream", "--overwrite") == ""
    assert sorted(os.listdir(folder / "in-dream")) == ["00000.png", "00001.png", "holiday.jpg"]


def test_what_is_read_is_never_written(folder: Path) -> None:
    os.link(folder / "theirs.png", folder / "same.png")
    (folder / "link.png").symlink_to("theirs.png")
    for options in (
        ("image", "in.png", "--mask", "theirs.png", "-o", "same.png", *QUICK),
        ("image", "in.png", "--guide", "theirs.png", "-o", "link.png", *QUICK),
        ("image", "theirs.png", "-o", "same.png", *QUICK),
        ("activations", "theirs.png", "-m", "net.onnx", "-o", "same.png"),
        ("visualize", "net.onnx", "--start", "theirs.png", "-o", "link.png"),
    ):
        assert "which it is made from" in run(folder, *options, "--overwrite")
    assert run(folder, "export", "net.onnx", "-l", "a", "-o", "net.onnx", "--overwrite") == (
        "error: net.onnx: would overwrite net.onnx, which it is made from; choose another name\n"
    )
    assert not is_own(folder / "theirs.png")


def test_an_empty_folder_is_nothing_to_lose(tmp_path: Path) -> None:
    check_free(tmp_path, overwrite=False)
    check_apart(tmp_path / "new", [None, "", tmp_path / "other"])
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(OutputError, match="exists already"):
        check_free(tmp_path, overwrite=False)
