"""`onnxdream`: the application, and how every command reports errors."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from ..errors import OnnxDreamError
from ..networks import download
from ..version import __version__
from . import activations, atlas, bench, export, image, live, look, looks, video, visualize
from .cluster import RayCommand
from .exit_codes import FAILED, INTERRUPTED, exit_code
from .options import NetworkCommand
from .terminal import download_bar, error_line, show_notes

app = typer.Typer(
    name="onnxdream",
    help="DeepDream from ONNX files: pictures and video, without a deep-learning framework.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("image", cls=RayCommand)(image.image)
app.command("looks")(looks.looks)
app.command("video", cls=RayCommand)(video.video)
app.command("live", cls=NetworkCommand)(live.live)
app.command("compare", cls=NetworkCommand)(video.compare)
app.command("export")(export.export)
app.command("activations")(activations.activations)
app.command("visualize")(visualize.visualize)
app.command("atlas", cls=RayCommand)(atlas.atlas)
app.command("models")(look.models)
app.command("layers")(look.layers)
app.command("info")(look.info)
app.command("bench")(bench.bench)


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
    download.report_to(download_bar)
    with warnings.catch_warnings(), show_notes():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # the libraries underneath warn programmers
        code = _run()
    sys.exit(code)


def _run() -> int:
    """The exit code of the command, whose errors are told."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False, prog_name="onnxdream")
        if code == INTERRUPTED:  # Typer takes the interrupt for itself
            error_line("interrupted")
        return code if isinstance(code, int) else 0
    except OnnxDreamError as error:
        error_line(str(error))
        return exit_code(error)
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # which Typer takes for an interrupt
            raise error.__cause__ from None
        error_line("interrupted")
        return INTERRUPTED
    except MemoryError:
        error_line("not enough memory; make the picture smaller with --size")
        return FAILED
    except BrokenPipeError:
        return FAILED
    except Exception as error:
        # Typer's own usage errors know what to say and which code they mean.
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context is not None else ""
        error_line(f"{error.format_message().rstrip('.')}{hint}")
        return int(error.exit_code)


if __name__ == "__main__":
    main()
