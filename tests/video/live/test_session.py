"""`onnxdream live`: files played as cameras, a network stream that is lost and found, pipes, the page, and the end."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.command_line import command, onnxdream, onnxdream_process
from helpers.paths import DATA, ROOT
from onnxdream.errors import OptionError, VideoError
from onnxdream.video.dreamer import create_video_dreamer
from onnxdream.video.io.open import read_video_settings
from onnxdream.video.live.capture import Feed, LatestFrame, open_feed
from onnxdream.video.live.outputs import Pipe
from onnxdream.video.live.session import Live

CLIP = DATA / "clip.mp4"  # 48 frames, 25 a second, 320x180
LITTLE = ["--layer", "fire3", "--octaves", "1", "--steps", "1", "--size", "96"]


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


def test_a_file_is_dreamed_as_it_plays(tmp_path: Path) -> None:
    done = onnxdream_process("live", CLIP, "--headless", "-o", "out.mp4", "--json", *LITTLE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["frames"] + record["dropped"] == 48
    assert record["frames"] > 5
    assert 1.5 < record["seconds"] < 20
    assert re.fullmatch(r"\d+x\d+, \d steps", record["effort"])
    shown = times(tmp_path / "out.mp4")
    assert len(shown) == record["frames"]
    assert shown == sorted(set(shown))
    assert 1.0 < shown[-1] < record["seconds"]  # late pictures are dropped, not shown late
    settings = read_video_settings(tmp_path / "out.mp4")
    assert (settings["source"], settings["octaves"]) == (str(CLIP), 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]
    with av.open(str(tmp_path / "out.mp4")) as dream, av.open(str(CLIP)) as source:
        first, before = (next(c.decode(video=0)).to_ndarray(format="bgr24") for c in (dream, source))
    assert np.abs(first - cv2.resize(before, (96, 54), interpolation=cv2.INTER_AREA).astype(float)).mean() > 1


def test_a_pipe_gets_an_even_rate(tmp_path: Path) -> None:
    """However many were dropped: what is missing is repeated, as the test below shows."""
    arguments = ("live", CLIP, "--loop", "--headless", "-o", "-", "--frames", 8, *LITTLE)
    with (tmp_path / "out.y4m").open("wb") as out:
        done = subprocess.run(command(*arguments), stdout=out, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = times(tmp_path / "out.y4m")
    assert len(shown) > 1
    np.testing.assert_allclose(np.diff(shown), 1 / 25)


def test_a_late_picture_is_made_up_for_by_its_forerunner(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with Pipe(Fraction(10), "rawvideo") as pipe:
        for value, at in enumerate((7.0, 7.1, 7.4, 7.43, 20.0, 20.1)):  # three late; one early; a long pause
            pipe.put(np.full((1, 1, 3), value, np.uint8), at)
    assert list(capfdbinary.readouterr().out[::3]) == [0, 1, 2, 2, 2, 4, 5]


def test_bare_frames_to_a_pipe() -> None:
    arguments = ("live", CLIP, "--headless", "-o", "-", "--codec", "rawvideo", "--frames", "3", *LITTLE)
    done = subprocess.run(command(*arguments), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) % (96 * 54 * 3) == 0
    assert len(done.stdout) >= 3 * 96 * 54 * 3


def test_who_is_slow_gets_the_newest_and_the_rest_is_dropped() -> None:
    with LatestFrame(open_feed(str(CLIP))) as latest:
        first = latest.take(5)
        time.sleep(0.5)
        newest = latest.count
        second = latest.take(5)
        assert first is not None
        assert second is not None
        assert second.number >= newest > first.number + 5
        assert second.image.shape == (180, 320, 3)
        while (shot := latest.take(5)) is not None:
            last = shot
        assert (last.number, latest.count, latest.ended) == (48, 48, True)
        assert latest.take(0.01) is None


def test_a_feed_that_fails_is_told_to_who_takes() -> None:
    def images() -> Iterator[np.ndarray]:
        yield np.zeros((4, 4, 3), np.uint8)
        raise MemoryError("too much")

    with LatestFrame(Feed("odd", images, endless=True)) as latest:
        assert latest.take(5) is not None
        with pytest.raises(MemoryError):
            latest.take(5)


@contextmanager
def camera(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with serving(sys.executable, ROOT / "tests" / "helpers" / "mjpeg_server.py", CLIP, port) as server:
        yield server


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and the port that it prints."""
    server = subprocess.Popen([str(a) for a in arguments], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server, int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()


def heed_hangups() -> None:
    """For a program that is started by tests that ignore hangups, under nohup for one, and would inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def running(*arguments: object, folder: Path) -> Iterator[subprocess.Popen[str]]:
    live = subprocess.Popen(
        command("live", *arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_hangups,
    )
    try:
        yield live
    finally:
        live.kill()
        live.wait()


def line_with(text: str, live: subprocess.Popen[str]) -> str:
    """The next line on stderr that holds `text`."""
    assert live.stderr is not None
    for line in live.stderr:
        if text in line:
            return line
    pytest.fail(f"it ended without a word of {text!r}")


SYSTEM_PYTHON = Path("/usr/bin/python3")


def has_rtsp_server() -> bool:
    code = "import gi; gi.require_version('GstRtspServer', '1.0')"
    return (
        SYSTEM_PYTHON.exists() and not subprocess.run([SYSTEM_PYTHON, "-c", code], stderr=subprocess.DEVNULL).returncode
    )


@pytest.mark.skipif(not has_rtsp_server(), reason="no GStreamer RTSP server")
def test_a_network_camera(tmp_path: Path) -> None:
    with serving(SYSTEM_PYTHON, ROOT / "tests" / "helpers" / "rtsp_server.py", CLIP) as (_, port):
        address = f"rtsp://127.0.0.1:{port}/clip"
        done = onnxdream("live", address, "--headless", "-o", "out.mp4", "--json", *LITTLE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["source"], record["losses"]) == (address, 0)
    assert len(times(tmp_path / "out.mp4")) == record["frames"] >= 1


def test_a_lost_stream_is_reached_again(tmp_path: Path) -> None:
    with camera() as (server, port):
        address = f"http://user:secret@127.0.0.1:{port}/"
        options = ("--headless", "--serve", "0", "-o", "out.mkv", "--json", "--patience", "60", *LITTLE)
        with running(address, *options, folder=tmp_path) as live:
            page = line_with("showing it at", live).split()[-1]
            wait_for_frames(page, 5)
            server.kill()
            lost = line_with("trying again", live)
            assert f"http://user:…@127.0.0.1:{port}/" in lost
            with camera(port):
                wait_for_frames(page, frames(page) + 10)
                live.send_signal(signal.SIGINT)
                out, _ = live.communicate(timeout=30)
    assert live.returncode == 130
    assert out == ""
    shown = times(tmp_path / "out.mkv")
    assert len(shown) >= 15
    assert max(b - a for a, b in itertools.pairwise(shown)) > 0.2  # the time it was away


def frames(page: str) -> int:
    return int(json.loads(urllib.request.urlopen(page + "status.json").read())["frames"])


def wait_for_frames(page: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while frames(page) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stream_lost_for_good_ends_with_what_there_is(tmp_path: Path) -> None:
    with camera() as (server, port):
        address = f"http://127.0.0.1:{port}/"
        options = ("--headless", "--serve", "0", "-o", "out.mp4", "--patience", "0.5", *LITTLE)
        with running(address, *options, folder=tmp_path) as live:
            wait_for_frames(line_with("showing it at", live).split()[-1], 5)
            server.kill()
            _, said = live.communicate(timeout=60)
    assert live.returncode == 2
    assert re.fullmatch(rf"error: {address}: .*; nothing has come for 0.5 s", said.splitlines()[-1])
    assert len(times(tmp_path / "out.mp4")) >= 5


@pytest.mark.parametrize("sent", everyday([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], 3))
def test_the_page_and_a_clean_end(sent: signal.Signals, tmp_path: Path) -> None:
    options = ("--loop", "--headless", "--serve", "0", "-o", "out.mp4", *LITTLE)
    with running(CLIP, *options, folder=tmp_path) as live:
        page = line_with("showing it at", live).split()[-1]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", page)
        wait_for_frames(page, 3)
        assert b"stream.mjpg" in urllib.request.urlopen(page).read()
        jpeg = np.frombuffer(urllib.request.urlopen(page + "frame.jpg").read(), np.uint8)
        assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (54, 96, 3)
        status = json.loads(urllib.request.urlopen(page + "status.json").read())
        assert status["layer"] == "fire3"
        assert status["layer"] in status["text"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(page + "etc/passwd")
        with av.open(page + "stream.mjpg", format="mpjpeg", timeout=20) as stream:  # as another program would
            seen = [f.to_ndarray(format="bgr24") for _, f in zip(range(3), stream.decode(video=0), strict=False)]
        assert np.abs(seen[0] - seen[2].astype(float)).mean() > 0
        live.send_signal(sent)
        _, said = live.communicate(timeout=30)
    assert (live.returncode, said.splitlines()[-1]) == (130, "error: interrupted")
    assert len(times(tmp_path / "out.mp4")) >= 3
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["", "--headless", "--serve", "0"], 2, "the source is empty; give a camera's number, an address, a file"),
        (["9" * 20, "--headless", "--serve", "0"], 2, "camera 99999999999999999999: no camera has such a number"),
        (["http://[::1", "--headless", "--serve", "0"], 2, "http://[::1: Invalid argument"),
        ([CLIP, "--headless"], 2, "--headless shows nothing; add -o FILE, -o - or --serve PORT"),
        (["nothing.mp4", "--headless", "--serve", "0"], 2, "nothing.mp4: no such file"),
        (["77", "--headless", "--serve", "0"], 2,
         "camera 77: cannot be opened; is it there, and not in use by another program?"),
        (["http://127.0.0.1:9/x", "--headless", "--serve", "0"], 2, "http://127.0.0.1:9/x: Connection refused"),
        (["screen:5", "--headless", "-o", "a.txt"], 2, "a.txt: cannot write .txt; use .mp4"),
        (["screen:a", "--headless", "--serve", "0"], 2,
         "screen:a: a screen is screen, screen:2, or a region such as screen:100,50,640x360"),
        ([CLIP, "--headless", "-o", "-", "--codec", "h264"], 2, "a pipe carries y4m or rawvideo, not h264"),
        ([CLIP, "--headless", "-o", "-", "--json"], 2, "-o - and --json both write to standard output; leave one out"),
        ([CLIP, "--headless", "--serve", "99999"], 2, "port 99999 is not between 0 and 65535"),
        ([CLIP, "--headless", "--serve", "0", "--folder", "none"], 2, "none: no such folder to write into"),
        ([CLIP, "--headless", "--serve", "0", "--layer", "fire99"], 2, "squeezenet1_1 has no layer 'fire99'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(arguments: list[object], code: int, message: str, tmp_path: Path) -> None:
    done = onnxdream("live", *arguments, folder=tmp_path)
    said = [line for line in done.stderr.splitlines() if not line.startswith("note: showing it at")]
    assert (done.returncode, len(said)) == (code, 1), done.stderr
    assert message in said[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "output", "code", "message"),
    everyday(
        [
            ("-o -", ">&-", 2, "-: standard output is closed"),
            ("-o -", ">/dev/full", 1, "-: standard output cannot be written: No space left on device"),
            ("--serve 0 -q --json", ">&-", 1, "standard output is closed, so the JSON object cannot be written"),
            ("--serve 0 -q --json", ">/dev/full", 1, "standard output cannot be written: No space left on device"),
        ],
        2,
    ),
)
def test_standard_output_that_takes_nothing(options: str, output: str, code: int, message: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    line = shlex.join(command("live", CLIP, "--headless", "--frames", 1, *options.split(), *LITTLE))
    done = subprocess.run(["sh", "-c", f"{line} {output}"], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, f"error: {message}\n")


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """The recording is finished, although nothing can be said any more and the signal comes twice."""
    pty = pytest.importorskip("pty")
    mine, its = pty.openpty()
    options = ("--loop", "--headless", "--serve", "0", "-o", "out.mp4", *LITTLE)
    live = subprocess.Popen(
        command("live", CLIP, *options),
        cwd=tmp_path,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=heed_hangups,
    )
    try:
        os.close(its)
        said = b""
        while not (found := re.search(rb"http://\S+(?=\s)", said)):
            said += os.read(mine, 1000)
        wait_for_frames(found[0].decode(), 5)
        os.close(mine)
        for _ in range(2):
            live.send_signal(signal.SIGHUP)
        live.wait(timeout=30)
    finally:
        live.kill()
    assert len(times(tmp_path / "out.mp4")) >= 3
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_nohup_is_heeded(tmp_path: Path) -> None:
    line = "trap '' HUP; exec " + shlex.join(command("live", CLIP, "--headless", "-o", "out.mp4", *LITTLE))
    live = subprocess.Popen(["sh", "-c", line], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        while not list(tmp_path.glob(".onnxdream-*")):  # it records
            assert live.poll() is None
            time.sleep(0.05)
        live.send_signal(signal.SIGHUP)
        assert live.wait(timeout=60) == 0
    finally:
        live.kill()
    assert times(tmp_path / "out.mp4")


def test_no_display_no_window(tmp_path: Path) -> None:
    done = onnxdream_process("live", CLIP, folder=tmp_path, DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: (no window can be opened: there is no display here; use --headless with -o or --serve|"
        r"this OpenCV opens no windows; install opencv-python in place of opencv-python-headless, or use --headless)\n",
        done.stderr,
    )


def test_names_of_sources() -> None:
    assert open_feed(str(CLIP)).rate == 25
    assert not open_feed(str(CLIP)).endless
    assert open_feed("rtsp://me:pass@cam/1").name == "rtsp://me:…@cam/1"
    assert open_feed("rtsp://me:p@ss@cam:80/1?a=b:c@d").name == "rtsp://me:…@cam:80/1?a=b:c@d"
    assert open_feed("http://cam:80/me:you@home").name == "http://cam:80/me:you@home"
    assert open_feed("0").name == "camera 0"
    for wrong in ("screen:0x0", "screen:1,2,0x5"):
        with pytest.raises(OptionError):
            open_feed(wrong)
    with pytest.raises(VideoError):
        open_feed("none.mp4")


def test_a_layer_that_needs_larger_pictures_is_refused_and_the_dream_goes_on() -> None:
    """Frames of 40x22 are enough for fire5, and too small for fire6; under a rate they are dreamed smaller still."""
    video = create_video_dreamer("fire5", octaves=1, steps=1, target_fps=500)
    said: list[str] = []
    with LatestFrame(open_feed(str(CLIP), longest=40, loop=True)) as latest:
        live = Live(video, latest, [], note=said.append)
        for action in ("previous layer", "next layer", "next layer"):
            live.run(frames=live.result.frames + 3)
            live.act(action)
            count = len(said)
            while len(said) == count:
                live.run(frames=live.result.frames + 1)
    assert said[0::2] == ["preparing fire4", "preparing fire5", "preparing fire6"]
    assert said[1:5:2] == ["layer fire4", "layer fire5"]
    assert said[5].startswith("a picture of 40x22 is too small for fire6, which needs at least")
    assert video.getLayer() == "fire5"


def test_a_session_ends_when_its_callback_returns_false() -> None:
    video = create_video_dreamer("fire3", octaves=1, steps=1)
    with LatestFrame(open_feed(str(CLIP), longest=40, loop=True)) as latest:
        result = Live(video, latest, []).run(on_frame=lambda result: result.frames < 3)
        assert (result.cancelled, result.frames) == (True, 3)
        again = Live(video, latest, []).run(frames=2)
        assert (again.cancelled, again.frames) == (False, 2)
