"""Networks that are downloaded when they are first used: their sources and the cache folder.

A card (`name.json`) with `urls`, `sha256` and `bytes` describes a network that is downloaded on demand. The cache
folder keeps it under its name and the first eight digits of its hash:

    vgg16-0f1649d8.onnx         complete and verified; moved there in one step
    vgg16-0f1649d8.onnx.part    an unfinished download; the next one resumes at its end
    vgg16-0f1649d8.onnx.lock    held by the process that downloads; others wait for it

Three environment variables matter: ONNXDREAM_CACHE is the cache folder, ONNXDREAM_OFFLINE=1 forbids every download, and
ONNXDREAM_MODELS names folders with the user's own networks or cards (see `registry`).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import DownloadError, ModelError, OutputError, WriteError

if TYPE_CHECKING:
    import logging

    from .http import ResumingDownloader

# How often one mirror is tried if the connection breaks, as long as each attempt brings some bytes.
MAX_ATTEMPTS = 10

OnProgress = Callable[[int], None]  # called with the number of bytes that have arrived
Reporter = Callable[[str, int], AbstractContextManager[OnProgress]]  # from name and bytes


def _no_reporter(_name: str, _size: int) -> AbstractContextManager[OnProgress]:
    return nullcontext(lambda _done: None)


_reporter: Reporter = _no_reporter


def report_to(reporter: Reporter | None) -> None:
    """Report all downloads of this process.

    Args:
        reporter: Called with the network's name and its size in bytes when a download begins. It returns a context
            manager that is entered for the duration and gives the function to call with the bytes that have arrived.
            None: downloads are not reported.
    """
    global _reporter  # noqa: PLW0603  (downloads begin deep inside load_model)
    _reporter = reporter or _no_reporter


def cache_folder() -> Path:
    """The folder of downloaded networks: ONNXDREAM_CACHE, or by default the system's folder for caches."""
    import pooch

    given = os.environ.get("ONNXDREAM_CACHE")
    return Path(given).expanduser() if given else Path(pooch.os_cache("onnxdream"))


def offline() -> bool:
    """Whether ONNXDREAM_OFFLINE forbids downloads."""
    return os.environ.get("ONNXDREAM_OFFLINE", "").lower() not in ("", "0", "false", "no")


def size_text(size: int) -> str:
    """A number of bytes in words: 553437938 -> '553 MB'."""
    return f"{size / 1e6:.3g} MB"


@dataclass(frozen=True)
class Source:
    """Where a network's file can be downloaded, and how it is verified.

    Attributes:
        name: The network's name.
        urls: Mirrors, in the order in which they are tried.
        sha256: Of the file, 64 hexadecimal digits.
        bytes: The size of the file.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    bytes: int

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read the source from the card at `path`. Raises ModelError if the card is not usable or names no source."""
        from .card import Card

        card = Card.read(path)
        if not card.urls or card.bytes is None:
            raise ModelError(f"{path}: {path.stem}.onnx is not next to it, and it has no urls to download it from")
        return cls(path.stem, card.urls, card.sha256, card.bytes)

    @property
    def path(self) -> Path:
        """The path of the file in the cache."""
        return cache_folder() / f"{self.name}-{self.sha256[:8]}.onnx"

    @property
    def part(self) -> Path:
        """The path of an unfinished download."""
        return self.path.with_name(f"{self.path.name}.part")

    def is_cached(self) -> bool:
        """Whether the cache contains a file of the right size; its content is verified when it is used."""
        try:
            return self.path.stat().st_size == self.bytes
        except OSError:
            return False

    def is_verified(self) -> bool:
        """Whether the cache contains the file, readable and with the right content."""
        import pooch

        try:
            return self.is_cached() and bool(pooch.file_hash(str(self.path), alg="sha256") == self.sha256)
        except OSError:
            return False


def fetch(source: Source) -> Path:
    """The file of a network, which is downloaded unless it is in the cache.

    Args:
        source: Where it comes from.

    Returns:
        The path of the verified file.

    Raises:
        ModelError: The file is not in the cache, and downloads are forbidden.
        DownloadError: No mirror provides it.
        OutputError: The cache folder cannot be written.
    """
    path = source.path
    if source.is_verified():
        return path
    if offline():
        what = "has the wrong content" if path.exists() else "does not exist"
        raise ModelError(f"{source.name}: {path} {what}, and downloads are forbidden (offline); {_manual_hint(source)}")
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _reporter(source.name, source.bytes) as on_progress,
            file_lock(lock, meanwhile=lambda: on_progress(_file_size(source.part))),
        ):
            if not source.is_verified():
                _download(source, on_progress)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (WriteError if full else OutputError)(
            f"{path.parent}: {source.name} ({size_text(source.bytes)}) cannot be stored there "
            f"({error.strerror or error}); ONNXDREAM_CACHE can name another folder"
        ) from error
    return path


def _download(source: Source, on_progress: OnProgress) -> None:
    """Download from the first mirror that provides the file. Raises DownloadError with each mirror's failure."""
    from .http import ResumingDownloader

    failures = []
    for url in source.urls:
        for _ in range(MAX_ATTEMPTS):
            downloader = ResumingDownloader(source.part, source.bytes, on_progress)
            failure = _try_mirror(source, url, downloader)
            if failure is None:
                return
            if not downloader.worth_retrying:
                break
        failures.append(f"{urlsplit(url).netloc}: {failure}")
    got = _file_size(source.part) * 100 // source.bytes
    kept = f"; {got} % has arrived and is kept" if got else ""
    raise DownloadError(
        f"{source.name} ({size_text(source.bytes)}) cannot be downloaded ({'; '.join(failures)}){kept}; "
        f"try again later, or {_manual_hint(source)}"
    )


def _try_mirror(source: Source, url: str, downloader: ResumingDownloader) -> str | None:
    """Download from one mirror, verify and put in place. Returns what went wrong, if anything did."""
    import pooch
    from requests import RequestException

    from .http import describe_error

    path = source.path
    try:
        with _quiet(pooch.get_logger()):
            pooch.retrieve(url, f"sha256:{source.sha256}", path.name, path.parent, downloader=downloader)
    except RequestException as error:
        return describe_error(error)
    except ValueError:  # pooch has deleted it
        return "the file is damaged or a different one (its sha256 differs)"
    return None


@contextmanager
def file_lock(path: Path, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`, which only one process at a time can, and remove it at the end.

    The operating system releases the lock when the process ends, even if it crashes.

    Args:
        path: The lock file.
        meanwhile: Called every 0.2 s while another process holds the lock.

    Raises:
        OSError: The file cannot be created or locked.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            meanwhile()
            time.sleep(0.2)
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows it can be removed only after it is released
            path.unlink()
        lock.release()


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence pooch's own messages."""
    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)


def _manual_hint(source: Source) -> str:
    return f"save {source.urls[0]} as {source.path}"


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
