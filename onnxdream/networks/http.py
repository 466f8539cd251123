"""Downloading a large file over HTTP, resuming where an earlier attempt stopped.

It is imported only when a download begins, as requests is slow to import.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import requests

CONNECT_SECONDS, READ_SECONDS = 10, 30
CHUNK = 1 << 16


class UnusableResponse(requests.RequestException):
    """The response is not the file, or only a part of it; the message says which."""


class ResumingDownloader:
    """A downloader for `pooch.retrieve` that continues an unfinished download.

    The unfinished file survives any interruption. It may contain bytes of several attempts and mirrors, so the finished
    file must be verified.

    Args:
        part: The unfinished file, which need not exist.
        size: The size of the finished file in bytes.
        on_progress: Called with the number of bytes that have arrived.

    Attributes:
        worth_retrying: Whether another attempt with the same mirror can help.
    """

    def __init__(self, part: Path, size: int, on_progress: Callable[[int], None]) -> None:
        self.part = part
        self.size = size
        self.on_progress = on_progress
        self.worth_retrying = False

    def __call__(self, url: str, output_file: str, _pooch: Any) -> None:
        """Download `url` to `output_file`. Raises requests.RequestException, or OSError if it cannot be written."""
        Path(output_file).unlink()  # pooch's empty file would be left if this process were killed
        start = self.part.stat().st_size if self.part.exists() else 0
        if start > self.size:
            start = 0
        if start < self.size:
            self._append(url, start)
        # If the file turns out wrong, its old beginning may be the cause, and another attempt fetches that too.
        self.worth_retrying = start > 0
        os.replace(self.part, output_file)

    def _append(self, url: str, start: int) -> None:
        # Bytes are counted, so they must not be compressed.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as reply:
            reply.raise_for_status()
            if reply.status_code != requests.codes.partial_content:
                start = 0  # the server sends the whole file, as it may
            length = reply.headers.get("Content-Length", "")
            if length.isdecimal() and start + int(length) != self.size:
                raise UnusableResponse(f"its file has {start + int(length)} bytes instead of {self.size}")
            with self.part.open("r+b" if self.part.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                self._write(reply, file, start)

    def _write(self, reply: requests.Response, file: IO[bytes], done: int) -> None:
        self.on_progress(done)
        try:
            for chunk in reply.iter_content(CHUNK):
                done += len(chunk)
                if done > self.size:
                    break
                file.write(chunk)
                self.worth_retrying = True
                self.on_progress(done)
        except requests.RequestException as error:
            raise UnusableResponse("the connection broke off") from error
        if done < self.size:
            raise UnusableResponse("the connection broke off")
        if done > self.size:
            file.truncate(0)
            self.worth_retrying = False
            raise UnusableResponse(f"its file has more than {self.size} bytes")


def describe_error(error: requests.RequestException) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, UnusableResponse):
        return str(error)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"it answers {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.Timeout):
        return "no answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)
