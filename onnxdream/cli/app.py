"""`onnxdream`: the application, and how every command reports errors."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from .. import __version__
from ..errors import OnnxDreamError
from . import image, look
from .terminal import error_line, note_line

INTERRUPTED = 130

app = typer.Typer(
    name="onnxdream",
    help="DeepDream from ONNX files: pictures and video, without a deep-learning framework.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("image")(image.image)
app.command("models")(look.models)
app.command("layers")(look.layers)
app.command("info")(look.info)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every error on purpose is one line and an exit code."""
    warnings.showwarning = lambda message, *_: note_line(str(message))  # type: ignore[assignment]
    try:
        code = app(standalone_mode=False)
    except OnnxDreamError as error:
        error_line(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        error_line("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        code = 1
    except Exception as error:
        # Typer's own usage errors know how to show themselves and which code they mean.
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
