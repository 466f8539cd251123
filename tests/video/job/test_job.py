"""Whole videos through the command line: real clip, real encoder, real interruptions."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.command_line import onnxdream
from helpers.films import write_video
from helpers.paths import CLIP, ROOT
from onnxdream.video.io.open import open_source, read_video_settings

COMMAND = [sys.executable, "-m", "onnxdream.cli.app", "video"]
LOOK = ["-l", "fire3", "--octaves", "1", "--steps", "3", "--frame-steps", "1", "--size", "160", "--segment-frames", "8"]


def dream(source: Path | str, out: Path | str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = onnxdream("video", source, "-o", out, *LOOK, *more)
    assert not check or done.returncode == 0, done.stderr
    return done


def frames_of(path: Path) -> list[np.ndarray]:
    with open_source(path) as video:
        return [f.image for f in video.frames()]


def times_of(path: Path) -> list[Fraction]:
    with open_source(path) as video:
        return [f.pts * video.info.time_base for f in video.frames()]


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("whole") / "out.mp4"
    return out, json.loads(dream(CLIP, out, "--json").stdout)


def test_a_video_keeps_its_frames_times_and_sound(whole: tuple[Path, dict]) -> None:
    out, record = whole
    source, dreamed = frames_of(CLIP), frames_of(out)
    assert len(dreamed) == len(source) == record["frames"]
    assert dreamed[0].shape == source[0].shape
    assert times_of(out) == times_of(CLIP)
    assert sound_of(out) == sound_of(CLIP)
    changes = [np.abs(a.astype(int) - b).mean() for a, b in zip(source, dreamed, strict=True)]
    assert min(changes) > 1.5
    assert leftovers(out.parent) == []


def test_the_record_and_the_settings_inside(whole: tuple[Path, dict]) -> None:
    out, record = whole
    assert {"model", "layer", "provider", "source", "output", "seconds", "frames", "fps", "resumed_frames"} <= set(
        record
    )
    assert record["resumed_frames"] == 0
    assert read_video_settings(out)["layers"] == ["fire3"]


def lines_in(manifest: Path) -> int:
    return manifest.read_bytes().count(b"\n") if manifest.is_file() else 0


def killed(out: Path, segments: int, *more: str, by: signal.Signals = signal.SIGKILL) -> subprocess.Popen[str]:
    """A job that was killed once so many more segments were finished; it has not ended by then."""
    manifest = out.parent / f".{out.name}.onnxdream" / "manifest.jsonl"
    wanted = max(1, lines_in(manifest)) + segments
    command = [*COMMAND, str(CLIP), "-o", str(out), *LOOK, *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and lines_in(manifest) < wanted:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    process.send_signal(by)
    return process


def assert_same(first: Path, second: Path) -> None:
    for a, b in zip(frames_of(first), frames_of(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert times_of(first) == times_of(second)
    assert sound_of(first) == sound_of(second)


def test_a_killed_job_goes_on_and_ends_the_same(whole: tuple[Path, dict], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    killed(out, 2).wait()
    assert not out.exists()
    record = json.loads(dream(CLIP, out, "--json").stdout)
    assert record["resumed_frames"] >= 16
    assert_same(out, whole[0])
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_twenty_random_kills(tmp_path: Path) -> None:
    """One job of 96 segments, killed twenty times at any moment after it has got further."""
    clip = frames_of(CLIP)
    source = write_video(tmp_path / "long.mp4", [*clip, *clip[::-1]] * 2)
    out, whole, options = tmp_path / "out.mp4", tmp_path / "whole.mp4", ["--segment-frames", "2"]
    dream(source, whole, *options)
    rng = random.Random(0)
    manifest = tmp_path / ".out.mp4.onnxdream" / "manifest.jsonl"
    reached = [0]
    for _ in range(20):
        command = [*COMMAND, str(source), "-o", str(out), *LOOK, *options]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and lines_in(manifest) - 1 <= reached[-1]:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was to be killed before its end"
        assert lines_in(manifest) - 1 > reached[-1]
        reached.append(lines_in(manifest) - 1)
    assert not out.exists()
    record = json.loads(dream(source, out, *options, "--json").stdout)
    assert record["resumed_frames"] == 2 * reached[-1]
    for ours, theirs in zip(frames_of(out), frames_of(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert times_of(out) == times_of(whole)
    assert leftovers(tmp_path) == []


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    manifest = tmp_path / ".out.mp4.onnxdream" / "manifest.jsonl"
    process = killed(out, 1, by=signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert not out.exists()
    assert lines_in(manifest) >= 2


def test_changed_settings_on_resume_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    manifest = tmp_path / ".out.mp4.onnxdream" / "manifest.jsonl"
    killed(out, 1).wait()
    before = manifest.read_text()
    refused = dream(CLIP, out, "--seed", "7", check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "other settings" in refused.stderr
    assert "--restart" in refused.stderr
    assert manifest.read_text() == before
    dream(CLIP, out, "--seed", "7", "--restart", "--end", "0.2")
    assert len(frames_of(out)) == 5


def test_another_network_guide_or_engine_on_resume_is_refused(tmp_path: Path) -> None:
    out, guide, network = tmp_path / "out.mp4", tmp_path / "guide.png", tmp_path / "mine.onnx"
    frames = frames_of(CLIP)
    iio.imwrite(guide, frames[0])
    shutil.copy(ROOT / "models" / "squeezenet1_1.onnx", network)
    card = json.loads((ROOT / "models" / "squeezenet1_1.json").read_text())
    network.with_suffix(".json").write_text(json.dumps({**card, "labels": []}))
    options = ["-m", str(network), "--guide", str(guide), "--end", "0.8"]
    killed(out, 1, *options).wait()

    def refused(what: str, *more: str) -> None:
        done = dream(CLIP, out, *options, *more, check=False)
        assert done.returncode == 2, done.stderr
        assert f"other settings is there ({what} changed)" in done.stderr
        assert done.stderr.count("\n") == 1

    refused("engine", "--backend", "opencv")
    if importlib.util.find_spec("openvino"):
        refused("engine", "--device", "openvino")
    iio.imwrite(guide, frames[-1])
    refused("guide")
    iio.imwrite(guide, frames[0])
    network.with_suffix(".json").write_text(json.dumps({**card, "labels": [], "title": "another"}))
    refused("network")
    network.with_suffix(".json").write_text(json.dumps({**card, "labels": []}))
    assert json.loads(dream(CLIP, out, *options, "--threads", "1", "--json").stdout)["resumed_frames"] >= 8


def test_an_existing_result_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"precious")
    refused = dream(CLIP, out, check=False)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert out.read_bytes() == b"precious"
    dream(CLIP, out, "--overwrite", "--end", "0.2")
    assert len(frames_of(out)) < len(frames_of(CLIP))


def test_a_source_cut_off_is_dreamed_as_far_as_it_goes(tmp_path: Path) -> None:
    whole_mkv = tmp_path / "whole.mkv"
    with av.open(str(CLIP)) as source, av.open(str(whole_mkv), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut = tmp_path / "cut.mkv"
    data = whole_mkv.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out.mp4"
    done = dream(cut, out, check=False)
    if done.returncode:
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert 0 < len(frames_of(out)) < len(frames_of(CLIP))


@pytest.mark.parametrize("name", everyday(["out.gif", "out.webp", "frames", "f_%03d.png", "out.mkv", "out.webm"], 2))
def test_other_targets(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    dream(CLIP, out, "--end", "0.12")
    if name in ("frames", "f_%03d.png"):
        folder = out if name == "frames" else tmp_path
        assert len(list(folder.glob("*.png"))) == 3
    else:
        assert len(frames_of(out)) == 3
    assert leftovers(tmp_path) == []


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, frame in enumerate(frames_of(CLIP)[:4]):
        iio.imwrite(folder / f"{number}.png", frame)
    dream(folder, tmp_path / "out.mp4", "--rate", "10")
    assert times_of(tmp_path / "out.mp4") == [Fraction(i, 10) for i in range(4)]


def test_a_timeline_changes_the_dream(tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.toml"
    timeline.write_text('[[at]]\ntime = 0.2\nlayers = ["fire5"]\nstep_size = 3.0\n')
    plain, changed = tmp_path / "plain.mkv", tmp_path / "changed.mkv"
    options = ["--end", "0.4", "--codec", "ffv1"]
    dream(CLIP, plain, *options)
    dream(CLIP, changed, *options, "--timeline", str(timeline))
    same = [np.array_equal(a, b) for a, b in zip(frames_of(plain), frames_of(changed), strict=True)]
    switch = sum(t < Fraction(1, 5) for t in times_of(plain))
    assert all(same[:switch])
    assert not any(same[switch:])


def test_every_other_frame_and_a_preview(tmp_path: Path) -> None:
    dream(CLIP, tmp_path / "out.mp4", "--end", "0.4", "--every", "2", "--preview", str(tmp_path / "now.jpg"))
    assert len(frames_of(tmp_path / "out.mp4")) == 10
    assert iio.imread(tmp_path / "now.jpg").ndim == 3


@pytest.mark.parametrize("kept_in", everyday(["first.mkv", "first.gif", "first"], 2))
def test_settings_stored_in_a_video_dream_the_same_again(tmp_path: Path, kept_in: str) -> None:
    first, again = tmp_path / "first.mkv", tmp_path / "again.mkv"
    options = ["--end", "0.2", "--codec", "ffv1", "--size", "160", "--frame-steps", "1"]
    dream(CLIP, first, *options, "--seed", "5", "--smooth", "0.8")
    if kept_in != first.name:
        dream(CLIP, tmp_path / kept_in, "--end", "0.1", "--seed", "5", "--smooth", "0.8")
    like = ["--like", str(tmp_path / kept_in)]
    done = onnxdream("video", CLIP, "-o", again, *like, *options)
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(frames_of(first), frames_of(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_config_changes_what_it_names_alone(tmp_path: Path) -> None:
    plain, same, other = (tmp_path / f"{name}.mkv" for name in ("plain", "same", "other"))
    options = ["--end", "0.2", "--codec", "ffv1"]
    (tmp_path / "seed.toml").write_text("seed = 0\n")
    (tmp_path / "smooth.toml").write_text("smooth = 2.0\n")
    dream(CLIP, plain, *options)
    dream(CLIP, same, *options, "--config", str(tmp_path / "seed.toml"))
    dream(CLIP, other, *options, "--config", str(tmp_path / "smooth.toml"))
    assert all(np.array_equal(a, b) for a, b in zip(frames_of(plain), frames_of(same), strict=True))
    assert not np.array_equal(frames_of(plain)[0], frames_of(other)[0])


def test_a_name_that_ends_in_a_slash_is_a_folder(tmp_path: Path) -> None:
    dream(CLIP, f"{tmp_path}/v1.0/", "--end", "0.1")
    assert [p.name for p in sorted((tmp_path / "v1.0").iterdir())] == ["00000.png", "00001.png", "00002.png"]


def test_what_a_pipe_cannot_carry_is_said(tmp_path: Path) -> None:
    source = write_video(
        tmp_path / "a.mkv", frames_of(CLIP)[:6], [0, 40, 80, 200, 240, 280], time_base=Fraction(1, 1000)
    )
    done = subprocess.run([*COMMAND, str(source), "-o", "-", *LOOK], capture_output=True)
    assert done.returncode == 0
    assert done.stdout.count(b"FRAME") == 6
    assert b"a varying rate" in done.stderr
    even = subprocess.run([*COMMAND, str(CLIP), "-o", "-", "--end", "0.2", *LOOK], capture_output=True)
    assert b"varying" not in even.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_frames_are_not_written_to_a_terminal(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    done = subprocess.run([*COMMAND, str(CLIP), "-o", "-", *LOOK], stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "standard output is a terminal; pipe it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.mp4", "-o", "out.mp4"], "missing.mp4"),
        (["text.mp4", "-o", "out.mp4"], "text.mp4"),
        (["clip.mp4", "-o", "out.xyz"], ".xyz"),
        (["clip.mp4", "-o", "nowhere/out.mp4"], "nowhere"),
        (["clip.mp4", "-o", "out.mp4", "--codec", "nonsense"], "nonsense"),
        (["clip.mp4", "-o", "out.mp4", "--encoder-option", "x"], "key=value"),
        (["clip.mp4", "-o", "out.mp4", "--every", "2", "--method", "blend"], "blend dreams every frame"),
        (["clip.mp4", "-o", "out.mp4", "--start", "soon"], "soon"),
        (["clip.mp4", "-o", "out.mp4", "--start", "60"], "no frame"),
        (["clip.mp4", "-o", "out.mp4", "--method", "magic"], "magic"),
        (["clip.mp4", "-o", "out.mp4", "--flow", "magic"], "magic"),
        (["clip.mp4", "-o", "out.mp4", "--scale", "2"], "scale"),
        (["clip.mp4", "-o", "out.mp4", "--timeline", "text.mp4"], "text.mp4"),
        (["clip.mp4", "-o", "out.mp4", "--timeline", "inf.toml"], "this one has inf"),
        (["clip.mp4", "-o", "out.mp4", "--timeline", "nan.toml"], "this one has nan"),
        (["clip.mp4", "-o", "out.mp4", "--timeline", "keep.toml"], "keep_colors is for pictures"),
        (["clip.mp4", "-o", "out.mp4", "--config", "keep.toml"], "keep_colors is for pictures"),
        (["clip.mp4", "-o", "%d_%03d.png"], "holds 2 numbers"),
        (["clip.mp4", "-o", "clip.mp4", "--overwrite"], "is what the dream is made from"),
        (["clip.mp4", "-o", "out.mp4", "--preview", "clip.mp4"], "is what the dream is made from"),
        (["clip.mp4", "-o", "out.mp4", "--guide", "g.jpg", "--preview", "g.jpg"], "would overwrite g.jpg"),
        (["clip.mp4", "-o", "out.mp4", "--size", "160", "--scale", "0"], "scale is 0"),
        (["clip.mp4", "-o", "out.mp4", "--crf", "999"], "crf=999"),
        (["clip.mp4", "-o", ""], "-o names nothing"),
        (["", "-o", "out.mp4"], "has no name"),
        (["clip.mp4", "-o", "-", "--json"], "both write to standard output"),
        (["clip.mp4", "-o", "out.mp4", "--ray", "localhost"], "HOST:PORT"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    shutil.copy(CLIP, tmp_path / "clip.mp4")
    shutil.copy(CLIP.with_name("rocket.jpg"), tmp_path / "g.jpg")
    (tmp_path / "text.mp4").write_text("not a video")
    for number in ("inf", "nan"):
        (tmp_path / f"{number}.toml").write_text(f"[[at]]\ntime = {number}\n")
    keeps = "[[at]]\ntime = 1\nkeep_colors = true\n" if "--timeline" in arguments else "keep_colors = true\n"
    (tmp_path / "keep.toml").write_text(keeps)
    before = sorted(tmp_path.iterdir())
    done = onnxdream("video", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert sorted(p for p in tmp_path.iterdir() if not p.name.startswith(".")) == before
