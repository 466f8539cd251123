"""Which codec, pixel format and options a result gets, by the ending of its name and by what the source is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import av

from ...errors import OptionError, OutputError
from .color import (
    FULL,
    LIMITED,
    ColorTags,
    YuvFormat,
    chroma_name,
    chroma_steps,
    depth_of,
    has_alpha,
    is_rgb,
    matrix_of,
)
from .frames import VideoInfo
from .hdr import encoder_options

Kind = Literal["video", "animation", "pictures", "pipe"]

# The muxer for each ending of a video file.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
ANIMATIONS = (".gif", ".webp")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Names people use, and encoders for them, best first.
FAMILIES = {
    "h264": ("libx264",),
    "avc": ("libx264",),
    "h265": ("libx265",),
    "hevc": ("libx265",),
    "vp8": ("libvpx",),
    "vp9": ("libvpx-vp9",),
    "av1": ("libsvtav1", "libaom-av1"),
    "prores": ("prores_ks",),
}
DEFAULTS: dict[str, dict[str, str]] = {
    # x264's macroblock tree differs from run to run on some processors. At this quality slower presets take twice the
    # time from the ascent and save an eighth of the size.
    "libx264": {"crf": "13.5", "preset": "veryfast", "mbtree": "0"},
    "libx265": {"crf": "18", "preset": "medium"},
    "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"},
    "libvpx": {"crf": "8", "b": "20M", "deadline": "good", "cpu-used": "2"},
    "libsvtav1": {"crf": "22", "preset": "6"},
    "mpeg4": {"flags": "+qscale", "global_quality": "354"},
    "mjpeg": {"flags": "+qscale", "global_quality": "354"},
}
# Other values make x264 write to the terminal past every logger.
_X264 = {
    "preset": "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo 0 1 2 3 4 5 6 7 8 9",
    "tune": "film animation grain stillimage psnr ssim fastdecode zerolatency touhou",
    "profile": "baseline main high high10 high422 high444",
}
_MOST_CRF = {"libx264": 51, "libx265": 51}
# These take odd sizes with halved chroma; the others get full chroma then.
_ODD_SIZES = ("libvpx", "libvpx-vp9", "ffv1", "mjpeg")
# Where these codecs can say that chroma's samples lie; the others can say all there is in 4:2:0.
_SITINGS = {
    "libsvtav1": ("left", "topleft"),
    "libaom-av1": ("left", "topleft"),
    "mpeg4": ("left",),
    "mjpeg": ("center",),
}
_LOSSLESS = ("ffv1", "png", "utvideo", "huffyuv", "ffvhuff", "qtrle")  # RGB stays RGB
# The formats with opacity that these really take: libx265 needs to be built in a special way.
_ALPHA = {"libx265": (), "libvpx-vp9": ("yuva420p",)}
_LIMITED_ONLY = ("prores_ks", "prores_aw", "prores", "dnxhd")
_HDR = (16, 18)  # the transfer characteristics of PQ and HLG
_USABLE = re.compile(
    r"(yuva?(420|422|444|440|411|410)p|yuvj(420|422|444)p|gbra?p)(\d+le)?|(rgb24|rgba|argb|bgr0|bgra|(rgb48|rgba64)[bl]e)"
)


@dataclass(frozen=True)
class Encoding:
    """What the user asks of the encoder; what is None is chosen by `plan_encoding`.

    Attributes:
        codec: A name such as h264, hevc, vp9, av1, prores, ffv1, png, or that of an encoder (libx264, h264_nvenc).
        crf: Its constant quality; lower is better.
        pix_fmt: FFmpeg's name of the pixel format.
        options: Handed to the encoder as they are.
    """

    codec: str | None = None
    crf: float | None = None
    pix_fmt: str | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoder:
    """An encoder.

    Attributes:
        name: FFmpeg's name of it.
        pix_fmts: The pixel formats it takes; empty: it does not say.
    """

    name: str
    pix_fmts: tuple[str, ...]


@dataclass(frozen=True)
class EncodingPlan:
    """An encoding with nothing left open.

    Attributes:
        codec: The encoder.
        pix_fmt: FFmpeg's name of the pixel format.
        options: The encoder's.
        alpha: Whether opacity is kept.
        color: The tags to write.
        yuv: What the planes of `pix_fmt` mean, if it has YCbCr ones.
    """

    codec: str
    pix_fmt: str
    options: dict[str, str]
    alpha: bool
    color: ColorTags
    yuv: YuvFormat


def target_kind(target: str | Path) -> Kind:
    """What `target` names: a video file, an animation, a folder or pattern of pictures, or standard output (-).

    A pattern is a picture's name with a printf number, out/f_%05d.png; a name without an ending is a folder.

    Raises:
        OutputError: Files with this ending cannot be written.
    """
    name = str(target)
    suffix = Path(name).suffix.lower()
    if name == "-":
        return "pipe"
    try:
        folder = Path(name).is_dir()
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror}); choose another name") from error
    if folder or not suffix:
        return "pictures"
    if (numbers := re.findall(r"%0?\d*d", Path(name).name)) and suffix in PICTURES:
        if len(numbers) > 1:
            raise OutputError(f"{name}: holds {len(numbers)} numbers; a pattern has one, such as f_%05d.png")
        return "pictures"
    if suffix in CONTAINERS:
        return "video"
    if suffix in ANIMATIONS:
        return "animation"
    known = ", ".join([*CONTAINERS, *ANIMATIONS])
    raise OutputError(f"{name}: cannot write {suffix}; use {known}, a folder, or a pattern such as f_%05d.png")


def plan_encoding(
    target: str | Path, info: VideoInfo, encoding: Encoding, find: Callable[[str], Encoder | None]
) -> EncodingPlan:
    """Fill in what an encoding leaves open.

    .mp4, .mkv and .mov get H.264 (libx264, crf 13.5), .webm VP9; a source of more than 8 bits gets HEVC (.webm: AV1).
    Depth and chroma stay as they are where the codec has them, else as near as it can; pictures, which have no
    chroma of their own, get 4:2:0 as every player expects. H.264 and HEVC of an odd size get 4:4:4, which alone allows
    it. Opacity is kept in .webm (VP9) and .mov (ProRes 4444) and laid over white elsewhere. GIF, WebP and pictures
    pass through lossless FFV1. `losses` says what is not kept.

    Args:
        target: The result, see `target_kind`.
        info: The source's.
        encoding: What is asked of the encoder.
        find: Gives the encoder of a name, None where there is none.

    Raises:
        OptionError: The codec is unknown, crf out of range, or it does not take the pixel format.
    """
    if target_kind(target) in ("animation", "pictures"):
        if encoding != Encoding():
            raise OptionError(f"{target}: codec, crf and pixel format are for video files")
        encoding = Encoding(codec="ffv1", pix_fmt=_lossless(info))
    suffix = Path(target).suffix.lower()
    encoder, pix_fmt = _chosen(suffix, info, encoding, find)
    try:
        pixels = av.VideoFormat(pix_fmt)
    except ValueError as error:
        raise OptionError(f"there is no pixel format {pix_fmt!r}") from error
    options = {**DEFAULTS.get(encoder.name, {}), **encoding.options}
    for key, known in _X264.items() if encoder.name == "libx264" else ():
        for value in re.split("[,./+-]", options[key]) if key in options else ():
            if value.lower() not in known.split():
                raise OptionError(f"codec libx264 has no {key}={value}; it has {known}")
    own = {} if info.hdr is None else encoder_options(encoder.name, info.hdr)
    if encoder.name == "libx265":  # it writes to the terminal past every logger, and its threads change what it writes
        own["x265-params"] = ":".join(["log-level=none:frame-threads=2", *own.values()])
    for key, value in own.items():
        options[key] = ":".join(filter(None, [value, encoding.options.get(key, "")]))
    alpha = info.alpha and has_alpha(pixels)
    if alpha and encoder.name in ("libvpx", "libvpx-vp9"):
        options.setdefault("auto-alt-ref", "0")
    if encoding.crf is not None:
        most = _MOST_CRF.get(encoder.name, 63)
        if not 0 <= encoding.crf <= most:
            raise OptionError(f"crf={encoding.crf:g} is out of range; {encoder.name} takes 0 to {most}")
        options["crf"] = f"{encoding.crf:g}"
    color, yuv = _colors(pixels, encoder.name, info)
    if yuv.steps != (1, 1):
        options.setdefault("chroma_sample_location", yuv.siting)
    return EncodingPlan(encoder.name, pix_fmt, options, alpha, color, yuv)


def _lossless(info: VideoInfo) -> str:
    return {(False, False): "bgr0", (False, True): "bgra", (True, False): "gbrp16le", (True, True): "gbrap16le"}[
        info.bits > 8, info.alpha
    ]


def _chosen(
    suffix: str, info: VideoInfo, encoding: Encoding, find: Callable[[str], Encoder | None]
) -> tuple[Encoder, str]:
    """The encoder and its pixel format."""
    if encoding.codec is not None:
        names = FAMILIES.get(encoding.codec.lower(), (encoding.codec,))
        encoders = [e for e in map(find, names) if e is not None]
        if not encoders:
            near = difflib.get_close_matches(encoding.codec, [*FAMILIES, *DEFAULTS, "ffv1", "png", "mpeg4"], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise OptionError(f"codec {encoding.codec!r} is unknown or not built in{hint}")
    else:
        encoders = [e for e in map(find, _default_codecs(suffix, info)) if e is not None][:1]
        if not encoders:
            raise OptionError(f"this PyAV has no encoder for {suffix}; name one with a codec it has")
    if encoding.pix_fmt is not None:
        encoder = encoders[0]
        if encoder.pix_fmts and encoding.pix_fmt not in encoder.pix_fmts:
            known = ", ".join(encoder.pix_fmts)
            raise OptionError(f"codec {encoder.name} does not take pixel format {encoding.pix_fmt}; it takes {known}")
        return encoder, encoding.pix_fmt
    ranked = [(_badness(name, e, info), place, e, name) for place, e in enumerate(encoders) for name in _formats(e)]
    if not ranked:
        raise OptionError(f"codec {encoders[0].name} needs a pixel format; it takes {', '.join(encoders[0].pix_fmts)}")
    _, _, encoder, pix_fmt = min(ranked, key=lambda r: (r[0], r[1]))
    return encoder, pix_fmt


def _default_codecs(suffix: str, info: VideoInfo) -> list[str]:
    if suffix == ".webm":
        return ["libvpx-vp9"] if info.alpha or info.bits == 8 else ["libsvtav1", "libaom-av1", "libvpx-vp9"]
    if suffix == ".mov" and info.alpha:
        return ["prores_ks", "png"]
    return ["libx264", "mpeg4"] if info.bits == 8 else ["libx265", "libx264"]


def _formats(encoder: Encoder) -> list[str]:
    usable = [f for f in encoder.pix_fmts or ("yuv420p", "yuv420p10le") if _USABLE.fullmatch(f)]
    return [f for f in usable if not has_alpha(av.VideoFormat(f)) or f in _ALPHA.get(encoder.name, usable)]


def _badness(pix_fmt: str, encoder: Encoder, info: VideoInfo) -> tuple[float, ...]:
    """Smaller is better: opacity kept, then depth, then YCbCr with all of the source's chroma and not more."""
    pixels = av.VideoFormat(pix_fmt)
    depth, (across, down) = depth_of(pixels), chroma_steps(pixels)
    odd = (info.width % 2 or info.height % 2) and encoder.name not in _ODD_SIZES
    rgb = encoder.name in _LOSSLESS and is_rgb(av.VideoFormat(info.pix_fmt))
    return (
        int(has_alpha(pixels) != info.alpha),
        max(0, info.bits - depth),
        int(bool(odd) and (across, down) != (1, 1)),
        int(pixels.is_rgb != rgb or pix_fmt.startswith("yuvj") != (encoder.name == "mjpeg")),
        (across > info.chroma[0]) + (down > info.chroma[1]),
        1 / (across * down),
        depth - info.bits,
    )


