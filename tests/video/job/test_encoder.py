"""Whole jobs with options for the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from helpers.command_line import onnxdream
from helpers.films import write_video
from helpers.jobs import LOOK, clip_pictures, names, times
from helpers.paths import CLIP


def test_the_encoder_does_as_it_is_told(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(12))
    encoders = {
        "b.mp4": ["--codec", "hevc", "--crf", "40", "--pix-fmt", "yuv444p"],
        "c.mp4": ["--codec", "hevc", "--crf", "5.5", "--pix-fmt", "yuv444p"],
        "d.mkv": ["--encoder-option", "g=4", "--encoder-option", "bf=0", "--encoder-option", "sc_threshold=0"],
    }
    for name, options in encoders.items():
        done = onnxdream("video", source, "-o", name, *LOOK, *options, folder=tmp_path)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    for name in ("b.mp4", "c.mp4"):
        with av.open(str(tmp_path / name)) as container:
            context: Any = container.streams.video[0].codec_context
            assert (context.name, context.pix_fmt) == ("hevc", "yuv444p")
    assert (tmp_path / "c.mp4").stat().st_size > 2 * (tmp_path / "b.mp4").stat().st_size
    with av.open(str(tmp_path / "d.mkv")) as container:
        coded = [p for p in container.demux(video=0) if p.size]
    assert [n for n, p in enumerate(coded) if p.is_keyframe] == [0, 4, 8]
    assert [p.pts for p in coded] == sorted(p.pts for p in coded)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--encoder-option", "nonsense=1"], "has no option nonsense"),
        (["--encoder-option", "preset=impossible"], "has no preset=impossible; it has ultrafast"),
        (["--codec", "hevc", "--encoder-option", "preset=impossible"], "libx265 refuses 320x180"),
        (["--encoder-option", "x264-params=foo=1"], "Error parsing option 'foo = 1'"),
        (["--codec", "hevc", "--encoder-option", "x265-params=foo=1"], "Unknown option: foo"),
        (["--encoder-option", "=3"], "key=value"),
        (["--codec", "vp9", "--pix-fmt", "yuv411p"], "yuv411p"),
        (["--codec", "vp9", "--crf", "99"], "crf=99"),
        (["--codec", "prores"], "prores_ks does not go into .mp4"),
        (["--crf", "good"], "--crf"),
    ],
)
def test_an_encoder_that_refuses_is_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    done = onnxdream("video", CLIP, "-o", "b.mp4", *LOOK, *options, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert names(tmp_path) == []


def test_names_that_look_like_something_else(tmp_path: Path) -> None:
    """A colon like a protocol's, brackets like markup, and a line longer than the terminal is wide."""
    name = f"a:[red]{'x' * 80}.mp4"
    done = onnxdream("video", CLIP, "-o", name, *LOOK[:-1], "--end", "0.1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{name} 3 frames in ")
    assert done.stderr.count("\n") == 1
    assert len(times(tmp_path / name)) == 3
