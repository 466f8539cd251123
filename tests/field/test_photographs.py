"""Photographs as people have them: what their files say is kept, or what is lost is said; pixels are as meant."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, IptcImagePlugin
from PIL.TiffImagePlugin import IFDRational

from helpers.command_line import onnxdream
from helpers.notes import noted, notes
from helpers.pictures import png16, png_chunk
from onnxdream.errors import PictureError
from onnxdream.images import FORMATS, read_picture, read_settings, to_srgb, unkept, write_picture
from onnxdream.picture_files import write_sequence
from onnxdream.video.io.open import open_source

RGB = np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8)
RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (40, 1))
OPACITY = np.linspace(0, 255, 40).astype(np.uint8)[:, None].repeat(64, 1)
IPTC = b"\x1c\x02\x50\x00\x03Ana\x1c\x02\x74\x00\x07(c) Ana"  # By-line and copyright
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:Orientation="6" dc:rights="(c) Ana" GCamera:MotionPhoto="1"/></rdf:RDF></x:xmpmeta>'
)
# Adobe RGB (1998).
WIDE = imagecodecs.cms_profile(
    "rgb", whitepoint=[0.3127, 0.329, 1], primaries=[0.64, 0.33, 1, 0.21, 0.71, 1, 0.15, 0.06, 1], gamma=2.2
)
SETTINGS = {"model": "Füchse", "seed": 7}


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif.update({0x010F: "Camera", 0x0112: 6, 0x8298: "© Ana".encode(), 0x010E: "my holiday", 0x0131: "Lightroom"})
    exif[ExifTags.IFD.Exif] = {
        0x9003: "2024:05:06 07:08:09", 0x829A: IFDRational(1, 125), 0x927C: b"maker\0\1", 0xA002: 64, 0xA003: 40
    }  # fmt: skip
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (IFDRational(48), IFDRational(8), IFDRational(1234, 100))}
    return exif


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A JPEG as a camera and an editor leave it, lying on its side."""
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
    extra = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP) + segment(0xED, b"Photoshop 3.0\0" + resource)
    Image.fromarray(RGB).save(
        tmp_path / "photo.jpg", exif=camera_exif(), dpi=(300, 300), icc_profile=WIDE, extra=extra, comment=b"a comment"
    )
    return tmp_path / "photo.jpg"


# Portraits come out lying down, and without what the camera wrote: upscayl/upscayl#68 and #1488.
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "16.png"])
def test_the_capture_date_and_the_copyright_of_my_photo_are_kept(photograph: Path, ending: str) -> None:
    picture, target = read_picture(photograph), photograph.with_name(f"dream.{ending}")
    assert picture.rgb.shape == (64, 40, 3)
    write_picture(target, replace(picture, bits=16 if ending == "16.png" else 8), SETTINGS)
    with Image.open(target) as image:
        exif = image.getexif()
        details, place = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
        assert image.size == (40, 64)
        assert image.info["icc_profile"] == WIDE
        assert image.info.get("dpi", exif.get(282)) == pytest.approx((300, 300) if ending != "webp" else 300, abs=0.01)
    assert (exif[0x010F], exif[0x010E], exif[0x0131]) == ("Camera", "my holiday", "Lightroom")
    assert "© Ana".encode() in target.read_bytes()
    assert exif.get(0x0112, 1) == 1
    assert (details[0x9003], float(details[0x829A])) == ("2024:05:06 07:08:09", 1 / 125)
    assert (details[0x927C], details[0xA002], details[0xA003]) == (b"maker\0\1", 40, 64)
    assert (place[1], tuple(map(float, place[2]))) == ("N", (48, 8, 12.34))
    again = read_picture(target)
    assert again.rgb.shape == picture.rgb.shape
    assert again.metadata.xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"').replace(
        b' GCamera:MotionPhoto="1"', b""
    )
    assert again.metadata.iptc == (b"" if ending == "webp" else IPTC)
    assert read_settings(target) == SETTINGS
    missing = {
        "webp": ["WebP has no place for IPTC, which is left out", "WebP has no place for texts (Comment), which are"],
        "tif": ["TIFF has no place for texts (Comment), which are left out"],
    }.get(ending, [])
    told = unkept(target, picture, SETTINGS)
    assert len(told) == len(missing)
    assert all(line in text for line, text in zip(missing, told, strict=True))


def test_other_programs_find_the_iptc_records(photograph: Path) -> None:
    for name in ("dream.jpg", "dream.tif"):
        write_picture(photograph.with_name(name), read_picture(photograph))
        with Image.open(photograph.with_name(name)) as image:
            assert IptcImagePlugin.getiptcinfo(image) == {(2, 80): b"Ana", (2, 116): b"(c) Ana"}


