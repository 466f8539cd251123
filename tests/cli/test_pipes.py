"""Every command line of docs/pipes.md, as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from helpers.paths import DATA, ROOT

LINES = re.findall(r"```sh\n#[^\n]*\n(.*?)\n```", (ROOT / "docs" / "pipes.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LINES)))
def test_the_line_works(number: int, tmp_path: Path) -> None:
    line = LINES[number]
    for tool in ("bash", "ffmpeg", "gst-launch-1.0"):
        if tool in line and not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if "y4mdec" in line and subprocess.run(["gst-inspect-1.0", "y4mdec"], capture_output=True).returncode:
        pytest.skip("GStreamer's bad plugins are not installed")
    shutil.copy(DATA / "clip.mp4", tmp_path / "in.mp4")
    shim = tmp_path / "bin" / "onnxdream"  # a little dream is a dream too
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m onnxdream.cli.app "$@" --octaves 1 --steps 1 --size 96\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (out,) = tmp_path.glob("out.*")
    with av.open(str(out)) as video:
        frames = [f.to_ndarray(format="bgr24") for f in video.decode(video=0)]
        sound = len(video.streams.audio)
    assert sound == ("1:a" in line)
    wanted = 25 if "videotestsrc" in line else 48
    assert len(frames) in ([wanted] if " video " in line else range(wanted - 12, wanted + 2))
    if " video " in line:
        assert frames[0].shape == (180, 320, 3)
    if "in.mp4" in line:
        first = cv2.VideoCapture(str(tmp_path / "in.mp4")).read()[1]
        same = cv2.resize(first, frames[0].shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(frames[0] - same.astype(float)).mean() > 1


def test_all_lines_are_found() -> None:
    assert len(LINES) == 5
