"""Getting a big file over HTTP: resumable, and by one process at a time.

Imported only where a download begins: requests is slow to load.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def alone(lock: Path, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Wait until no other process is inside with the file `lock`, calling `meanwhile` now and then, and keep it.

    The system lets go of it when the process ends, however it ends.
    """
    with lock.open("ab") as file:
        while not _taken(file):
            meanwhile()
            time.sleep(0.2)
        yield
        # Not after an error: the next in line holds this very file, and a newcomer would make and lock another.
        with suppress(OSError):
            lock.unlink()


if sys.platform == "win32":
    import msvcrt

    def _taken(file: IO[bytes]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _taken(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a network drive without locks: the hash finds what two at once would spoil
            return True
        return True
