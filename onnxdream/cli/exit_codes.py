"""What a program learns from the command line: 0 done, 1 failure, 2 bad input, 130 interrupted."""

from __future__ import annotations

from ..errors import ClusterError, InputError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def exit_code(error: BaseException) -> int:
    """The exit code for an error; what fails on a cluster has that of its cause."""
    if isinstance(error, ClusterError) and error.__cause__ is not None:
        return exit_code(error.__cause__)
    if isinstance(error, BaseExceptionGroup):
        return max(map(exit_code, error.exceptions))
    return BAD_INPUT if isinstance(error, InputError) else FAILED
