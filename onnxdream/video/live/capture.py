"""Frames that arrive in real time: from cameras, network streams, the screen, and files played at their own rate.

A thread reads them. A consumer that is slower than the source gets the newest frame; those in between are dropped.
"""

from __future__ import annotations

import logging
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
from ..io.color import to_eight_bit
from ..io.interlace import Deinterlacer
from ..io.open import open_source

log = logging.getLogger(__name__)

_OPEN_TIMEOUT, _READ_TIMEOUT = 10.0, 5.0  # seconds
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 4.0  # seconds between attempts to reach a lost source
_SCREEN = re.compile(r"screen(?::(?:(\d+)|(\d+),(\d+),(\d+)x(\d+)))?")
_SCREEN_RATE = Fraction(30)


@dataclass(frozen=True)
class Feed:
    """A source of frames in real time.

    Attributes:
        name: What it is called in messages, without passwords.
        images: Opens it and yields BGR uint8 [H,W,3] as they arrive; raises VideoError if it cannot be opened or breaks
            off.
        endless: Whether it has no end of its own, so that an end is a loss.
        rate: Frames per second, if known in advance.
    """

    name: str
    images: Callable[[], Iterator[np.ndarray]]
    endless: bool
    rate: Fraction | None = None


def open_feed(source: str, *, longest: int | None = None, loop: bool = False) -> Feed:
    """Find the feed that a source names. Cameras, streams and the screen are opened only when their images are read.

    Args:
        source: A camera's number, an address (rtsp://, http://, …), a file, or the screen: `screen` is the first one,
            `screen:2` the second, `screen:100,50,640x360` a region of all of them (left, top and size in pixels).
        longest: The most pixels of the longer side; larger frames are scaled down. None for no limit.
        loop: Whether a file starts again when it ends.

    Returns:
        The feed.

    Raises:
        OptionError: The source is empty, or is no possible camera, screen or region.
        VideoError: There is no such file, or it cannot be read.
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
    """The feed at its own size. Raises what `open_feed` raises."""
    if not source:
        raise OptionError("the source is empty; give a camera's number, an address, a file, or screen")
    if source.isdecimal():
        if len(source) > 9:
            raise OptionError(f"camera {source}: no camera has such a number; the first one is 0")
        return Feed(f"camera {source}", lambda: _camera(int(source)), endless=True)
    if source == "screen" or source.startswith("screen:"):
        found = _SCREEN.fullmatch(source)
        if not found or (found[4] and not (int(found[4]) and int(found[5]))):
            raise OptionError(f"{source}: a screen is screen, screen:2, or a region such as screen:100,50,640x360")
        numbers = [None if n is None else int(n) for n in found.groups()]
        return Feed(source, lambda: _screen(source, numbers), endless=True, rate=_SCREEN_RATE)
    if "://" in source:
        return Feed(_without_password(source), lambda: _stream(source), endless=True)
    with open_source(source) as video:
        return Feed(source, lambda: _play(source, loop=loop), endless=False, rate=video.info.rate)


class _EndOfStreamError(Exception):
    """A stream has come to its own end."""


def _without_password(address: str) -> str:
    """An address without the password in it."""
    return re.sub(r"(://[^/?#:]*):[^/?#]*@", r"\1:…@", address, count=1)


def _camera(number: int) -> Iterator[np.ndarray]:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error below says it
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
                raise VideoError(f"{_without_password(address)}: carries no pictures")
            stored = container.duration is not None  # a file on a server is played at its own rate, and ends
            began: float | None = None
            name = _without_password(address)
            deinterlaced = Deinterlacer(None, lambda what: log.warning(f"{name}: is {what}; it is deinterlaced"))
            for frame, _ in deinterlaced((f, None) for f in container.decode(container.streams.video[0])):
                if stored and frame.time is not None:
                    began = time.perf_counter() - frame.time if began is None else began
                    time.sleep(max(0.0, began + frame.time - time.perf_counter()))
                yield frame.to_ndarray(format="bgr24")
            if stored:
                raise _EndOfStreamError
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a video stream"
        raise VideoError(f"{_without_password(address)}: {reason}") from error


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


def _play(path: str, *, loop: bool) -> Iterator[np.ndarray]:
    with open_source(path) as video:
        again = True
        while again:
            began: float | None = None
            for frame in video.frames():
                at = float(frame.pts * video.info.time_base)
                began = time.perf_counter() - at if began is None else began
                time.sleep(max(0.0, began + at - time.perf_counter()))
                yield cv2.cvtColor(to_eight_bit(frame.image), cv2.COLOR_RGB2BGR)
            again = loop


@dataclass(frozen=True)
class CapturedFrame:
    """A frame of a feed.

    Attributes:
        image: BGR uint8 [H,W,3].
        number: Counted from 1, dropped frames included.
        time: When it arrived, by `time.perf_counter`.
    """

    image: np.ndarray
    number: int
    time: float


class LatestFrame:
    """The newest frame of a feed, which a thread reads while this context manager is entered.

    An endless feed that is lost is opened again and again. One that cannot be opened in the first place is given up at
    once.

    Args:
        feed: The feed.
        patience: Seconds without a frame after which a lost feed is given up.
        on_loss: Called with the reason each time the feed is lost.

    Attributes:
        count: Frames that have arrived.
        losses: How often the feed was lost.
    """

    def __init__(self, feed: Feed, *, patience: float = 30.0, on_loss: Callable[[str], None] | None = None) -> None:
        self.feed, self.patience = feed, patience
        self.count = self.losses = 0
        self._on_loss = on_loss
        self._newest: CapturedFrame | None = None
        self._taken = 0
        self._failure: Exception | None = None
        self._ended = False
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name="capture")

    def __enter__(self) -> LatestFrame:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_READ_TIMEOUT + 1)  # a thread in a blocked read ends with its timeout

    @property
    def ended(self) -> bool:
        """Whether no more frames will arrive."""
        return self._ended

    def take(self, timeout: float) -> CapturedFrame | None:
        """Take the newest frame.

        Args:
            timeout: Seconds to wait for a frame that was not taken before.

        Returns:
            The frame; None if none arrives in time or the feed has ended.

        Raises:
            VideoError: The feed cannot be opened, or was lost and is given up.
        """
        with self._change:
            self._change.wait_for(lambda: self.count > self._taken or self._ended, timeout)
            if self.count == self._taken:
                if self._failure is not None:
                    raise self._failure
                return None
            self._taken = self.count
            return self._newest

    def _read(self) -> None:
        try:
            self._read_on()
        except Exception as error:  # raised in `take`
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
                        self._newest = CapturedFrame(image, self.count, last)
                        self._change.notify_all()
                    if self._stop.is_set():
                        return
                if not self.feed.endless:
                    return
                reason = f"{self.feed.name}: the stream ended"
            except _EndOfStreamError:
                return
            except VideoError as error:
                if not (self.feed.endless and self.count):
                    raise
                reason = str(error)
            if time.perf_counter() - last > self.patience:
                raise VideoError(f"{reason}; nothing has come for {self.patience:g} s")
            self.losses += 1
            if self._on_loss is not None:
                self._on_loss(reason)
            self._stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
