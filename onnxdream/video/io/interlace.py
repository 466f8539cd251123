"""Interlaced frames, whose lines were taken at two times: made progressive, or left alone and marked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Literal, TypeVar

import av
from av.filter import Graph

from ...errors import VideoError
from .color import LIMITED

Interlaced = Literal["deinterlace", "keep"]
FieldOrder = Literal["", "tff", "bff"]
CHOICES: tuple[Interlaced, ...] = ("deinterlace", "keep")
_TICK = Fraction(1, 1000)  # filters count frames in something; it is not used
_TELECINED_RATES = (Fraction(2997, 100), 30)  # and what lies between
# Of five telecined frames one repeats a top field and one a bottom field; of other films hardly any does.
_REPEATS, _REPEATED_SHARE = 4, 0.25
T = TypeVar("T")
# What goes with the frames inside a graph, and these frames; None for one that only gives its neighbour a past.
_Waiting = deque[tuple[T, av.VideoFrame] | None]


class Deinterlacer:
    """Makes frames that are marked as interlaced progressive, with FFmpeg's bwdif; others pass as they are.

    One frame comes out for each that goes in, at its own time. It depends on its two neighbours alone, so that it is
    the same wherever reading has begun before.

    Args:
        rate: Frames a second, if known; only film at 30 of them can be telecined.
        found: Called with "interlaced" at the first such frame, with "telecined" when fields are found to repeat as in
            film that was telecined.
    """

    def __init__(self, rate: Fraction | None, found: Callable[[str], None]) -> None:
        self._watched = rate is not None and _TELECINED_RATES[0] <= round(rate, 3) <= _TELECINED_RATES[1]
        self._found = found
        self._seen = 0
        self._repeats = {"top": 0, "bottom": 0}

    def __call__(self, frames: Iterator[tuple[av.VideoFrame, T]]) -> Iterator[tuple[av.VideoFrame, T]]:
        """The frames, each with what came with it. Raises VideoError when `frames` does, after the frames before."""
        graph: Graph | None = None
        before: av.VideoFrame | None = None
        waiting: _Waiting[T] = deque()
        failure: VideoError | None = None
        try:
            for frame, about in frames:
                if before is not None and _kind(frame) != _kind(before):
                    yield from self._finished(graph, waiting)
                    graph = before = None
                if graph is None and frame.interlaced_frame:
                    self._found("interlaced")
                    graph = _bwdif(frame, repeats=self._watched)
                    if before is not None:
                        waiting.append(None)
                        _push(graph, before)
                before = frame
                if graph is None:
                    yield frame, about
                else:
                    waiting.append((about, frame))
                    _push(graph, frame)
                    yield from self._ready(graph, waiting)
        except VideoError as error:
            failure = error
        yield from self._finished(graph, waiting)
        if failure is not None:
            raise failure

    def _finished(
        self, graph: Graph | None, waiting: deque[tuple[T, av.VideoFrame] | None]
    ) -> Iterator[tuple[av.VideoFrame, T]]:
        if graph is not None:
            graph.vpush(None)
            yield from self._ready(graph, waiting)

    def _ready(self, graph: Graph, waiting: _Waiting[T]) -> Iterator[tuple[av.VideoFrame, T]]:
        while True:
            try:
                frame = graph.vpull()
            except (BlockingIOError, av.EOFError):
                return
            self._watch(frame)
            given = waiting.popleft()
            if given is not None:
                about, original = given
                frame.color_range, frame.colorspace = original.color_range, original.colorspace
                yield frame, about

    def _watch(self, frame: av.VideoFrame) -> None:
        if not self._watched:
            return
        self._seen += 1
        repeated = dict(frame.metadata).get("lavfi.idet.repeated.current_frame", "")
        if repeated in self._repeats:
            self._repeats[repeated] += 1
        if min(self._repeats.values()) >= _REPEATS and sum(self._repeats.values()) >= _REPEATED_SHARE * self._seen:
            self._watched = False
            self._found("telecined")


def field_order(frame: av.VideoFrame) -> FieldOrder:
    """Which field of a frame comes first, top or bottom; empty for a progressive one."""
    if not frame.interlaced_frame:
        return ""
    graph = _graph(frame, ("select", r"eq(interlace_type\,TOPFIRST)"))
    graph.vpush(frame)
    try:
        graph.vpull()
    except BlockingIOError:
        return "bff"
    return "tff"


class FieldMarker:
    """Marks frames as interlaced.

    Args:
        order: Which field comes first.
    """

    def __init__(self, order: FieldOrder) -> None:
        self._order = order
        self._graph: Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, marked; all are of one size and format."""
        if self._graph is None:
            self._graph = _graph(frame, ("setfield", f"mode={self._order}"))
        pts, unit = frame.pts, frame.time_base
        self._graph.vpush(frame)
        marked = self._graph.vpull()
        marked.pts, marked.time_base = pts, unit
        return marked


def _kind(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _push(graph: Graph, frame: av.VideoFrame) -> None:
    """Give a graph a frame as one of limited range, as what comes out is, so that no codes are converted on the way."""
    color_range, frame.color_range = frame.color_range, LIMITED
    graph.vpush(frame)
    frame.color_range = color_range


def _bwdif(frame: av.VideoFrame, *, repeats: bool) -> Graph:
    watch = [("idet", "")] if repeats else []
    same = ("format", f"pix_fmts={frame.format.name}")  # where bwdif works in another
    return _graph(frame, *watch, ("bwdif", "mode=send_frame:parity=auto:deint=interlaced"), same)


def _graph(frame: av.VideoFrame, *filters: tuple[str, str]) -> Graph:
    """A chain of filters for frames like this one."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TICK)
    middle: list[Any] = [graph.add(name, options) for name, options in filters]
    graph.link_nodes(source, *middle, graph.add("buffersink")).configure()
    return graph
