"""What can go wrong, in one tree.

    OnnxDreamError
    ├── BackendError               onnxruntime is missing, broken, or lacks the device asked for
    ├── ClusterError               the cluster cannot be reached, or a part of the work fails there again and again
    ├── DownloadError              a network cannot be fetched
    ├── OutOfMemoryError           the picture needs more memory than there is
    ├── VerifyError                an exported gradient is not that of its objective
    ├── WriteError                 writing the result failed, as on a full disk
    └── InputError                 what was asked for cannot be done
        ├── ModelError             the file is not a network that can be dreamed with
        │   ├── NoGradientError    an operator between the picture and the layer has no derivative rule
        │   └── NotFiniteError     it gives NaN or infinity on the picture
        ├── LayerError             no such layer, channel or place in it
        ├── PictureError           the picture cannot be read, or is too small or too big
        ├── VideoError             the video cannot be read, or breaks off
        ├── OptionError            a setting is out of range or contradicts another
        └── OutputError            the result cannot go there

Every message is one line: what was wrong, with which value, and what to do.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class OnnxDreamError(Exception):
    """Base of every error raised on purpose."""


class BackendError(OnnxDreamError):
    """The inference engine is missing, broken, or lacks the device asked for."""


class ClusterError(OnnxDreamError):
    """The cluster cannot be reached, or a part of the work fails there again and again."""


class DownloadError(OnnxDreamError):
    """A network cannot be fetched: there is no connection, or no mirror gives the right file."""


class OutOfMemoryError(OnnxDreamError):
    """The picture needs more memory than there is."""

    def __init__(self) -> None:
        super().__init__("not enough memory for a picture of this size; make it smaller or lower --max-memory")


class VerifyError(OnnxDreamError):
    """An exported gradient is not that of its objective."""


class WriteError(OnnxDreamError):
    """Writing the result failed: the disk is full, or its reader has gone away."""


class InputError(OnnxDreamError):
    """What was asked for cannot be done."""


class ModelError(InputError):
    """The file is not a network that can be dreamed with."""


class NoGradientError(ModelError):
    """An operator between the picture and the layer has no derivative rule."""


class NotFiniteError(ModelError):
    """The network, the objective or its gradient gives NaN or infinity on the picture."""


class LayerError(InputError):
    """There is no such layer, or no such channel or place in it."""


class PictureError(InputError):
    """The picture cannot be read, or it is too small or too big."""


class VideoError(InputError):
    """The video cannot be read, or is damaged or cut off somewhere."""


class OptionError(InputError):
    """A setting is out of range or contradicts another."""


class OutputError(InputError):
    """The result cannot go there."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, or else the error's class.

    Args:
        error: Any exception.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def describe_validation(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, in one line: which entry, its value, and what is expected.

    Args:
        error: As pydantic raises it.
    """
    wrong = error.errors(include_url=False)[0]
    entry = ".".join(map(str, wrong["loc"]))
    if wrong["type"] == "missing":
        return f"it has no {entry!r}"
    reason = wrong["msg"].removeprefix("Value error, ")
    if wrong["type"] == "value_error":
        return f"{entry}: {reason}" if entry else reason
    return f"{entry} is {reprlib.repr(wrong['input'])}; {reason[0].lower()}{reason[1:]}"
