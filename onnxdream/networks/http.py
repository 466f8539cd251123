"""Downloading a large file over HTTP, from where an earlier try stopped.

Imported only where a download begins: requests is slow to load.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import requests

CONNECT_SECONDS, SILENT_SECONDS = 10, 30
CHUNK = 1 << 16


class Unusable(requests.RequestException):
    """The answer is not the file, or only part of it; the message says so in words."""


class Resuming:
    """A downloader for `pooch.retrieve` that goes on from the end of `part`, a file that an earlier try has left.

    `part` survives any interruption. Bytes of several tries and mirrors may be in it, so the whole must be verified.
    """

    def __init__(self, part: Path, size: int, tell: Callable[[int], None]) -> None:
        self.part = part
        self.size = size  # in bytes, of the whole file
        self.tell = tell  # is told the bytes that are there by now
        self.worth_another = False  # whether asking the same mirror once more can help

    def __call__(self, url: str, output_file: str, _pooch: Any) -> None:
        """Download `url` to `output_file`. Raises requests.RequestException, and OSError when it cannot be written."""
        Path(output_file).unlink()  # pooch's empty file: it would stay behind were this process killed
        start = self.part.stat().st_size if self.part.exists() else 0
        if start > self.size:
            start = 0
        if start < self.size:
            self._append(url, start)
        # Should the whole turn out wrong, its beginning may be to blame, which another try fetches too.
        self.worth_another = start > 0
        os.replace(self.part, output_file)

    def _append(self, url: str, start: int) -> None:
        # Bytes are counted, so they must not come packed.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, SILENT_SECONDS)) as reply:
            reply.raise_for_status()
            if reply.status_code != requests.codes.partial_content:
                start = 0  # the whole file is coming, as a server may choose to
            coming = reply.headers.get("Content-Length", "")
            if coming.isdecimal() and start + int(coming) != self.size:
                raise Unusable(f"its file has {start + int(coming)} bytes instead of {self.size}")
            with self.part.open("r+b" if self.part.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                self._write(reply, file, start)

    def _write(self, reply: requests.Response, file: IO[bytes], done: int) -> None:
        self.tell(done)
        try:
            for chunk in reply.iter_content(CHUNK):
                done += len(chunk)
                if done > self.size:
                    break
                file.write(chunk)
                self.worth_another = True
                self.tell(done)
        except requests.RequestException as error:
            raise Unusable("the connection broke off") from error
        if done < self.size:
            raise Unusable("the connection broke off")
        if done > self.size:
            file.truncate(0)
            self.worth_another = False
            raise Unusable(f"its file has more than {self.size} bytes")


def describe_error(error: requests.RequestException) -> str:
    """What went wrong, for one line of text."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"it answers {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.Timeout):
        return "no answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)
