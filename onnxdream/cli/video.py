"""`onnxdream video` and `compare`: dream videos, and measure how steady they are."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..errors import OptionError, OutputError
from ..settings import VideoSettings
from . import options as o
from .cluster import CpusOption, GpusOption, RayOption, WorkersOption, cluster_from, own_stdout
from .terminal import line, print_json, progress_bar

log = logging.getLogger(__name__)

_TIME = "How it moves"
_FILE = "What is written"


@o.with_options("keep_colors")
def video(
    source: Annotated[str, typer.Argument(metavar="IN", help="A video, a folder or pattern of pictures, a GIF, or -.")],
    out: Annotated[str, typer.Option("--out", "-o", help="A video, GIF, WebP, folder, pattern, or - (no --json).")],
    *,
    look: o.Look,
    timeline: Annotated[Path | None, typer.Option(help="TOML file: settings that change over time.")] = None,
    method: Annotated[str, o.video_option("method", _TIME)] = VideoSettings.method,
    flow: Annotated[str, o.video_option("flow", _TIME)] = VideoSettings.flow,
    frame_steps: Annotated[int, o.video_option("frame_steps", _TIME)] = VideoSettings.frame_steps,
    strength: Annotated[float, o.video_option("strength", _TIME)] = VideoSettings.strength,
    every: Annotated[
        int, typer.Option(min=1, help="Dream every n-th frame, move on between.", rich_help_panel=_TIME)
    ] = 1,
    scale: Annotated[float, typer.Option(help="Dream at this share of the size.", rich_help_panel=_TIME)] = 1.0,
    size: Annotated[int | None, typer.Option(min=1, help="Dream at this longer side.", rich_help_panel=_TIME)] = None,
    start: Annotated[str | None, typer.Option(help="Begin here: seconds or H:MM:SS.", rich_help_panel=_FILE)] = None,
    end: Annotated[str | None, typer.Option(help="End here.", rich_help_panel=_FILE)] = None,
    codec: Annotated[str | None, typer.Option(help="h264, hevc, vp9, prores, …", rich_help_panel=_FILE)] = None,
    crf: Annotated[float | None, typer.Option(help="Constant quality, lower is better.", rich_help_panel=_FILE)] = None,
    pix_fmt: Annotated[str | None, typer.Option(help="yuv420p, yuv444p10le, …", rich_help_panel=_FILE)] = None,
    encoder_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For the encoder; repeatable.", rich_help_panel=_FILE)
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Frames a second of pictures or rawvideo.", rich_help_panel=_FILE)
    ] = None,
    raw_size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Read rawvideo (bgr24) of this size from -.", rich_help_panel=_FILE),
    ] = None,
    interlaced: Annotated[
        str,
        typer.Option(
            metavar="deinterlace|keep",
            help="Interlaced frames become progressive, or stay as they are.",
            rich_help_panel=_FILE,
        ),
    ] = "deinterlace",
    preview: Annotated[
        Path | None, typer.Option(help="Keep the newest frame in this JPEG.", rich_help_panel=_FILE)
    ] = None,
    segment_frames: Annotated[
        int, typer.Option(min=1, help="Frames a crash can cost at most.", rich_help_panel=_FILE)
    ] = 96,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="Frames over which parts of a long shot fade. [24 with --ray]", rich_help_panel=_FILE),
    ] = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    cpus_per_worker: CpusOption = 1,
    gpus_per_worker: GpusOption = 0.0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an unfinished job.", rich_help_panel=_FILE)
    ] = False,
    overwrite: o.OverwriteOption = False,
    run: o.Run,
) -> None:
    """Dream a video, steadily, with its sound. Run the same command again to go on after an interruption."""
    from ..engines.select import device_for
    from ..output_files import check_apart
    from ..video.dreamer import VideoDreamer
    from ..video.io.open import Encoding
    from ..video.io.sequences import would_write
    from ..video.job.identity import identify_inputs
    from ..video.job.job import dream_video, limit_opencv_threads
    from ..video.timeline import Timeline

    _check_out(out, as_json=run.as_json)
    cluster = cluster_from(ray, workers, cpus_per_worker, gpus_per_worker)
    settings = o.settings_from(look)
    if look.get("like") and settings.keep_colors:
        log.warning("keep_colors is for pictures and is left out")
        settings = replace(settings, keep_colors=False)
    device = device_for(run.backend, run.device)
    dreamer_at = Timeline(settings, timeline, max_memory=run.max_memory, device=device, threads=run.threads)
    for given in (*o.files_in(look), *map(Path, dreamer_at.guides), *([timeline] if timeline else [])):
        if out != "-" and would_write(Path(out), given):
            raise OutputError(f"{out}: would overwrite {given}, which it is made from; choose another name")
        if preview is not None:
            check_apart(preview, [given])
    encoding = Encoding(codec, crf, pix_fmt, _pairs(encoder_option or []))
    source_options = _source_options(rate, raw_size, interlaced)
    temporal: dict[str, Any] = {"method": method, "flow": flow, "frame_steps": frame_steps, "strength": strength}
    dreamer = VideoDreamer(dreamer_at(Fraction(0)), **temporal)
    if cluster is None:
        limit_opencv_threads(dreamer.dreamer.engine)
    begin, stop = _time(start), _time(end)
    taken = {name: str(time) for name, time in (("start", begin), ("end", stop)) if time is not None}
    stored = {**settings.stored(), **temporal, "scale": scale, "size": size, **taken}
    if timeline is not None:
        stored["timeline"] = timeline.read_text()

    with own_stdout(cluster), progress_bar(quiet=run.quiet) as bar:
        task = bar.add_task(escape(Path(source).name), total=None, state="")

        def on_frame(progress: Any) -> None:
            each = f", {progress.fps / max(1, progress.workers):.2f} each of {progress.workers}" if cluster else ""
            state = f"frame {progress.frame}  {progress.fps:.2f} fps{each}  objective {progress.objective:.4g}"
            bar.update(task, completed=progress.frame, total=progress.frames, state=state)

        result = dream_video(
            source,
            Path(out),
            dreamer,
            encoding=encoding,
            start=begin,
            end=stop,
            every=every,
            scale=scale,
            longest=size,
            timeline=dreamer_at if timeline is not None else None,
            resume=not restart,
            overwrite=overwrite,
            settings=stored,
            inputs=identify_inputs(dreamer_at.dreamers.values(), dreamer_at.guides),
            on_frame=on_frame,
            preview=preview,
            source_options=source_options,
            segment_frames=segment_frames,
            overlap=overlap,
            cluster=cluster,
        )
    fresh = result.frames - result.resumed_frames
    fps = fresh / result.seconds if result.seconds else 0.0
    if not run.quiet:
        resumed = f", {result.resumed_frames} of them from before" if result.resumed_frames else ""
        line(f"[green]{escape(out)}[/]", f"{result.frames} frames{resumed} in {result.seconds:.1f} s, {fps:.2f} fps")
    if run.as_json:
        inner = dreamer.dreamer
        record = {
            "model": ", ".join(at.name for at in inner.models), "layer": inner.goal, "provider": result.provider,
            "source": source, "output": out, "seconds": round(result.seconds, 4), "frames": result.frames, "fps": fps,
            "resumed_frames": result.resumed_frames, "objective": result.objective,
        }  # fmt: skip
        print_json(record)


def compare(
    source: Annotated[str, typer.Argument(help="The video the dreams were made from.")],
    dreams: Annotated[list[str], typer.Argument(help="Dreamed videos.")],
    context: typer.Context,
    model: o.ModelsOption = None,
    layer: o.LayerOption = None,
    plot: Annotated[Path | None, typer.Option(help="Write a chart of the figures, a PNG.")] = None,
    overwrite: o.OverwriteOption = False,
    device: o.DeviceOption = "auto",
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Measure how steady dreamed videos are: warp error, flicker, strength, colour drift."""
    from ..output_files import check_apart, check_free
    from ..video.evaluate.report import check_chart, measure_videos, plot_metrics

    if plot is not None:
        check_chart(plot)
        check_free(plot, overwrite=overwrite)
        check_apart(plot, [source, *dreams])
    given = o.networks_from(context, model, layer)
    began = time.perf_counter()
    videos = measure_videos(source, dreams, given, device=device)
    if plot is not None:
        plot_metrics(plot, videos)
    if as_json:
        print_json({"source": source, "seconds": round(time.perf_counter() - began, 2), "videos": videos})
        return
    from .look import show_table

    show_table("", ["video", "frames", "warp error", "excess", "flicker", "strength", "colour drift", "light"], [
        [name, str(m["frames"]), f"{m['warp_error']:.2e}", f"{m['excess']:.2e}", f"{m['flicker']:.2f}",
         f"{m['strength']:.4g}", f"{m['color_drift']:.2f}", f"{m['brightness_drift']:+.2f}"]
        for name, m in videos.items()
    ])  # fmt: skip


