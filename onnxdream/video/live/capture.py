"""Pictures that come by themselves: cameras, network streams, the screen, and files played as if they were one.

A thread reads them; who is slower than the source gets the newest picture, and the ones in between are dropped.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from ...errors import OptionError, VideoError, first_line
from ..io.open import open_source

_OPEN_TIMEOUT, _READ_TIMEOUT = 10.0, 5.0  # seconds
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 4.0  # seconds between attempts to reach a lost source
_SCREEN = re.compile(r"screen(?::(?:(\d+)|(\d+),(\d+),(\d+)x(\d+)))?")
_SCREEN_RATE = Fraction(30)


@dataclass(frozen=True)
class Feed:
    """Where pictures come from: `images` opens it and yields BGR uint8 [H,W,3] at the time they are due.

    A `lasting` feed never ends by itself, so that an end is a loss. Raises VideoError when it cannot be opened or
    breaks off.
    """

    name: str
    images: Callable[[], Iterator[np.ndarray]]
    lasting: bool
    rate: Fraction | None = None  # pictures a second, where that is known beforehand


def open_feed(source: str, *, longest: int | None = None, loop: bool = False) -> Feed:
    """The feed that `source` names, its pictures scaled down until the longer side has at most `longest` pixels.

    With `loop` a file begins again when it ends. What a source is called and what is raised, see `_feed`.
    """
    feed = _feed(source, loop=loop)
    if longest is None:
        return feed

    def smaller() -> Iterator[np.ndarray]:
        for image in feed.images():
            scale = min(1.0, longest / max(image.shape[:2]))
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            yield image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    return replace(feed, images=smaller)


def _feed(source: str, *, loop: bool) -> Feed:
    """A camera's number, an address (rtsp://, http://, …), a file, or the screen.

    `screen` is the first screen, `screen:2` the second, `screen:100,50,640x360` a region of all of them: left, top and
    size. Raises OptionError for a camera or region that cannot be, VideoError for a file that is not there.
    """
    if not source:
        raise OptionError("the source is empty; give a camera's number, an address, a file, or screen")
    if source.isdecimal():
        if len(source) > 9:
            raise OptionError(f"camera {source}: no camera has such a number; the first one is 0")
        return Feed(f"camera {source}", lambda: _camera(int(source)), lasting=True)
    if source == "screen" or source.startswith("screen:"):
        found = _SCREEN.fullmatch(source)
        if not found or (found[4] and not (int(found[4]) and int(found[5]))):
            raise OptionError(f"{source}: a screen is screen, screen:2, or a region such as screen:100,50,640x360")
        numbers = [None if n is None else int(n) for n in found.groups()]
        return Feed(source, lambda: _screen(source, numbers), lasting=True, rate=_SCREEN_RATE)
    if "://" in source:
        return Feed(_shown(source), lambda: _stream(source), lasting=True)
    with open_source(source) as video:
        return Feed(source, lambda: _played(source, loop=loop), lasting=False, rate=video.info.rate)


class _OverError(Exception):
    """A stream has come to its own end."""


def _shown(address: str) -> str:
    """An address without the password in it."""
    return re.sub(r"(://[^/?#:]*):[^/?#]*@", r"\1:…@", address, count=1)


def _camera(number: int) -> Iterator[np.ndarray]:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said below
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise VideoError(f"camera {number}: cannot be opened; is it there, and not in use by another program?")
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        while (read := capture.read())[0]:
            yield read[1]
    finally:
        capture.release()


def _stream(address: str) -> Iterator[np.ndarray]:
    options = {"fflags": "nobuffer", "flags": "low_delay", "rtsp_transport": "tcp"}
    try:
        with av.open(address, timeout=(_OPEN_TIMEOUT, _READ_TIMEOUT), options=options) as container:
            if not container.streams.video:
                raise VideoError(f"{_shown(address)}: carries no pictures")
            stored = container.duration is not None  # a file on a server: it is played, and has an end
            began: float | None = None
            for frame in container.decode(container.streams.video[0]):
                if stored and frame.time is not None:
                    began = time.perf_counter() - frame.time if began is None else began
                    time.sleep(max(0.0, began + frame.time - time.perf_counter()))
                yield frame.to_ndarray(format="bgr24")
            if stored:
                raise _OverError
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a video stream"
        raise VideoError(f"{_shown(address)}: {reason}") from error


def _screen(name: str, numbers: list[int | None]) -> Iterator[np.ndarray]:
    import mss

    monitor, left, top, width, height = numbers
    try:
        with mss.mss() as grabber:
            if left is None:
                known = len(grabber.monitors) - 1
                if not 1 <= (monitor or 1) <= known:
                    raise VideoError(f"{name}: there is no such screen; there {'is' if known == 1 else 'are'} {known}")
                region: Any = grabber.monitors[monitor or 1]
            else:
                region = {"left": left, "top": top, "width": width, "height": height}
            due = time.perf_counter()
            while True:
                yield np.ascontiguousarray(np.asarray(grabber.grab(region))[..., :3])
                due = max(due + float(1 / _SCREEN_RATE), time.perf_counter())
                time.sleep(due - time.perf_counter() if due > time.perf_counter() else 0)
    except mss.exception.ScreenShotError as error:
        raise VideoError(f"{name}: the screen cannot be read: {first_line(error)}") from error


def _played(path: str, *, loop: bool) -> Iterator[np.ndarray]:
    with open_source(path) as video:
        again = True
        while again:
            began: float | None = None
            for frame in video.frames():
                at = float(frame.pts * video.info.time_base)
                began = time.perf_counter() - at if began is None else began
                time.sleep(max(0.0, began + at - time.perf_counter()))
                image = frame.image
                yield image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=1 / 257)
            again = loop


@dataclass(frozen=True)
class Shot:
    """One picture of a feed, and when it came by `time.perf_counter`."""

    image: np.ndarray
    number: int  # counted from 1, dropped ones included
    time: float


class Latest:
    """The newest picture of a feed; a context manager, and the thread that reads.

    A lasting feed that is lost is opened again and again, `on_loss` being told the reason, and given up when nothing
    has come for `patience` seconds. One that cannot be opened in the first place is given up at once.
    """

    def __init__(self, feed: Feed, *, patience: float = 30.0, on_loss: Callable[[str], None] | None = None) -> None:
        self.feed, self.patience = feed, patience
        self.count = self.losses = 0  # pictures that came, times the feed was lost
        self._on_loss = on_loss
        self._shot: Shot | None = None
        self._taken = 0
        self._failure: Exception | None = None
        self._ended = False
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name="capture")

    def __enter__(self) -> Latest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_READ_TIMEOUT + 1)  # a thread in a blocked read ends with its timeout

    @property
    def ended(self) -> bool:
        """Whether nothing will come any more."""
        return self._ended

    def take(self, timeout: float) -> Shot | None:
        """The newest picture that was not taken before, or None when none comes within `timeout` seconds or ever.

        Raises VideoError when the feed cannot be opened, or was lost and is given up.
        """
        with self._change:
            self._change.wait_for(lambda: self.count > self._taken or self._ended, timeout)
            if self.count == self._taken:
                if self._failure is not None:
                    raise self._failure
                return None
            self._taken = self.count
            return self._shot

    def _read(self) -> None:
        try:
            self._read_on()
        except Exception as error:  # told to whoever takes the pictures
            self._failure = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _read_on(self) -> None:
        wait, last = _FIRST_WAIT, time.perf_counter()
        while not self._stop.is_set():
            try:
                for image in self.feed.images():
                    with self._change:
                        self.count += 1
                        wait, last = _FIRST_WAIT, time.perf_counter()
                        self._shot = Shot(image, self.count, last)
                        self._change.notify_all()
                    if self._stop.is_set():
                        return
                if not self.feed.lasting:
                    return
                reason = f"{self.feed.name}: the stream ended"
            except _OverError:
                return
            except VideoError as error:
                if not (self.feed.lasting and self.count):
                    raise
                reason = str(error)
            if time.perf_counter() - last > self.patience:
                raise VideoError(f"{reason}; nothing has come for {self.patience:g} s")
            self.losses += 1
            if self._on_loss is not None:
                self._on_loss(reason)
            self._stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
