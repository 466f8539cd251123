"""Where live dreams go: a recording, standard output, or a page on this machine."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import OptionError, OutputError
from ...settings import Settings
from ..io.color import SRGB
from ..io.open import (
    Encoding,
    FrameWriter,
    VideoInfo,
    check_encoding,
    finish,
    open_writer,
    settings_metadata,
    target_kind,
)
from ..io.pipe import PipeWriter, pipe_format

_TICK = Fraction(1, 1000)
_FAST = {"preset": "veryfast"}  # the encoder must leave time for the dream


class Output(ABC):
    """Takes dreams as they are made; a context manager that finishes what it wrote."""

    @abstractmethod
    def put(self, image: np.ndarray, time: float) -> None:
        """Take a dream.

        Args:
            image: BGR uint8 [H,W,3].
            time: When the frame that it was made from arrived, in seconds by `time.perf_counter`.

        Raises:
            WriteError: It cannot be written.
        """

    def change(self, settings: Settings) -> None:  # noqa: B027  # most have no use for them
        """Note that dreams are made with other settings from now on."""

    @abstractmethod
    def close(self) -> None:
        """Finish. Raises OutputError or WriteError."""

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _video_info(image: np.ndarray, rate: Fraction) -> VideoInfo:
    height, width = image.shape[:2]
    return VideoInfo(width, height, rate, _TICK, None, None, 8, False, SRGB, "bgr24", "", False)


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A BGR image as RGB at the size (width, height) of the first one, in case the source has changed."""
    if image.shape[1::-1] != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Recording(Output):
    """A video, GIF, WebP or folder of pictures, with each frame at the time it arrived; it appears when it is closed.

    It stores the settings that it began with and, under "at", the later changes in the form of a timeline's tables.

    Args:
        target: The file or folder.
        rate: Frames per second to declare; the frames keep their own times.
        settings: The settings that it begins with.
        codec: The codec of a video; the container's default if None.

    Raises:
        OptionError: The target cannot have that codec.
        OutputError: The target cannot be written.
    """

    def __init__(self, target: Path, rate: Fraction, settings: Mapping[str, Any], codec: str | None = None) -> None:
        self.target, self.rate, self.settings = target, rate, dict(settings)
        faster = target_kind(target) == "video" and codec in (None, "h264", "libx264") and target.suffix != ".webm"
        self.encoding = Encoding(codec, options=dict(_FAST) if faster else {})
        check_encoding(target, _video_info(np.zeros((64, 64, 3), np.uint8), rate), self.encoding)
        self._writer: FrameWriter | None = None
        self._current = dict(settings)  # what the newest frame was dreamed with
        self._cleanup = ExitStack()
        self._last = -1

    def put(self, image: np.ndarray, time: float) -> None:
        """See Output."""
        if self._writer is None:
            self._folder = Path(
                self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix=".onnxdream-", dir=self.target.parent))
            )
            self._start, self._info = time, _video_info(image, self.rate)
            self._writer = open_writer(self._folder / "segment", self._info, self.encoding, self.target)
        self._last = max(self._last + 1, round((time - self._start) / _TICK))
        self._writer.write(_fit(image, (self._info.width, self._info.height)), self._last)

    def change(self, settings: Settings) -> None:
        """See Output."""
        stored = settings.stored()
        changes = {name: value for name, value in stored.items() if value != self._current.get(name)}
        self._current |= changes
        if self._writer is None:
            self.settings |= changes
        elif changes:
            time = float((self._last + 1) * _TICK)
            self.settings["at"] = [*self.settings.get("at", []), {"time": time, **changes}]

    def close(self) -> None:
        """See Output."""
        with self._cleanup:
            if self._writer is None:
                return
            writer, self._writer = self._writer, None
            writer.close()
            metadata = settings_metadata(self.settings)
            segment = self._folder / "segment"
            finish(self.target, [segment], None, self._info, metadata=metadata, scratch=self._folder)


