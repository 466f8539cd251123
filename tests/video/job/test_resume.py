"""Whole jobs that are stopped, killed or damaged, and go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from helpers.breadth import everyday
from helpers.command_line import PYTHONPATH, onnxdream, onnxdream_process
from helpers.films import packets, write_video
from helpers.jobs import (
    LOOK,
    LOSSLESS,
    assert_same_film,
    clip_pictures,
    film,
    flash,
    flash_times,
    job,
    names,
    shown,
    stills,
    stopped,
    times,
)
from helpers.notes import noted
from helpers.paths import CLIP
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import OnnxDreamError, OptionError, PictureError, VideoError
from onnxdream.networks.model import Model
from onnxdream.objectives import l2


def test_a_source_cut_off_goes_on_when_it_is_whole(tmp_path: Path, look: Dreamer) -> None:
    source, whole, target = tmp_path / "a.mkv", film(tmp_path / "whole.mkv"), tmp_path / "b.mkv"
    data = whole.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="damaged or cut off") as told:
        job(source, target, look, segment_frames=4)
    part = shown(target)
    assert f"ends there, with {len(part)} frames" in str(told.value)
    assert "--overwrite" in str(told.value)
    assert 4 < len(part) < 24
    assert packets(target, "audio")[-1][0] < len(part) / Fraction(25)
    assert names(tmp_path) == [".b.mkv.onnxdream", "a.mkv", "b.mkv", "whole.mkv"]
    shutil.copy(whole, source)
    result = job(source, target, look, segment_frames=4, overwrite=True)
    assert 0 < result.resumed_frames <= len(part)
    assert names(tmp_path) == ["a.mkv", "b.mkv", "whole.mkv"]
    job(whole, tmp_path / "c.mkv", look, segment_frames=4)
    assert_same_film(target, tmp_path / "c.mkv")
    assert packets(target, "audio", 1) == packets(tmp_path / "c.mkv", "audio", 1)


def test_a_picture_that_cannot_be_read(tmp_path: Path, look: Dreamer) -> None:
    folder, target = stills(tmp_path / "in"), tmp_path / "b.mkv"
    good = (folder / "p7.png").read_bytes()
    (folder / "p7.png").write_bytes(good[:200])
    for _ in range(2):  # the second finds the same damage
        with pytest.raises(VideoError, match=r"p7\.png.*frame 7 of") as told:
            job(folder, target, look, segment_frames=3, overwrite=True)
        assert len(times(target)) == 7
        assert "\n" not in str(told.value)
    (folder / "p7.png").write_bytes(good)
    assert job(folder, target, look, segment_frames=3, overwrite=True).resumed_frames == 6
    job(folder, tmp_path / "c.mkv", look, segment_frames=3)
    assert_same_film(target, tmp_path / "c.mkv")
    assert names(tmp_path) == ["b.mkv", "c.mkv", "in"]


def test_what_may_change_before_a_job_goes_on_and_what_not(tmp_path: Path, look: Dreamer) -> None:
    folder, target = stills(tmp_path / "in"), tmp_path / "b.mkv"
    options: dict[str, Any] = {"segment_frames": 3}
    stopped(folder, target, look, 8, **options)
    before = (tmp_path / ".b.mkv.onnxdream" / "manifest.jsonl").read_text()
    for change, name in (
        ({"source_options": {"rate": Fraction(12)}}, "format"),
        ({"segment_frames": 4}, "options"),
        ({"every": 2}, "options"),
        ({"encoding": LOSSLESS}, "encoding"),
        ({"scale": 0.9}, "options"),
    ):
        with pytest.raises(OptionError, match=rf"other settings is there \({name} changed\).*--restart"):
            job(folder, target, look, **{**options, **change})
    shutil.copy(folder / "p4.png", folder / "p1.png")
    with pytest.raises(OptionError, match=r"\(source changed\)"):
        job(folder, target, look, **options)
    assert (tmp_path / ".b.mkv.onnxdream" / "manifest.jsonl").read_text() == before
    shutil.rmtree(folder)
    stills(folder)  # the same pictures, but later, and one that was not dreamed yet is another
    shutil.copy(folder / "p1.png", folder / "p9.png")
    assert job(folder, target, look, **options).resumed_frames == 6
    job(folder, tmp_path / "c.mkv", look, **options)
    assert_same_film(target, tmp_path / "c.mkv")


def test_an_error_ends_every_stage(tmp_path: Path, squeezenet: Model) -> None:
    source = write_video(tmp_path / "a.mkv", clip_pictures(12, 24, 24), codec="ffv1", pix_fmt="bgr0")
    with pytest.raises(PictureError, match="24x24 is too small for fire6") as held:
        job(source, tmp_path / "b.mkv", Dreamer(squeezenet, l2("fire6")))
    assert held.value.__traceback__ is not None  # it still knows the stages' frames
    assert [t.name for t in threading.enumerate() if t.name.startswith("prefetch")] == []
    assert names(tmp_path) == ["a.mkv"]


def test_two_runs_of_one_job_do_not_mix(tmp_path: Path, look: Dreamer) -> None:
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(12)), tmp_path / "b.mp4"

    def again(progress: Any) -> None:
        if progress.frame == 8:
            for run, options in ((onnxdream, ()), (onnxdream_process, ("--restart",))):
                other = run("video", source, "-o", "b.mp4", *LOOK, *options, folder=tmp_path)
                assert (other.returncode, other.stderr.count("\n")) == (2, 1)
                assert "another run is making it" in other.stderr

    assert job(source, target, look, segment_frames=3, on_frame=again).frames == 12
    assert len(times(target)) == 12
    assert names(tmp_path) == ["a.mp4", "b.mp4"]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def one_bit_turned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def line_changed(number: int, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new, 1)
        path.write_bytes(b"".join(lines))

    return change


@pytest.mark.parametrize(
    ("name", "damage", "kept"),
    everyday(
        [
            ("segment-00002", emptied, 6),
            ("segment-00002", cut_short, 6),
            ("segment-00002", one_bit_turned, 6),
            ("segment-00002", Path.unlink, 6),
            ("segment-00001", one_bit_turned, 0),  # no state is kept to go on from before it
            ("state-00002.npz", emptied, 6),
            ("state-00002.npz", one_bit_turned, 6),
            ("manifest.jsonl", line_changed(3, b"segment", b"segm\xffnt"), 6),
            ("manifest.jsonl", line_changed(3, b'"frames"', b'"framse"'), 6),
            ("manifest.jsonl", line_changed(3, b'"frames": 3', b'"frames": "3"'), 6),
            ("manifest.jsonl", line_changed(3, b"{", b""), 6),
            ("manifest.jsonl", line_changed(0, b"{", b"\xff"), 0),
        ],
        3,
    ),
)
def test_what_is_damaged_is_dreamed_again(
    tmp_path: Path, look: Dreamer, name: str, damage: Callable[[Path], None], kept: int
) -> None:
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(16)), tmp_path / "b.mp4"
    stopped(source, target, look, 11, segment_frames=3)
    damage(tmp_path / ".b.mp4.onnxdream" / name)
    with noted(f"parts of the unfinished job are damaged; {kept} frames are kept") as told:
        result = job(source, target, look, segment_frames=3)
    assert len(told) == 1
    assert (result.resumed_frames, result.frames) == (kept, 16)
    job(source, tmp_path / "c.mp4", look, segment_frames=3)
    assert_same_film(target, tmp_path / "c.mp4")


def test_parts_that_do_not_depend_on_each_other_are_kept(tmp_path: Path, look: Dreamer) -> None:
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(16)), tmp_path / "b.mp4"
    options = {"segment_frames": 4, "overlap": 2}
    stopped(source, target, look, 15, **options)
    (tmp_path / ".b.mp4.onnxdream" / "chunks.json").write_text("{}")
    emptied(tmp_path / ".b.mp4.onnxdream" / "segment-00001")
    with noted("8 frames are kept"):
        result = job(source, target, look, **options)
    assert (result.resumed_frames, result.frames) == (8, 16)
    job(source, tmp_path / "c.mp4", look, **options)
    assert_same_film(target, tmp_path / "c.mp4")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="files are told by their numbers on Linux")
def test_what_the_manifest_names_is_on_the_disk_before(
    tmp_path: Path, look: Dreamer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(6))
    synced: list[str] = []

    def noting(number: int, sync: Callable[[int], None] = os.fsync) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        sync(number)

    monkeypatch.setattr(os, "fsync", noting)
    job(source, tmp_path / "b.mp4", look, segment_frames=3)
    kinds = [re.sub(r"\.onnxdream-\w+(\.\w+)$", r"new\1", name) for name in synced]
    folder, manifest, both = ".b.mp4.onnxdream", "manifest.jsonl", tmp_path.name
    begun = [manifest, folder, both]
    first = [".segment-00000.part", "new.npz", folder, manifest]
    last = [".segment-00001.part", folder, manifest]
    assert kinds == [*begun, *first, *last, "new.mp4", both]


@pytest.mark.parametrize("options", [{"start": Fraction(60)}, {"start": Fraction(1, 5), "end": Fraction(1, 5)}])
def test_a_job_without_a_frame_leaves_nothing(tmp_path: Path, look: Dreamer, options: dict[str, Any]) -> None:
    with pytest.raises(OnnxDreamError, match="no frame in that range"):
        job(CLIP, tmp_path / "b.mp4", look, **options)
    assert names(tmp_path) == []


def resumed_while_nothing_moves(tmp_path: Path, look: Dreamer) -> Iterable[float]:
    source = write_video(tmp_path / "a.mkv", clip_pictures(1) * 12, codec="ffv1", pix_fmt="bgr0")
    for name in ("b.mkv", "c.mkv"):
        if name == "b.mkv":
            stopped(source, tmp_path / name, look, 8, segment_frames=3, every=50)
        yield job(source, tmp_path / name, look, segment_frames=3, every=50).objective


def test_the_objective_survives_an_interruption(tmp_path: Path, look: Dreamer) -> None:
    resumed, whole = resumed_while_nothing_moves(tmp_path, look)
    assert resumed == pytest.approx(whole)


KILLED_AT_FRAME_13 = """
import os, signal, sys
from fractions import Fraction
from pathlib import Path
from helpers.jobs import LOSSLESS, job, new_look
from onnxdream.networks.model import load_model

