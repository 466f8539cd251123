"""What a result is encoded with, and what each codec keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.films import convert, encode, frames_of, info_of, picture, psnr, times_of, write_video
from helpers.notes import noted, notes
from helpers.paths import CLIP
from onnxdream.errors import InputError, OptionError, OutputError
from onnxdream.video.io.open import Encoding, check_encoding, open_source, open_writer


@pytest.mark.parametrize(
    ("target", "changes", "codec", "pix_fmt"),
    [
        ("a.mp4", {}, "libx264", "yuv420p"),
        ("a.mkv", {}, "libx264", "yuv420p"),
        ("a.webm", {}, "libvpx-vp9", "yuv420p"),
        ("a.mov", {}, "libx264", "yuv420p"),
        ("a.mp4", {"bits": 10}, "libx265", "yuv420p10le"),
        ("a.mov", {"bits": 12}, "libx265", "yuv420p12le"),
        ("a.mkv", {"bits": 16}, "libx265", "yuv420p12le"),
        ("a.mp4", {"chroma": (1, 1)}, "libx264", "yuv444p"),
        ("a.mp4", {"chroma": (2, 1), "bits": 10}, "libx265", "yuv422p10le"),
        ("a.mp4", {"chroma": (4, 1)}, "libx264", "yuv422p"),
        ("a.webm", {"chroma": (1, 1)}, "libvpx-vp9", "yuv444p"),
        ("a.webm", {"bits": 10}, "libsvtav1", "yuv420p10le"),
        ("a.webm", {"alpha": True}, "libvpx-vp9", "yuva420p"),
        ("a.mov", {"alpha": True}, "prores_ks", "yuva444p10le"),
        ("a.mov", {"alpha": True, "bits": 12}, "prores_ks", "yuva444p10le"),
        ("a.mov", {"alpha": True, "bits": 16}, "prores_ks", "yuva444p10le"),
        ("a.mp4", {"alpha": True}, "libx264", "yuv420p"),
        ("a.mp4", {"alpha": True, "bits": 10}, "libx265", "yuv420p10le"),
        ("a.mkv", {"alpha": True, "bits": 12}, "libx265", "yuv420p12le"),
        ("a.mp4", {"width": 63}, "libx264", "yuv444p"),
        ("a.mp4", {"height": 47, "bits": 10}, "libx265", "yuv444p10le"),
        ("a.webm", {"width": 63, "height": 47}, "libvpx-vp9", "yuv420p"),
        ("a.gif", {}, "ffv1", "bgr0"),
        ("out", {"bits": 16, "alpha": True}, "ffv1", "gbrap16le"),
    ],
)
def test_what_is_chosen(tmp_path: Path, target: str, changes: dict[str, Any], codec: str, pix_fmt: str) -> None:
    info = info_of(**{"width": 64, "height": 64, **changes})
    chosen = check_encoding(tmp_path / target, info, Encoding())
    assert chosen is not None
    assert (chosen.codec, chosen.pix_fmt) == (codec, pix_fmt)


@pytest.mark.parametrize(
    "codec", everyday(["h264", "hevc", "vp9", "av1", "prores", "ffv1", "mpeg4", "png", "mjpeg"], 3)
)
def test_every_codec_goes_through(tmp_path: Path, codec: str) -> None:
    suffix = {"png": ".mov", "prores": ".mov", "mjpeg": ".mov"}.get(codec, ".mkv")
    encoding = Encoding(codec=codec)
    # AV1 and ProRes have a smallest size.
    frames = [(picture(n, 96, 80), n * 3, None) for n in range(8)]
    info = info_of(96, 80, time_base=Fraction(1, 75))
    path = encode(frames, info, tmp_path / f"a{suffix}", encoding=encoding, cuts=(3, 4))
    shown = frames_of(path)
    unit = Fraction(1, 1000) if suffix == ".mkv" else Fraction(1, 75)
    assert times_of(path) == [round(n / 25 / unit) * unit for n in map(Fraction, range(8))]
    for (image, _, _), back in zip(frames, shown, strict=True):
        assert (
            psnr(np.rint(back.image / 257).astype(np.uint8) if back.image.dtype == np.uint16 else back.image, image)
            > 33
        )
    if suffix == ".mkv" and codec not in ("ffv1", "prores"):
        assert len(frames_of(convert(path, tmp_path / "b.mp4", encoding=encoding))) == 8


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are seen so on Linux")
def test_no_encoder_takes_over_the_machine(tmp_path: Path) -> None:
    """SVT-AV1 asks for real-time priority, and gets it where the superuser runs it."""
    for codec in ("h264", "hevc", "vp9", "av1"):
        writer = open_writer(tmp_path / codec, info_of(96, 80), Encoding(codec=codec), tmp_path / "a.mkv")
        writer.write(picture(0, 96, 80), 0)
        assert {os.sched_getscheduler(int(t)) for t in os.listdir("/proc/self/task")} == {os.SCHED_OTHER}, codec
        writer.close()


@pytest.mark.parametrize(
    ("target", "codec", "alpha", "tag"),
    [
        ("a.mp4", "hevc", False, "hvc1"),
        ("a.mp4", "h264", False, "avc1"),
        ("a.mov", "prores", False, "apch"),
        ("a.mov", "prores", True, "ap4h"),
        ("a.mp4", "av1", False, "av01"),
    ],
)
def test_players_recognise_the_codec(tmp_path: Path, target: str, codec: str, alpha: bool, tag: str) -> None:
    info = info_of(96, 80, alpha=alpha)
    path = encode([(picture(0, 96, 80), 0, None)], info, tmp_path / target, encoding=Encoding(codec=codec))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == tag


ODD = [(63, 48), (64, 47), (63, 47)]


@pytest.mark.parametrize(
    ("suffix", "width", "height"),
    everyday(
        [*((s, *size) for s in (".mp4", ".mkv", ".webm", ".mov") for size in ODD), (".mkv", 1, 1), (".mkv", 2, 3)], 4
    ),
)
def test_odd_sizes_stay(tmp_path: Path, suffix: str, width: int, height: int) -> None:
    path = encode(
        [(picture(n, width, height), n, None) for n in range(3)], info_of(width, height), tmp_path / f"a{suffix}"
    )
    shown = frames_of(path)
    assert [f.image.shape for f in shown] == [(height, width, 3)] * 3
    assert psnr(shown[1].image, picture(1, width, height)) > 30
    again = frames_of(convert(path, tmp_path / f"b{suffix}"))
    assert again[0].image.shape == (height, width, 3)


@pytest.mark.parametrize("suffix", [".webm", ".mov"])
def test_opacity_is_kept(tmp_path: Path, suffix: str) -> None:
    opacity = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    info = info_of(alpha=True)
    path = encode(((picture(n), n, opacity) for n in range(4)), info, tmp_path / f"a{suffix}", cuts=(2,))
    for frame in frames_of(path):
        assert frame.alpha is not None
        top = np.iinfo(frame.alpha.dtype).max
        assert np.abs(frame.alpha / top - opacity / 255).max() < 0.05
    with open_source(path) as video:
        assert video.info.alpha


def test_opacity_that_cannot_be_kept_is_laid_over_white(tmp_path: Path) -> None:
    opacity = np.zeros((48, 64), np.uint8)
    opacity[:, 32:] = 255
    black = np.zeros((48, 64, 3), np.uint8)
    with noted(r"a\.mp4: cannot hold opacity"):
        shown = frames_of(encode([(black, 0, opacity)], info_of(alpha=True), tmp_path / "a.mp4"))[0]
    assert shown.alpha is None
    assert shown.image[:, :24].min() > 245
    assert shown.image[:, 40:].max() < 10


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize(
    ("target", "codec", "pix_fmt"),
    [("b.mov", "prores", "yuva444p12le"), ("b.mp4", "hevc", "yuv444p12le"), ("b.mkv", "hevc", "yuv444p12le")],
)
def test_prores_with_opacity(tmp_path: Path, target: str, codec: str, pix_fmt: str) -> None:
    source = tmp_path / "a.mov"
    red = ["-f", "lavfi", "-i", "color=c=red@0.5:s=96x54:d=0.2:r=25,format=yuva444p10le"]
    subprocess.run(["ffmpeg", "-v", "error", *red, "-c:v", "prores_ks", "-profile:v", "4444", str(source)], check=True)
    with notes() as told:
        result = convert(source, tmp_path / target)
    kept = target == "b.mov"
    lost = "12 bits per channel become 10;" if kept else "cannot hold opacity,"  # decoded with 12 bits, encoded with 10
    assert [text.startswith(f"{tmp_path / target}: {lost}") for text in told] == [True]
    with open_source(result) as video:
        assert (video.info.codec, video.info.pix_fmt) == (codec, pix_fmt)
        shown = next(video.frames())
    red_value, _, blue = shown.image[27, 48].astype(float) / 65535
    if kept:
        assert shown.alpha is not None
        assert abs(shown.alpha[27, 48] / 65535 - 0.5) < 0.02
    assert red_value > 0.95
    assert abs(blue - (0 if kept else 0.5)) < 0.05


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    path = encode([(picture(0), 0, None)], info_of(aspect=Fraction(4, 3)), tmp_path / "a.mp4")
    with open_source(path) as video:
        assert video.info.aspect == Fraction(4, 3)
    turned = write_video(tmp_path / "b.mp4", [picture(0)], setup=lambda s: (
        s.set_display_rotation(90), setattr(s.codec_context, "sample_aspect_ratio", Fraction(4, 3))))  # fmt: skip
    with open_source(turned) as video:
        assert video.info.aspect == Fraction(3, 4)
    with noted("show them square"):
        encode([(picture(0), 0, None)], info_of(aspect=Fraction(4, 3)), tmp_path / "c.webm")


@pytest.mark.parametrize("target", ["a.mp4", "a.webm", "b.mkv"])
def test_two_runs_give_the_same_bytes(tmp_path: Path, target: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    results = [convert(CLIP, tmp_path / run / target, end=Fraction(1, 2), cuts=(5,)) for run in ("one", "two")]
    assert results[0].read_bytes() == results[1].read_bytes()


@pytest.mark.parametrize(
    ("target", "encoding", "error", "reason"),
    [
        ("a.avi", Encoding(), OutputError, "cannot write .avi"),
        ("no/a.mp4", Encoding(), OutputError, "no such folder"),
        ("a.mp4", Encoding(codec="h246"), OptionError, "'h246' is unknown or not built in; did you mean h26"),
        ("a.mp4", Encoding(codec="aac"), OptionError, "unknown"),
        ("a.webm", Encoding(codec="h264"), OptionError, "libx264 does not go into .webm"),
        ("a.mp4", Encoding(codec="prores"), OptionError, "prores_ks does not go into .mp4"),
        ("a.mp4", Encoding(pix_fmt="rgb24"), OptionError, "does not take pixel format rgb24; it takes yuv420p"),
        ("a.mkv", Encoding(codec="av1", pix_fmt="nonsense"), OptionError, "pixel format nonsense"),
        ("a.mp4", Encoding(options={"presett": "slow"}), OptionError, "libx264 has no option presett"),
        ("a.mp4", Encoding(options={"preset": "sloow"}), OptionError, "preset=sloow"),
        ("a.mov", Encoding(codec="prores", crf=18), OptionError, "prores_ks has no option crf"),
        ("a.webm", Encoding(crf=99), OptionError, "crf=99"),
        ("a.mp4", Encoding(crf=999), OptionError, "crf=999 is out of range; libx264 takes 0 to 51"),
        ("a.mp4", Encoding(crf=float("nan")), OptionError, "crf=nan"),
        ("%d_%03d.png", Encoding(), OutputError, "holds 2 numbers"),
        ("a.gif", Encoding(codec="h264"), OptionError, "for video files"),
        ("-", Encoding(codec="h264"), OptionError, "y4m or rawvideo"),
    ],
)
def test_bad_encodings_are_refused_before_work(
    tmp_path: Path, target: str, encoding: Encoding, error: type[InputError], reason: str
) -> None:
    path = target if target == "-" else tmp_path / target
    with pytest.raises(error, match=reason) as caught:
        check_encoding(path, info_of(), encoding)
    assert "\n" not in str(caught.value)
    if error is OptionError:
        with pytest.raises(OptionError):
            open_writer(tmp_path / "part", info_of(), encoding, path)
    assert not list(tmp_path.iterdir())