class Pipe(Output):
    """Standard output, as y4m or rawvideo (bgr24), at a constant rate: the frame before is repeated for a late one.

    After a pause of more than a second the stream continues as if there had been none.

    Args:
        rate: Frames per second.
        codec: "rawvideo", or y4m if None.

    Raises:
        OptionError: The codec is another one.
        OutputError: Standard output is closed.
    """

    def __init__(self, rate: Fraction, codec: str | None = None) -> None:
        self.rate, self.encoding = rate, Encoding(codec)
        pipe_format(self.encoding)
        if sys.stdout is None:
            raise OutputError("-: standard output is closed")
        self._writer: PipeWriter | None = None
        self._count, self._start = 0, 0.0

    def put(self, image: np.ndarray, time: float) -> None:
        """See Output."""
        if self._writer is None:
            self._info, self._start = replace(_video_info(image, self.rate), time_base=1 / self.rate), time
            self._writer = PipeWriter(self._info, self.encoding)
        due = round((time - self._start) * self.rate) + 1
        if due - self._count > self.rate:
            self._start += float((due - self._count - 1) / self.rate)
            due = self._count + 1
        fitted = _fit(image, (self._info.width, self._info.height))
        while self._count < due:
            self._writer.write(fitted, self._count)
            self._count += 1
        self._writer.stream.flush()

    def close(self) -> None:
        """See Output."""
        if self._writer is not None:
            self._writer.close()


_LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>onnxdream</title>
<style>body{margin:0;background:#111;color:#bbb;font:14px system-ui;display:grid;place-items:center;min-height:100vh}
img{width:min(96vw,160vh);image-rendering:auto}</style>
<figure style="margin:0"><img src="/stream.mjpg" alt="the dream, live"><figcaption id="about"></figcaption></figure>
<script>setInterval(async()=>{try{const s=await(await fetch("/status.json")).json();
document.getElementById("about").textContent=s.text}catch{}},1000)</script></html>"""


class Page(Output):
    """A page for this machine only that shows the dreams: `/`, and for programs `/stream.mjpg`, `/frame.jpg` and
    `/status.json`.

    A request must name this machine as localhost: otherwise a page under another name that resolves to it could watch
    the camera.

    Args:
        port: The port; 0 for any free one.
        status: Gives the content of `/status.json`; its "text" is shown below the picture.

    Raises:
        OptionError: There is no such port.
        OutputError: The port is taken.
    """

    def __init__(self, port: int, status: Callable[[], Mapping[str, Any]]) -> None:
        self.status = status
        self._jpeg, self._number, self._open = b"", 0, True
        self._change = threading.Condition()
        if not 0 <= port < 65536:
            raise OptionError(f"port {port} is not between 0 and 65535")
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        except OSError as error:
            raise OutputError(f"port {port}: {error.strerror}; choose another, or 0 for any") from error
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True, name="page").start()

    def put(self, image: np.ndarray, time: float) -> None:
        """See Output."""
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        with self._change:
            self._jpeg, self._number = jpeg, self._number + 1
            self._change.notify_all()

    def close(self) -> None:
        """See Output."""
        with self._change:
            self._open = False
            self._change.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def next(self, after: int, timeout: float = 5.0) -> tuple[bytes, int]:
        """Wait for a new frame.

        Args:
            after: The number of the last one; 0 at first.
            timeout: Seconds to wait.

        Returns:
            A newer frame as a JPEG and its number; b"" and `after` if none comes in time or the page is closed.
        """
        with self._change:
            self._change.wait_for(lambda: self._number > after or not self._open, timeout)
            return (self._jpeg, self._number) if self._number > after and self._open else (b"", after)

    def _handler(page) -> type[BaseHTTPRequestHandler]:  # noqa: N805  # `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(OSError):  # the client has gone
                    self._answer()

            def do_HEAD(self) -> None:
                self.do_GET()

            def _answer(self) -> None:
                path = self.path.partition("?")[0]
                if not _LOCAL.fullmatch(self.headers.get("Host", "localhost")):
                    self.send_error(403, explain="This page is for this machine only: ask for 127.0.0.1.")
                elif path == "/":
                    self._send("text/html; charset=utf-8", _PAGE.encode())
                elif path == "/status.json":
                    self._send("application/json", json.dumps(page.status()).encode())
                elif path == "/frame.jpg" and (jpeg := page.next(0)[0]):
                    self._send("image/jpeg", jpeg)
                elif path == "/stream.mjpg":
                    self._stream()
                else:
                    self.send_error(404)

            def _send(self, kind: str, data: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def _stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                number = 0
                while self.command == "GET":
                    jpeg, number = page.next(number)
                    if not jpeg:
                        return
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")

            def log_message(self, *_: object) -> None:
                pass

        return Handler