def test_a_dream_of_a_dream_has_its_own_settings_once(photograph: Path) -> None:
    for name in ("a.jpg", "a.webp", "a.tif", "a.png"):
        target = photograph.with_name(name)
        write_picture(target, read_picture(photograph), {"seed": 1})
        write_picture(target, read_picture(target), {"seed": 2})
        assert read_settings(target) == {"seed": 2}
        assert target.read_bytes().count(b'{"seed"') == 1


def test_texts_of_a_png_stay_in_png_and_its_copyright_everywhere(tmp_path: Path) -> None:
    texts = [png_chunk(b"tEXt", b"Title\0T"), png_chunk(b"iTXt", b"Copyright\0\0\0\0\0" + "© Ana".encode())]
    (tmp_path / "a.png").write_bytes(png16(RGB.astype(np.uint16) * 257, 2, *texts))
    picture = read_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png", picture)
    write_picture(tmp_path / "b.jpg", picture)
    assert read_picture(tmp_path / "b.png").metadata.texts == (("Title", "T"), ("Copyright", "© Ana"))
    assert read_picture(tmp_path / "b.jpg").metadata.exif.count("© Ana".encode()) == 1
    assert [text.partition(": ")[2] for text in unkept(tmp_path / "b.jpg", picture)] == [
        "JPEG has 8 bits a channel, to which 16 are rounded",
        "JPEG has no place for texts (Title), which are left out",
    ]


def test_damaged_exif_does_not_stop_a_picture(tmp_path: Path) -> None:
    good = camera_exif().tobytes()
    Image.fromarray(RGB).save(tmp_path / "whole.jpg", exif=good)
    whole = (tmp_path / "whole.jpg").read_bytes()
    at = whole.index(good)
    for place in range(6, len(good), 7):
        data = bytearray(whole)
        data[at + place : at + place + 4] = b"\xff\xfe\x7f\x80"
        (tmp_path / "a.jpg").write_bytes(data)
        picture = read_picture(tmp_path / "a.jpg")
        write_picture(tmp_path / "b.tif", picture, SETTINGS)
        write_picture(tmp_path / "b.jpg", picture, SETTINGS)
        assert read_settings(tmp_path / "b.tif") == read_settings(tmp_path / "b.jpg") == SETTINGS


def test_metadata_too_long_for_jpeg_is_said(photograph: Path) -> None:
    picture = read_picture(photograph)
    exif = Image.Exif()
    exif[0x010F] = "x" * 70_000
    picture = replace(picture, metadata=replace(picture.metadata, exif=exif.tobytes(), xmp=XMP + b" " * 70_000))
    write_picture(photograph.with_name("a.jpg"), picture, SETTINGS)
    assert read_settings(photograph.with_name("a.jpg")) == SETTINGS
    told = unkept(photograph.with_name("a.jpg"), picture, SETTINGS)
    assert [text.partition(": ")[2] for text in told] == [
        f"the picture's {name} is longer than JPEG can hold and is left out" for name in ("EXIF", "XMP")
    ]


def test_what_a_target_cannot_hold_is_said_once_each(tmp_path: Path) -> None:
    deep = np.dstack([RGB, OPACITY]).astype(np.uint16) * 257
    (tmp_path / "a.png").write_bytes(png16(deep, 6))
    quick = ("--octaves", 1, "--steps", 1, "--device", "cpu", "-l", "fire2")
    done = onnxdream("image", "a.png", "-o", "a.jpg", *quick, folder=tmp_path)
    assert done.stderr.splitlines()[:2] == [
        "note: a.jpg: JPEG has no opacity; the picture is laid over white",
        "note: a.jpg: JPEG has 8 bits a channel, to which 16 are rounded",
    ]
    done = onnxdream("image", "a.png", "-o", "a.gif", "--frames", 2, *quick, folder=tmp_path)
    assert "note: a.gif: GIF has no half opacity, which becomes all or nothing\n" in done.stderr


# Only the first frame is left of an animation, and nobody says so: inveniosoftware/flask-iiif#41.
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_frame_is_read_and_that_is_said(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]
    frames[0].save(
        tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "w" in name else {})
    )
    what = "pages" if name == "a.tif" else "frames or pictures"
    with noted(f"has 3 {what}, of which only the first is read"):
        picture = read_picture(tmp_path / name)
    np.testing.assert_array_equal(picture.rgb[0, 0], [255, 0, 0])


