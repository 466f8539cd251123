"""Whole jobs in pipes, between real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import command, onnxdream
from helpers.films import psnr, write_video
from helpers.jobs import LOOK, clip_pictures, names, shown
from helpers.paths import CLIP

FFMPEG = Path("/usr/bin/ffmpeg")


def through(*commands: list[str], folder: Path) -> bytes:
    """What comes out of a shell-like pipeline, every part of which must succeed."""
    running: list[subprocess.Popen[bytes]] = []
    for each in commands:
        given = running[-1].stdout if running else subprocess.DEVNULL
        running.append(subprocess.Popen(each, cwd=folder, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        if len(running) > 1:
            running[-2].stdout.close()  # type: ignore[union-attr]
    out, _ = running[-1].communicate(timeout=120)
    for process in running:
        assert process.wait(timeout=60) == 0, process.stderr and process.stderr.read().decode()
        if process.stderr is not None:
            process.stderr.close()
    return out


@pytest.mark.skipif(not FFMPEG.exists(), reason="needs ffmpeg")
def test_between_two_real_ffmpegs(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(12), options={"bf": "2"})
    quiet = [str(FFMPEG), "-nostdin", "-v", "error"]
    y4m = [*quiet, "-i", str(source), "-f", "yuv4mpegpipe", "-"]
    raw = [*quiet, "-i", str(source), "-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
    write = [*quiet[:1], *quiet[2:], "-f", "yuv4mpegpipe", "-i", "-", "-c:v", "ffv1", "c.mkv"]
    through(y4m, command("video", "-", "-o", "-", *LOOK), write, folder=tmp_path)
    through(
        raw,
        command("video", "-", "--raw-size", "96x54", "--rate", "25", "-o", "d.mkv", "--codec", "ffv1", *LOOK),
        folder=tmp_path,
    )
    bare = through(y4m, command("video", "-", "-o", "-", "--codec", "rawvideo", *LOOK), folder=tmp_path)
    assert onnxdream("video", source, "-o", "b.mkv", "--codec", "ffv1", *LOOK, folder=tmp_path).returncode == 0
    direct = shown(tmp_path / "b.mkv")
    for name in ("c.mkv", "d.mkv"):
        piped = shown(tmp_path / name)
        assert [t for t, _, _ in piped] == [t for t, _, _ in direct]
        for (_, ours, _), (_, theirs, _) in zip(piped, direct, strict=True):
            assert psnr(ours, theirs) > (38 if name == "c.mkv" else 25)  # ffmpeg makes RGB of its own
    frames = np.frombuffer(bare, np.uint8).reshape(12, 54, 96, 3)[..., ::-1]  # rawvideo is BGR
    for ours, (_, theirs, _) in zip(frames, direct, strict=True):
        assert psnr(ours, theirs) > 36  # y4m places chroma elsewhere
    assert names(tmp_path) == ["a.mp4", "b.mkv", "c.mkv", "d.mkv"]


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        command("video", CLIP, "-o", "-", *LOOK), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.read(9) == b"YUV4MPEG2"
    writer.stdout.close()
    stderr = writer.stderr.read().decode() if writer.stderr else ""
    assert writer.wait(timeout=60) == 1
    assert stderr.count("\n") <= 1, stderr
    assert "Traceback" not in stderr


def test_a_pipe_leaves_nothing_behind_however_it_ends(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        command("video", CLIP, "-o", "-", *LOOK),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert writer.stdout is not None
    assert writer.stdout.read(9) == b"YUV4MPEG2"
    writer.terminate()
    writer.communicate()
    assert writer.returncode == -signal.SIGTERM
    assert list(tmp_path.glob("onnxdream-*")) == []


def test_only_an_interrupt_is_said_to_be_one(tmp_path: Path) -> None:
    """Typer makes the end of an input, which is a fault of ours, look like Ctrl-C."""
    script = "from onnxdream.cli.app import app, main\n"
    script += "@app.command()\ndef fail():\n    raise EOFError('no data left')\nmain()"
    done = subprocess.run([sys.executable, "-c", script, "fail"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EOFError: no data left" in done.stderr
    assert "interrupted" not in done.stderr
