"""The command line as its users run it, and scripts in processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO
from unittest.mock import patch

from helpers.paths import ROOT
from onnxdream.cli import terminal
from onnxdream.cli.app import main
from onnxdream.networks import download

# So that a script finds the package and these helpers.
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def onnxdream(*arguments: object, folder: Path | None = None, **environment: str) -> CompletedProcess[str]:
    """Run the command line in `folder`, in this process, which spares its start-up."""
    given = list(map(str, arguments))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with (
            contextlib.chdir(folder or Path.cwd()),
            patch.dict(os.environ, environment),
            patch.object(sys, "argv", ["onnxdream", *given]),
            patch.object(terminal, "quiet", False),
            _redirected("stdout", 1, out),
            _redirected("stderr", 2, err),
        ):
            try:
                main()
            except SystemExit as end:
                code = end.code
            finally:
                download.report_to(None)
        texts = [_content(stream).decode() for stream in (out, err)]
    assert isinstance(code, int)
    return CompletedProcess(given, code, *texts)


@contextlib.contextmanager
def _redirected(name: str, number: int, target: IO[bytes]) -> Iterator[None]:
    """Python's stream and the file below it, into which the libraries write."""
    kept = os.dup(number)
    os.dup2(target.fileno(), number)
    try:
        with open(number, "w", encoding="utf-8", closefd=False) as stream, patch.object(sys, name, stream):
            yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def _content(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "onnxdream.cli.app", *map(str, arguments)]


def onnxdream_process(*arguments: object, folder: Path, **environment: str) -> CompletedProcess[str]:
    """Run the command line in `folder`, in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def run_python(code: str, *arguments: str, given: bytes = b"") -> bytes:
    """What a script prints that is fed with `given` and must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=given,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