# White-is-zero photographs come out as negatives: darktable-org/darktable#18815.
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("opacity", [False, True])
def test_a_tiff_in_which_white_is_zero_is_no_negative(tmp_path: Path, bits: int, opacity: bool) -> None:
    scale = 1 if bits == 8 else 257
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = (255 - RAMP.astype(int)) * scale
    stored = np.dstack([pixels, OPACITY.astype(int) * scale] if opacity else [pixels]).astype(kind)
    extra = {"extrasamples": ["unassalpha"]} if opacity else {}
    tifffile.imwrite(tmp_path / "a.tif", stored if opacity else stored[:, :, 0], photometric="miniswhite", **extra)
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_allclose(picture.rgb, RAMP[:, :, None].repeat(3, 2), atol=1e-4)
    assert (picture.alpha is not None) == opacity
    if picture.alpha is not None:
        np.testing.assert_allclose(picture.alpha, OPACITY / 255, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_premultiplied_opacity_does_not_darken(tmp_path: Path, kind: type) -> None:
    scale = 1 if kind == np.uint8 else 257
    multiplied = np.rint(RGB.astype(float) * scale * OPACITY[:, :, None] / 255)
    stored = np.dstack([multiplied, OPACITY.astype(int) * scale]).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_allclose(picture.rgb[20:], RGB[20:], atol=1.1 if kind == np.uint8 else 0.01)
    np.testing.assert_allclose(picture.alpha, OPACITY / 255, atol=1e-6)


def test_a_grey_value_that_means_transparent(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 257
    (tmp_path / "a.png").write_bytes(png16(deep, 0, png_chunk(b"tRNS", struct.pack(">H", int(deep[0, 9])))))
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.alpha, deep != deep[0, 9])
    np.testing.assert_allclose(picture.rgb[:, :, 0], RAMP, atol=1e-4)


def samples(path: Path, pixels: np.ndarray, **tags: object) -> None:
    tifffile.imwrite(path, pixels, photometric="minisblack" if pixels.ndim == 2 else "rgb", **tags)  # type: ignore[arg-type]


RANGES: dict[str, Callable[[Path], None]] = {
    "12 of 16 bits.tif": lambda p: samples(p, RGB.astype(np.uint16) * 257 >> 4, extratags=[(281, "H", 3, (4095,) * 3)]),
    "stated range.tif": lambda p: samples(
        p, RAMP.astype(np.uint16) * 4 + 100, extratags=[(340, "H", 1, 100), (341, "H", 1, 1120)]
    ),
    "0 to 1.tif": lambda p: samples(p, (RGB / 255).astype(np.float32)),
    "32 bits.tif": lambda p: samples(p, RGB.astype(np.uint32) * 0x01010101),
    "10 bits.pgm": lambda p: p.write_bytes(b"P5 64 40 1023\n" + np.rint(RAMP / 255 * 1023).astype(">u2").tobytes()),
    "12 bits.ppm": lambda p: p.write_bytes(b"P6 64 40 4095\n" + np.rint(RGB / 255 * 4095).astype(">u2").tobytes()),
    "12 bits.jp2": lambda p: p.write_bytes(
        imagecodecs.jpeg2k_encode(RGB.astype(np.uint16) * 257 >> 4, bitspersample=12, level=0)
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_samples_whose_white_is_another_number(tmp_path: Path, name: str) -> None:
    RANGES[name](tmp_path / name)
    picture = read_picture(tmp_path / name)
    expected = RAMP[:, :, None].repeat(3, 2) if "stated" in name or "pgm" in name else RGB
    assert picture.bits == 16
    np.testing.assert_allclose(picture.rgb, expected, atol=0.15)


def test_samples_whose_white_is_not_known_are_refused(tmp_path: Path) -> None:
    for number, pixels in enumerate((RAMP.astype(np.float32), RAMP.astype(np.int16), RAMP.astype(np.int8))):
        samples(tmp_path / f"{number}.tif", pixels)
        with pytest.raises(PictureError, match="do not tell black and white; save it as 16-bit PNG"):
            read_picture(tmp_path / f"{number}.tif")


def test_ten_bits_of_which_eight_are_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(RGB.astype(np.uint16) << 2, level=100, bitspersample=10))
    with noted("a.avif: has 10 bits a channel, of which 8 are read"):
        read_picture(tmp_path / "a.avif")


def test_a_profile_becomes_srgb_where_pictures_move(tmp_path: Path) -> None:
    flat = np.full((40, 64, 3), (180, 90, 60), np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.png", icc_profile=WIDE)
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.rgb, flat)
    moved = to_srgb(picture)
    np.testing.assert_allclose(moved.rgb[0, 0], [204.9, 89.5, 55.5], atol=0.1)
    assert moved.icc is None
    for name in ("a.gif", "a.webp"):
        write_sequence(tmp_path / name, iter([picture, replace(picture, rgb=picture.rgb[::-1])]), SETTINGS)
        with notes():
            np.testing.assert_allclose(read_picture(tmp_path / name).rgb[0, 0], moved.rgb[0, 0], atol=3)
    (tmp_path / "frames").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "frames" / "0.png")
    with open_source(tmp_path / "frames") as source:
        np.testing.assert_allclose(next(source.frames()).rgb[0, 0], moved.rgb[0, 0], atol=0.6)


def test_opacity_is_kept_in_sequences(tmp_path: Path) -> None:
    picture = replace(read_picture_of(tmp_path, np.dstack([RGB, np.where(OPACITY > 99, 255, 0).astype(np.uint8)])))
    for name in ("a.gif", "a.webp"):
        write_sequence(tmp_path / name, iter([picture, picture]), SETTINGS)
        again = read_picture(tmp_path / name)
        np.testing.assert_array_equal(again.alpha, picture.alpha)


def read_picture_of(folder: Path, pixels: np.ndarray):
    Image.fromarray(pixels).save(folder / "pixels.png")
    return read_picture(folder / "pixels.png")


def boxes(brand: bytes) -> bytes:
    return struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, brand) + b"\0" * 100