def _colors(pixels: av.VideoFormat, codec: str, info: VideoInfo) -> tuple[ColorTags, YuvFormat]:
    """The tags to write, and what planes of YCbCr mean."""
    tags, steps, depth = info.color, chroma_steps(pixels), depth_of(pixels)
    if pixels.is_rgb:
        return ColorTags(tags.primaries, tags.transfer, 0, FULL), YuvFormat(depth, steps, 1, full=True)
    matrix = matrix_of(tags, info.width, info.height)
    named = tags.matrix if tags.matrix == 2 else matrix
    full = pixels.name.startswith("yuvj") or (tags.range == FULL and codec not in _LIMITED_ONLY)
    siting = info.siting if steps == info.chroma and not is_rgb(av.VideoFormat(info.pix_fmt)) else "left"
    known = _SITINGS.get(
        codec, ("left", "topleft", "bottomleft", *(("center", "top", "bottom") if steps[1] > 1 else ()))
    )
    if siting not in known:
        siting = known[0]
    color = ColorTags(tags.primaries, tags.transfer, named, FULL if full else min(tags.range, LIMITED))
    return color, YuvFormat(depth, steps, matrix, full, siting)


def losses(target: str | Path, info: VideoInfo, plan: EncodingPlan | None) -> list[str]:
    """What a result cannot keep of the pictures of its source, one line each.

    Args:
        target: The result, see `target_kind`.
        info: The source's.
        plan: How it is encoded; None for a pipe.
    """
    kind, suffix = target_kind(target), Path(target).suffix.lower()
    # What holds pictures of up to 16 bits, and what only 8.
    most = {"pictures": 8 if suffix in (".jpg", ".jpeg") else 16, "animation": 8, "pipe": 12}.get(kind, 16)
    found = []
    if info.alpha and (plan is None or not plan.alpha or suffix in (".jpg", ".jpeg")):
        found.append("cannot hold opacity, which is laid over white; .mov and .webm can")
    elif info.alpha and suffix == ".gif" and info.codec != "gif":
        found.append("GIF has no half opacity: pixels become opaque or transparent; .webp keeps it")
    pixels = None if plan is None else av.VideoFormat(plan.pix_fmt)
    depth = min(most, info.bits if pixels is None else depth_of(pixels))
    if depth < info.bits:
        found.append(f"{info.bits} bits per channel become {depth}{_keeper(kind)}")
    if kind == "video" and pixels is not None:
        rgb = info.chroma == (1, 1) and is_rgb(av.VideoFormat(info.pix_fmt)) and not pixels.is_rgb
        across, down = chroma_steps(pixels)
        if rgb:
            found.append(f"RGB becomes YCbCr {_chroma_name((across, down))}{_keeper(kind)}")
        elif across > info.chroma[0] or down > info.chroma[1]:
            was, now = _chroma_name(info.chroma), _chroma_name((across, down))
            found.append(f"chroma of {was} becomes {now}{_keeper(kind)}")
    else:
        if info.aspect != 1 and kind != "pipe":
            found.append(f"pixels of {info.aspect} cannot be noted down in pictures; they will be shown square")
        if info.hdr is not None or info.color.transfer in _HDR:
            found.append("cannot say that its colours are HDR; .mp4, .mkv, .mov and .webm can")
    if info.side_data:
        found.append(f"{', '.join(info.side_data)} would not be true of the dream and is dropped")
    return found


def _keeper(kind: Kind) -> str:
    """A hint at what would keep everything."""
    return "; --codec ffv1 in .mkv keeps them as they are" if kind == "video" else ""


def _chroma_name(steps: tuple[int, int]) -> str:
    return ":".join(chroma_name(steps))
