"""The live window on a virtual display: keys pressed for real, and screens looked at."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from helpers.command_line import command
from helpers.paths import DATA, ROOT
from onnxdream.images import read_picture
from onnxdream.settings import layered

NEEDED = ("Xvfb", "xdotool", "import")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("GUI:                           NONE" in cv2.getBuildInformation(), reason="OpenCV is headless"),
    *(pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} is not installed") for tool in NEEDED),
]


@contextmanager
def virtual_display() -> Iterator[str]:
    """A virtual display of 1024x768."""
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-noreset", "-screen", "0", "1024x768x24"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdout is not None
    try:
        yield f":{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()


class Driver:
    """Somebody in front of the display."""

    def __init__(self, displays: Iterator[str], folder: Path) -> None:
        self.displays = displays  # the first is used, another one where it stays black
        self.folder, self.environment = folder, {**os.environ, "DISPLAY": next(displays)}
        self.log = folder / "said.txt"

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        with self.log.open("w") as log:
            return subprocess.Popen(
                command("live", *arguments), cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip

    def run(self, *arguments: str) -> str:
        return subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=30).stdout

    def open(self, *arguments: object) -> subprocess.Popen[str]:
        """Start, and turn to the window once a picture is in it.

        On a busy machine some virtual displays stay black, whatever is opened there; then on another one.
        """
        for _ in range(4):
            live = self.start(*arguments)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if self.screen()[:300, :600].std() > 20:
                    self.focus()
                    return live
                time.sleep(0.1)
            live.kill()
            live.wait()
            self.environment["DISPLAY"] = next(self.displays)
        pytest.fail(f"no picture in the window; {self.log.read_text()}")

    def focus(self) -> None:
        window = self.wait(lambda: self.run("xdotool", "search", "--name", "^onnxdream ").split())[-1]
        self.run("xdotool", "windowfocus", "--sync", window)

    def press(self, key: str, *, until: str) -> None:
        """Press a key and wait for what is said then; `until` is a regular expression."""
        before = len(re.findall(until, self.log.read_text()))
        self.run("xdotool", "key", key)
        self.wait(lambda: len(re.findall(until, self.log.read_text())) > before)

    def screen(self) -> np.ndarray:
        """What is on the display, BGR."""
        path = self.folder / ".screen.png"
        self.run("import", "-window", "root", str(path))
        return np.asarray(cv2.imread(str(path)))

    def wait(self, condition: Callable[[], object], seconds: float = 40) -> list[str]:
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return result if isinstance(result, list) else []


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with ExitStack() as running:
        yield Driver((running.enter_context(virtual_display()) for _ in itertools.count()), tmp_path)


def test_keys_do_what_they_say(driver: Driver, tmp_path: Path) -> None:
    live = driver.open(DATA / "clip.mp4", "--loop", "--json", "--layer", "fire5", "--octaves", "2", "--steps", "2")
    try:
        driver.press("Up", until="note: layer fire6")
        driver.press("Down", until="note: layer fire5")
        driver.press("plus", until=r"note: strength 2\.5")
        driver.press("minus", until=r"note: strength 2\n")
        driver.press("s", until=r"note: wrote .*\.png")
        driver.press("r", until="note: recording ")
        time.sleep(1)
        driver.press("r", until=r"note: wrote .*\.mp4")
        driver.press("space", until="note: frozen")
        time.sleep(3.5)  # until the word has gone from the picture
        still = driver.screen()
        time.sleep(0.5)
        np.testing.assert_array_equal(driver.screen(), still)
        driver.run("xdotool", "key", "h")
        driver.wait(lambda: not np.array_equal(driver.screen()[:60], still[:60]))
        np.testing.assert_array_equal(driver.screen()[80:], still[80:])  # only the text has gone
        driver.press("space", until="note: resumed")
        driver.wait(lambda: not np.array_equal(driver.screen()[80:], still[80:]))
        driver.run("xdotool", "key", "q")
        out, _ = live.communicate(timeout=30)
    finally:
        live.kill()
    assert live.returncode == 0, driver.log.read_text()
    record = json.loads(out)
    assert record["layer"] == "fire5"
    snapshot, recording = (tmp_path / name for name in record["files"])
    assert read_picture(snapshot).rgb.shape == (180, 320, 3)
    assert layered({}, like=snapshot).layers == ("fire5",)
    with av.open(str(recording)) as video:
        assert sum(1 for _ in video.decode(video=0)) > 3
    assert not list(tmp_path.glob(".onnxdream*"))
    assert "Traceback" not in driver.log.read_text()


def test_the_screen_is_a_source(driver: Driver, tmp_path: Path) -> None:
    """One session watches the window of another."""
    live = driver.open(DATA / "clip.mp4", "--loop", "--octaves", "1", "--steps", "1", "--fps", "5")
    try:
        watching = subprocess.run(
            command("live", "screen:40,60,160x96", "--headless", "-o", "seen.mp4", "--frames", "5", "--octaves", "1",
                    "--steps", "1", "--json"),
            cwd=tmp_path, env=driver.environment, capture_output=True, text=True,
        )  # fmt: skip
        assert watching.returncode == 0, watching.stderr
        assert json.loads(watching.stdout)["frames"] == 5
        with av.open(str(tmp_path / "seen.mp4")) as video:
            seen = next(video.decode(video=0)).to_ndarray(format="bgr24")
        assert seen.shape == (96, 160, 3)
        there = driver.screen()[60:156, 40:200]
        assert abs(seen.mean(axis=(0, 1)) - there.mean(axis=(0, 1))).max() < 40
        driver.run("xdotool", "key", "Escape")
        assert live.wait(timeout=30) == 0
    finally:
        live.kill()
    nothing = subprocess.run(
        command("live", "screen:9", "--headless", "--serve", "0", "-q"), env=driver.environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert (nothing.returncode, nothing.stderr) == (2, "error: screen:9: there is no such screen; there is 1\n")


def test_closing_the_window_ends_it(driver: Driver) -> None:
    xlib = pytest.importorskip("Xlib.display", reason="python-xlib is not installed")
    from Xlib.protocol.event import ClientMessage

    live = driver.open(DATA / "clip.mp4", "--loop", "--octaves", "1", "--steps", "1")
    try:
        connection = xlib.Display(driver.environment["DISPLAY"])
        name = int(driver.run("xdotool", "search", "--name", "^onnxdream ").split()[-1])
        window = connection.create_resource_object("window", name)
        protocols, delete = (connection.intern_atom(atom) for atom in ("WM_PROTOCOLS", "WM_DELETE_WINDOW"))
        window.send_event(ClientMessage(window=window, client_type=protocols, data=(32, [delete, 0, 0, 0, 0])))
        connection.flush()
        assert live.wait(timeout=30) == 0, driver.log.read_text()
    finally:
        live.kill()


def test_a_display_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    driver = Driver(iter([":4711"]), tmp_path)
    live = driver.start(DATA / "clip.mp4")
    assert live.wait(timeout=60) == 1
    assert driver.log.read_text() == (
        "error: no window can be opened: there is no display here; use --headless with -o or --serve\n"
    )


def test_the_webcam_example(driver: Driver, tmp_path: Path) -> None:
    """The two lines in a plain OpenCV script, with a file for a camera."""
    script = ROOT / "tests" / "examples" / "webcam.py"
    environment = {**driver.environment, "PYTHONPATH": str(ROOT)}
    driver.log.touch()
    capture = cv2.VideoCapture(str(DATA / "clip.mp4"))
    frames = [cv2.resize(capture.read()[1], (320, 180)) for _ in range(24)]
    writer = cv2.VideoWriter(str(tmp_path / "long.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 180))
    for number in range(2400):
        writer.write(frames[number % 24])
    writer.release()
    shown = subprocess.Popen([sys.executable, script, tmp_path / "long.mp4"], env=environment)
    try:
        window = driver.wait(lambda: driver.run("xdotool", "search", "--name", "^dream$").split())[-1]
        driver.wait(lambda: driver.screen()[:200, :300].std() > 20)
        driver.run("xdotool", "windowfocus", "--sync", window)
        driver.run("xdotool", "key", "Escape")
        assert shown.wait(timeout=30) == 0
    finally:
        shown.kill()