def _check_out(out: str, *, as_json: bool) -> None:
    """Raise OptionError where nothing can go; a name that ends in / is a folder, made where there is none."""
    from ..video.io.codec import target_kind

    if not out:
        raise OptionError("-o names nothing; name a file, a folder or a pattern, or - for a pipe")
    if out == "-" and as_json:
        raise OptionError("-o - and --json both write to standard output; leave one out")
    if out == "-" and sys.stdout.isatty():
        raise OptionError("-o - writes frames, not text, and standard output is a terminal; pipe it, as in | ffplay -")
    if out.endswith("/"):
        with suppress(OSError):  # what is wrong with it is said later
            Path(out).mkdir()
    elif target_kind(out) == "pictures" and not Path(out).suffix and not Path(out).exists():
        log.warning(f"{out}: has no ending, so it becomes a folder of pictures; {out}.mp4 would be a video")


def _time(text: str | None) -> Fraction | None:
    """'90', '1:30' or '0:01:30.5' -> seconds."""
    if text is None:
        return None
    try:
        parts = [Fraction(part) for part in text.split(":")]
    except (ValueError, ZeroDivisionError):
        parts = []
    if text.strip().startswith("-") and len(parts) == 1:
        raise OptionError(f"time {text} is before the beginning of the video, which is 0; count from there")
    if not 1 <= len(parts) <= 3 or any(p < 0 for p in parts):
        raise OptionError(f"time {text!r} is not of the form 90, 1:30 or 0:01:30.5")
    total = Fraction(0)
    for part in parts:
        total = total * 60 + part
    return total


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise OptionError(f"encoder option {text!r} is not of the form key=value")
        pairs[key] = value
    return pairs


def _source_options(rate: str | None, raw_size: str | None, interlaced: str) -> dict[str, Any]:
    from ..video.io.interlace import CHOICES

    if interlaced not in CHOICES:
        raise OptionError(f"interlaced is {interlaced!r}; it is one of {', '.join(CHOICES)}")
    found: dict[str, Any] = {} if interlaced == CHOICES[0] else {"interlaced": interlaced}
    if rate is not None:
        try:
            found["rate"] = Fraction(rate)
        except (ValueError, ZeroDivisionError):
            raise OptionError(f"rate {rate!r} is not a number such as 25 or 30000/1001") from None
    if raw_size is not None:
        found["size"] = o.parse_size(raw_size)[::-1]
        found["pix_fmt"] = "bgr24"
    return found
