"""Notes for people: on stderr, once each, unless --quiet; in Python for those who ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.command_line import onnxdream, run_python
from helpers.paths import DATA

SMALL = ["--size", 60, "--octaves", 6, "--steps", 1, "-l", "fire6"]


def test_the_command_line_prints_each_note_once(tmp_path: Path) -> None:
    done = onnxdream("image", DATA / "rocket.jpg", "-o", "a.gif", "--frames", 2, *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    note, _comment, result = done.stderr.splitlines()
    assert note == "note: 5 of 6 octaves left out: fire6 needs 31x31"
    assert result.startswith("a.gif ")


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_notes_keep_off_stdout(tmp_path: Path, option: str) -> None:
    done = onnxdream("image", DATA / "rocket.jpg", "-o", "a.png", option, *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note:" not in done.stdout
    assert ("note: 5 of 6 octaves left out" in done.stderr) == (option == "--json")


def test_in_python_notes_are_shown_to_those_who_ask_for_them() -> None:
    code = (
        "import logging, sys, numpy as np, onnxdream\n"
        "if sys.argv[1] == 'ask':\n"
        "    logging.basicConfig(stream=sys.stdout, format='%(levelname)s %(name)s %(message)s')\n"
        "model = onnxdream.load_model('squeezenet1_1')\n"
        "dreamer = onnxdream.Dreamer(model, onnxdream.objectives.l2('fire6'), octaves=6, steps=1)\n"
        "for _ in range(2):\n"
        "    dreamer.dream(np.full((60, 60, 3), 99, np.uint8))\n"
    )
    assert run_python(code, "no") == b""
    told = run_python(code, "ask").decode()
    assert told == "WARNING onnxdream.dream.dreamer 3 of 6 octaves left out: fire6 needs 31x31\n"