KINDS = {
    "a.psd": (
        b"8BPS\0\1" + b"\0" * 50,
        "is a Photoshop document; convert it first, as with `magick 'a.psd.0.' out.png`",
    ),
    "a.svg": (b'<?xml version="1.0"?>\n<svg width="9"/>', "is an SVG drawing; .*rsvg-convert a.svg"),
    "a.exr": (b"\x76\x2f\x31\x01\2\0\0\0", "is an OpenEXR picture; .*magick a.exr"),
    "a.pdf": (b"%PDF-1.7\n", "is a PDF document; .*pdftoppm"),
    "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript file; .*gs "),
    "a.cr3": (boxes(b"crx "), "is a camera's raw photograph; .*darktable-cli"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 50, "is a camera's raw photograph"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "is a camera's raw photograph"),
    "a.mp4": (boxes(b"isom"), "is a video; use `onnxdream video`"),
    "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS, .*git lfs pull"),
    "html.jpg": (b"<!DOCTYPE html><html>", "is a web page, such as a login or an error; download the file itself"),
    "zip.png": (b"PK\3\4", "is a ZIP archive"),
}


# Phones write HEIC, and all that is said is "cannot identify image file":
# gradio-app/gradio#7482, python-pillow/Pillow#4163.
@pytest.mark.parametrize("name", KINDS)
def test_what_a_file_is_and_what_converts_it(tmp_path: Path, name: str) -> None:
    data, says = KINDS[name]
    (tmp_path / name).write_bytes(data)
    done = onnxdream("image", name, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.match(f"error: {name}: {says}", done.stderr)


def test_a_raw_photograph_is_not_taken_for_its_preview(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.nef") as file:
        file.write(RGB, photometric="rgb", subfiletype=1, subifds=1)
        file.write(
            RAMP.astype(np.uint16), photometric=32803, extratags=[(33421, "H", 2, (2, 2)), (33422, "B", 4, bytes(4))]
        )
    with pytest.raises(PictureError, match="is a camera's raw photograph; develop it first"):
        read_picture(tmp_path / "a.nef")


@pytest.mark.parametrize("package", ["pillow_heif", "pillow_jxl"])
def test_heic_and_jpeg_xl_are_read_where_a_package_reads_them(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = pytest.importorskip(package)
    path = tmp_path / "a.jpg"  # as phones and messengers name them
    flat = np.full((48, 64, 3), (200, 90, 40), np.uint8)
    if package == "pillow_heif":
        plugin.from_pillow(Image.fromarray(flat)).save(path, format="HEIF", quality=-1, exif=camera_exif().tobytes())
    else:
        path.write_bytes(imagecodecs.jpegxl_encode(flat, lossless=True))
    picture = read_picture(path)
    np.testing.assert_allclose(picture.rgb, np.broadcast_to([200, 90, 40], picture.rgb.shape), atol=3)
    if package == "pillow_heif":
        write_picture(tmp_path / "b.jpg", picture)
        with Image.open(tmp_path / "b.jpg") as image:
            assert image.getexif()[0x010E] == "my holiday"
            assert image.getexif().get(0x0112, 1) == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    kind, package = {
        "pillow_heif": ("a HEIC picture", "pillow-heif"), "pillow_jxl": ("a JPEG XL picture", "pillow-jxl-plugin")
    }[package]  # fmt: skip
    with pytest.raises(PictureError, match=f"is {kind}; run `pip install {package}`, or convert it with"):
        read_picture(path)


def test_only_formats_that_are_meant_are_let_in(tmp_path: Path) -> None:
    assert "EPS" not in FORMATS
    for name in ("a.pcx", "a.sgi", "a.dds", "a.im"):
        Image.fromarray(RGB).save(tmp_path / name)
        with pytest.raises(PictureError, match=r"not a picture, or of a kind that cannot be read|DirectDraw"):
            read_picture(tmp_path / name)
