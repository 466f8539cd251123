"""`onnxdream live`: dream a camera, a stream, a file or the screen as it comes."""

from __future__ import annotations

import logging
import signal
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from ..errors import OptionError, OutputError
from ..settings import VideoSettings
from . import options as o
from .terminal import hide_notes, line, note_line, print_json

log = logging.getLogger(__name__)

_LIVE = "How it runs live"
_OUT = "Where it goes"


@o.with_options("half", "keep_colors")
def live(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A camera's number, an address, a file, or screen[:N|:X,Y,WxH].")
    ],
    *,
    look: o.Look,
    fps: Annotated[
        float,
        typer.Option(min=0, help="Keep this rate by dreaming smaller; 0: as good as asked.", rich_help_panel=_LIVE),
    ] = 25,
    size: Annotated[
        int | None, typer.Option(min=1, help="Bring the longer side to this many pixels first.", rich_help_panel=_LIVE)
    ] = None,
    strength: Annotated[float, o.video_option("strength", _LIVE)] = VideoSettings.strength,
    loop: Annotated[
        bool, typer.Option("--loop", help="Begin a file again when it ends.", rich_help_panel=_LIVE)
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.", rich_help_panel=_LIVE)] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so long.", rich_help_panel=_LIVE)] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds after which a lost source is given up.", rich_help_panel=_LIVE)
    ] = 30,
    headless: Annotated[
        bool, typer.Option("--headless", help="No window; give -o or --serve.", rich_help_panel=_OUT)
    ] = False,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Record into this file, or - for y4m.", rich_help_panel=_OUT)
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="h264, vp9, …; for -: y4m or rawvideo (bgr24).", rich_help_panel=_OUT)
    ] = None,
    serve: Annotated[
        int | None, typer.Option(metavar="PORT", help="Show it at http://127.0.0.1:PORT/.", rich_help_panel=_OUT)
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="For snapshots and recordings made by keys.", rich_help_panel=_OUT)
    ] = Path(),
    overwrite: o.OverwriteOption = False,
    run: o.Run,
) -> None:
    """Dream live, in a window. Late pictures are dropped, a lost stream is reached again.

    Keys in the window: up and down go through the layers, + and - change the strength, space freezes, s writes a
    snapshot, r starts and ends a recording, h hides the text, q quits.
    """
    from ..dream.build import build_dreamer
    from ..engines.select import device_for
    from ..output_files import check_apart, check_free
    from ..video.dreamer import VideoDreamer
    from ..video.live.capture import LatestFrame, open_feed
    from ..video.live.outputs import Output, Page, Pipe, Recording
    from ..video.live.session import Live
    from ..video.live.window import DisplayWindow

    quiet = run.quiet or out == "-"
    if quiet:
        hide_notes()
    if headless and out is None and serve is None:
        raise OptionError("--headless shows nothing; add -o FILE, -o - or --serve PORT")
    if codec is not None and out is None:
        raise OptionError(f"--codec {codec} is for -o; give that too")
    if out == "-" and run.as_json:
        raise OptionError("-o - and --json both write to standard output; leave one out")
    if out not in (None, "-"):
        check_free(Path(str(out)), overwrite=overwrite)
        check_apart(Path(str(out)), [source, *o.files_in(look)])
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder to write into")
    settings = o.settings_from(look)
    if settings.keep_colors and not look.get("like"):
        raise OptionError("keep_colors is for pictures, not for video; omit it")
    if settings.keep_colors:
        log.warning("keep_colors is for pictures and is left out")
        settings = replace(settings, keep_colors=False)

    def say(text: str) -> None:
        if not quiet:
            with suppress(OSError):  # the terminal has gone
                note_line(text)

    with ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            _heed(name, stack)
        feed = open_feed(source, longest=size, loop=loop)
        rate = feed.rate or Fraction(fps or 25).limit_denominator(1001)
        outputs: list[Output] = []
        if out == "-":
            outputs.append(stack.enter_context(Pipe(rate, codec)))
        elif out is not None:
            stored = {**settings.stored(), "source": feed.name}
            outputs.append(stack.enter_context(Recording(Path(out), rate, stored, codec)))
        window = None if headless else stack.enter_context(DisplayWindow(f"onnxdream {feed.name}"))
        dreamer = build_dreamer(
            settings, max_memory=run.max_memory, device=device_for(run.backend, run.device), threads=run.threads
        )
        video = VideoDreamer(dreamer, flow="dis-ultrafast" if fps else "dis-medium", strength=strength, target_fps=fps)
        latest = stack.enter_context(
            LatestFrame(feed, patience=patience, on_loss=lambda why: say(f"{why}; trying again"))
        )
        session = Live(video, latest, outputs, window, folder=folder, settings=settings, note=say)
        if serve is not None:
            page = Page(serve, session.status)
            outputs.append(stack.enter_context(page))
            say(f"showing it at {page.address}")
        result = session.run(frames=frames, seconds=seconds)
    if not quiet:
        kept = f", {effort}" if (effort := video.getEffort()) else ""
        lost = f", lost and reached again {result.losses} times" if result.losses else ""
        line(
            f"[green]{result.frames} frames[/]",
            f"in {result.seconds:.1f} s, {result.dropped} dropped, {result.fps:.1f} fps, "
            f"{1e3 * result.latency:.0f} ms late{kept}{lost}",
        )
    if run.as_json:
        print_json({
            "model": ", ".join(at.name for at in dreamer.models), "layer": video.getLayer(),
            "provider": video.provider, "source": feed.name,
            "output": out, "files": result.files, "frames": result.frames, "dropped": result.dropped,
            "losses": result.losses, "seconds": round(result.seconds, 4), "fps": result.fps,
            "latency": result.latency, "effort": str(video.getEffort() or ""), "objective": video.objective,
        })  # fmt: skip


def _heed(name: str, stack: ExitStack) -> None:
    """Let a signal interrupt, once, until `stack` is left; one that is ignored, as nohup has it, stays so."""
    number = getattr(signal, name, None)
    if number is not None and (before := signal.getsignal(number)) != signal.SIG_IGN:
        signal.signal(number, _interrupt)
        stack.callback(signal.signal, number, before)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # shell and terminal both send one; the files are to be finished in peace
    raise KeyboardInterrupt
