"""Networks that are downloaded when they are first used: where they come from and where they are kept.

A card (`name.json`) that names `urls`, `sha256` and `bytes` describes a network that is downloaded on demand. The cache
folder holds it under its name and the first eight digits of its hash:

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

    from .http import Resuming

# How often one mirror is asked again after it broke off, as long as each time brings something.
TRIES = 10

Advance = Callable[[int], None]  # is told the bytes that are there by now
Watcher = Callable[[str, int], AbstractContextManager[Advance]]  # name and size in bytes -> entered while it downloads


def _unwatched(_name: str, _size: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _done: None)


_watcher: Watcher = _unwatched


def watch(watcher: Watcher | None) -> None:
    """Have every download of this process reported to `watcher`; None: to nobody."""
    global _watcher  # noqa: PLW0603  (downloads begin deep inside load_model)
    _watcher = watcher or _unwatched


def cache_folder() -> Path:
    """Where fetched networks are kept: ONNXDREAM_CACHE, else the system's place for caches."""
    import pooch

    given = os.environ.get("ONNXDREAM_CACHE")
    return Path(given).expanduser() if given else Path(pooch.os_cache("onnxdream"))


def offline() -> bool:
    """Whether ONNXDREAM_OFFLINE forbids downloads."""
    return os.environ.get("ONNXDREAM_OFFLINE", "").lower() not in ("", "0", "false", "no")


def size_text(size: int) -> str:
    """Bytes for people: 553437938 -> '553 MB'."""
    return f"{size / 1e6:.3g} MB"


@dataclass(frozen=True)
class Source:
    """Where a network's file can be downloaded, and how it is recognised."""

    name: str
    urls: tuple[str, ...]  # mirrors, in the order they are tried
    sha256: str
    bytes: int

    @classmethod
    def read(cls, path: Path) -> Source:
        """The source that the card at `path` names. Raises ModelError when it is no usable card or names none."""
        from .card import Card

        card = Card.read(path)
        if not card.urls or card.bytes is None:
            raise ModelError(f"{path}: {path.stem}.onnx is not beside it, and it has no urls to download it from")
        return cls(path.stem, card.urls, card.sha256, card.bytes)

    @property
    def path(self) -> Path:
        """Where the file lies once it is fetched."""
        return cache_folder() / f"{self.name}-{self.sha256[:8]}.onnx"

    @property
    def part(self) -> Path:
        """Where an unfinished download lies."""
        return self.path.with_name(f"{self.path.name}.part")

    def is_there(self) -> bool:
        """Whether a file of the right size is in the cache; its content is checked when it is used."""
        try:
            return self.path.stat().st_size == self.bytes
        except OSError:
            return False

    def is_whole(self) -> bool:
        """Whether the very file is in the cache, and can be read."""
        import pooch

        try:
            return self.is_there() and bool(pooch.file_hash(str(self.path), alg="sha256") == self.sha256)
        except OSError:
            return False


def fetch(source: Source) -> Path:
    """The file of `source`, downloaded if it is not in the cache yet.

    Raises ModelError when it is not there and downloads are forbidden, DownloadError when no mirror gives it, and
    OutputError when the cache folder cannot be written, or WriteError when the disk is full.
    """
    path = source.path
    if source.is_whole():
        return path
    if offline():
        what = "is not the file it should be" if path.exists() else "is not there"
        raise ModelError(f"{source.name}: {path} {what}, and downloads are forbidden (offline); {_by_hand(source)}")
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _watcher(source.name, source.bytes) as tell,
            file_lock(lock, meanwhile=lambda: tell(_length(source.part))),
        ):
            if not source.is_whole():
                _download(source, tell)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (WriteError if full else OutputError)(
            f"{path.parent}: {source.name} ({size_text(source.bytes)}) cannot be stored there "
            f"({error.strerror or error}); ONNXDREAM_CACHE can name another folder"
        ) from error
    return path


def _download(source: Source, tell: Advance) -> None:
    """Fetch from the first mirror that gives the right file. Raises DownloadError with what each of them did."""
    from .http import Resuming

    failures = []
    for url in source.urls:
        for _ in range(TRIES):
            downloader = Resuming(source.part, source.bytes, tell)
            failure = _try_mirror(source, url, downloader)
            if failure is None:
                return
            if not downloader.worth_another:
                break
        failures.append(f"{urlsplit(url).netloc}: {failure}")
    got = _length(source.part) * 100 // source.bytes
    kept = f"; {got} % is there already and is kept" if got else ""
    raise DownloadError(
        f"{source.name} ({size_text(source.bytes)}) cannot be downloaded ({'; '.join(failures)}){kept}; "
        f"try again later, or {_by_hand(source)}"
    )


def _try_mirror(source: Source, url: str, downloader: Resuming) -> str | None:
    """Download from one mirror, verify and put in place; None, or what went wrong."""
    import pooch
    from requests import RequestException

    from .http import describe_error

    path = source.path
    try:
        with _silenced(pooch.get_logger()):
            pooch.retrieve(url, f"sha256:{source.sha256}", path.name, path.parent, downloader=downloader)
    except RequestException as error:
        return describe_error(error)
    except ValueError:  # pooch has deleted it
        return "the file is damaged or another one (its sha256 differs)"
    return None


@contextmanager
def file_lock(path: Path, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`, which one process at a time can, and remove it at the end.

    Calls `meanwhile` every 0.2 s while another process holds it. The system releases it when the process ends, however
    it ends. Raises OSError when the file cannot be created or locked.
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
        with suppress(OSError):  # Windows removes it only once it is released
            path.unlink()
        lock.release()


@contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch's own messages off stderr."""
    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)


def _by_hand(source: Source) -> str:
    return f"save {source.urls[0]} as {source.path}"


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
