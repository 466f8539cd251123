"""The command line as its users run it, and scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT

# So that a script finds the package and these helpers.
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "onnxdream.cli.app", *map(str, arguments)]


def onnxdream(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder`."""
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