def kill(progress):
    if progress.frame == 13:
        os.kill(os.getpid(), signal.SIGKILL)

job(Path("a.mov"), Path("b.mkv"), new_look(load_model("squeezenet1_1")), encoding=LOSSLESS, segment_frames=5,
    start=Fraction(2, 5), end=Fraction(9, 5), on_frame=kill)
"""


def test_a_killed_part_of_a_film_goes_on_in_sync(
    tmp_path: Path, look: Dreamer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flash(Path("a.mov"))
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_FRAME_13], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".b.mkv.onnxdream", "a.mov"]
    options: dict[str, Any] = {"encoding": LOSSLESS, "start": Fraction(2, 5), "end": Fraction(9, 5)}
    assert job(Path("a.mov"), Path("b.mkv"), look, segment_frames=5, **options).resumed_frames == 10
    job(Path("a.mov"), Path("c.mkv"), look, segment_frames=5, **options)
    assert_same_film(Path("b.mkv"), Path("c.mkv"))
    assert packets(Path("b.mkv"), "audio") == packets(Path("c.mkv"), "audio")
    light, sound = flash_times(Path("b.mkv"))
    assert light == Fraction(3, 5)
    assert abs(sound - float(light)) < 0.002
    assert names(tmp_path) == ["a.mov", "b.mkv", "c.mkv"]


KILL_WHILE_FINISHING = """
import logging, os, signal, sys
from onnxdream.cli.app import main

class Killer(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), signal.SIGKILL)

logging.getLogger("onnxdream").addHandler(Killer(logging.WARNING))
sys.argv = ["onnxdream", *sys.argv[1:]]
main()
"""


def test_killed_while_the_film_is_put_together(tmp_path: Path) -> None:
    """The first note, that subtitles are converted, comes when the result is already open; there the job dies."""
    film(tmp_path / "a.mkv")
    options = ["video", "a.mkv", "-o", "b.mp4", *LOOK[:-1], "--segment-frames", "9"]
    killed = subprocess.run([sys.executable, "-c", KILL_WHILE_FINISHING, *options], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".b.mp4.onnxdream", "a.mkv"]
    record = json.loads(onnxdream(*options, "--json", folder=tmp_path).stdout)
    assert (record["resumed_frames"], record["frames"]) == (24, 24)
    assert names(tmp_path) == ["a.mkv", "b.mp4"]
    copied, there = (packets(tmp_path / name, "audio", 1) for name in ("b.mp4", "a.mkv"))
    assert [(time, data) for time, _, data in copied] == [(time, data) for time, _, data in there]
