"""Picture files: what is read is what was stored, upright; what is written keeps depth, alpha, profile and settings."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms

from helpers.paths import DATA
from helpers.pictures import bad_pictures, png, png16, png_chunk
from onnxdream import picture_files
from onnxdream.errors import OptionError, OutputError, PictureError, WriteError
from onnxdream.images import (
    Picture,
    check_size,
    check_writable,
    read_picture,
    read_settings,
    resize,
    to_batch,
    write_picture,
    write_whole,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SETTINGS = {"version": "0.1.0", "model": "Füchse.onnx", "layers": ["fire6:0.5", "fire8"], "seed": 7, "steps": 10}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A real photograph, uint8 [96,130,3]."""
    return cv2.resize(skimage.data.chelsea(), (130, 96), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def deep(photo: np.ndarray) -> np.ndarray:
    """The same with 16 bits that are not just 8 bits repeated."""
    return (cv2.GaussianBlur(photo.astype(np.float32), (0, 0), 1.5) * 257).astype(np.uint16)


@pytest.fixture(scope="module")
def see_through(photo: np.ndarray) -> np.ndarray:
    """An alpha channel, uint8 [96,130]: a ramp with holes."""
    alpha = np.broadcast_to(np.linspace(0, 255, photo.shape[1]), photo.shape[:2]).astype(np.uint8).copy()
    alpha[20:40, 50:80] = 0
    return alpha


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp", ".gif"])
def test_colour_pictures_are_read_exactly(tmp_path: Path, photo: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(photo)
    if suffix == ".gif":
        image = image.quantize(64)
    image.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.rgb, np.asarray(image.convert("RGB")))
    assert picture.rgb.dtype == np.float32
    assert (picture.alpha, picture.bits, picture.icc) == (None, 8, None)


def test_a_real_jpeg_is_read_as_pillow_decodes_it() -> None:
    np.testing.assert_array_equal(read_picture(DATA / "rocket.jpg").rgb, np.asarray(Image.open(DATA / "rocket.jpg")))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, photo: np.ndarray, name: str) -> None:
    grey = Image.fromarray(photo).convert("L")
    grey.save(tmp_path / name)
    rgb = read_picture(tmp_path / name).rgb
    assert np.abs(rgb - np.asarray(grey, np.float32)[:, :, None]).max() <= (0 if name in ("a.png", "a.tif") else 40)
    assert np.ptp(rgb, axis=2).max() <= (0 if name != "a.webp" else 6)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_kept_apart(
    tmp_path: Path, photo: np.ndarray, see_through: np.ndarray, mode: str, suffix: str
) -> None:
    image = Image.fromarray(photo).convert("L" if mode == "LA" else "RGB")
    image.putalpha(Image.fromarray(see_through))
    path = tmp_path / f"a{suffix}"
    image.save(path, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    picture = read_picture(path)
    assert picture.alpha is not None
    np.testing.assert_allclose(picture.alpha, see_through / 255, atol=1e-6)
    np.testing.assert_array_equal(picture.rgb, np.asarray(image.convert("RGB")))


def test_palette_with_a_transparent_colour(tmp_path: Path, photo: np.ndarray) -> None:
    image = Image.fromarray(photo).quantize(16)
    image.save(tmp_path / "a.png", transparency=3)
    image.save(tmp_path / "b.png", transparency=bytes(range(0, 256, 16)))
    index = np.asarray(image)
    for name, alpha in (("a.png", np.where(index == 3, 0, 1)), ("b.png", index * 16 / 255)):
        picture = read_picture(tmp_path / name)
        assert picture.alpha is not None
        np.testing.assert_allclose(picture.alpha, alpha, atol=1e-6)
        np.testing.assert_array_equal(picture.rgb, np.asarray(image.convert("RGB")))


def test_one_bit_pictures(tmp_path: Path, photo: np.ndarray) -> None:
    image = Image.fromarray(photo).convert("1")
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb[:, :, 0], np.asarray(image) * 255)


@pytest.mark.parametrize("profile", [None, SRGB], ids=["bare", "with a profile that is not CMYK"])
def test_cmyk_jpeg(tmp_path: Path, photo: np.ndarray, profile: bytes | None) -> None:
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "a.jpg", quality=97, subsampling=0, icc_profile=profile)
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.rgb.shape == photo.shape
    assert np.abs(picture.rgb - photo).mean() < 4


DEEP: dict[str, Callable[[np.ndarray, Path], tuple[np.ndarray, np.ndarray | None]]] = {}


def deep_file(function: Callable[[np.ndarray, Path], tuple[np.ndarray, np.ndarray | None]]):
    DEEP[function.__name__] = function
    return function


@deep_file
def png_rgb(pixels: np.ndarray, path: Path):
    path.write_bytes(png16(pixels, 2))
    return pixels, None


@deep_file
def png_grey(pixels: np.ndarray, path: Path):
    path.write_bytes(png16(pixels[:, :, 0], 0))
    return pixels[:, :, [0, 0, 0]], None


@deep_file
def png_grey_alpha(pixels: np.ndarray, path: Path):
    path.write_bytes(png16(pixels[:, :, :2], 4))
    return pixels[:, :, [0, 0, 0]], pixels[:, :, 1]


@deep_file
def png_rgba(pixels: np.ndarray, path: Path):
    path.write_bytes(png16(np.dstack([pixels, pixels[::-1, :, 0]]), 6))
    return pixels, pixels[::-1, :, 0]


@deep_file
def tiff_rgb(pixels: np.ndarray, path: Path):
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", predictor=True)
    return pixels, None


@deep_file
def tiff_rgb_big_endian(pixels: np.ndarray, path: Path):
    tifffile.imwrite(path, pixels, photometric="rgb", byteorder=">")
    return pixels, None


@deep_file
def tiff_rgb_lzw(pixels: np.ndarray, path: Path):
    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    return pixels, None


@deep_file
def tiff_rgb_in_planes(pixels: np.ndarray, path: Path):
    tifffile.imwrite(path, pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="zlib")
    return pixels, None


@deep_file
def tiff_rgb_in_tiles(pixels: np.ndarray, path: Path):
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(32, 32), bigtiff=True)
    return pixels, None


@deep_file
def tiff_rgba(pixels: np.ndarray, path: Path):
    tifffile.imwrite(path, np.dstack([pixels, pixels[::-1, :, 0]]), photometric="rgb", extrasamples=["unassalpha"])
    return pixels, pixels[::-1, :, 0]


@deep_file
def tiff_grey(pixels: np.ndarray, path: Path):
    tifffile.imwrite(path, pixels[:, :, 0], photometric="minisblack")
    return pixels[:, :, [0, 0, 0]], None


@deep_file
def tiff_grey_white_is_zero(pixels: np.ndarray, path: Path):
    tifffile.imwrite(path, 65535 - pixels[:, :, 0], photometric="miniswhite")
    return pixels[:, :, [0, 0, 0]], None


@pytest.mark.parametrize("kind", DEEP)
def test_sixteen_bits_are_read_in_full(
    tmp_path: Path, deep: np.ndarray, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("a.png" if kind.startswith("png") else "a.tif")
    rgb, alpha = DEEP[kind](deep, path)
    picture = read_picture(path)
    assert picture.bits == 16
    np.testing.assert_allclose(picture.rgb, rgb / 257, atol=1e-4)
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_allclose(picture.alpha, alpha / 65535, atol=1e-6)
    assert capfd.readouterr() == ("", "")  # OpenCV does not speak up


# What is stored, turned upright (Exif 2.3, tag 274).
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda s: s,
    2: lambda s: s[:, ::-1],
    3: lambda s: s[::-1, ::-1],
    4: lambda s: s[::-1],
    5: lambda s: s.swapaxes(0, 1),
    6: lambda s: s.swapaxes(0, 1)[:, ::-1],
    7: lambda s: s[::-1, ::-1].swapaxes(0, 1),
    8: lambda s: s.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "png 16", "tif 16", "tif 16 grey"])
def test_every_orientation_is_read_upright(
    tmp_path: Path, photo: np.ndarray, deep: np.ndarray, kind: str, orientation: int
) -> None:
    path = tmp_path / f"a.{kind[:4].strip()}"
    exif = Image.Exif()
    exif[274] = orientation
    stored, extra = photo, [(274, "H", 1, orientation, True)]
    if kind == "png 16":
        stored = deep / 257
        path.write_bytes(png16(deep, 2, png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))))
    elif kind == "tif 16":
        stored = deep / 257
        tifffile.imwrite(path, deep, photometric="rgb", extratags=extra)
    elif kind == "tif 16 grey":
        stored = deep[:, :, [1, 1, 1]] / 257
        tifffile.imwrite(path, deep[:, :, 1], photometric="minisblack", extratags=extra)
    elif kind == "tif":
        tifffile.imwrite(path, photo, photometric="rgb", extratags=extra)
    else:
        Image.fromarray(photo).save(path, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    if kind == "jpg":
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[:, :, ::-1]
    expected = UPRIGHT[orientation](stored)
    rgb = read_picture(path).rgb
    assert rgb.shape == expected.shape
    np.testing.assert_allclose(rgb, expected, atol=1e-3 if kind != "jpg" else 12)
    assert np.abs(rgb - expected).mean() < 0.5


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".PNG"])
def test_what_is_written_is_read_again(tmp_path: Path, photo: np.ndarray, see_through: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    written = Picture(photo.astype(np.float32) + 0.3, (see_through / 255).astype(np.float32), 8, SRGB)
    write_picture(path, written, SETTINGS)
    again = read_picture(path)
    lossy = suffix in (".jpg", ".jpeg", ".webp")
    if suffix in (".jpg", ".jpeg"):
        assert again.alpha is None
        over_white = photo * written.alpha[:, :, None] + 255 * (1 - written.alpha[:, :, None])
        assert np.abs(again.rgb - over_white).mean() < 4
    else:
        assert again.alpha is not None
        np.testing.assert_allclose(again.alpha, written.alpha, atol=1e-6)
        shown = see_through > 0
        assert np.abs(again.rgb - photo)[shown].mean() <= (4 if lossy else 0)
    assert again.icc == SRGB
    assert again.bits == 8
    assert read_settings(path) == SETTINGS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("icc", [None, SRGB], ids=["no profile", "profile"])
def test_sixteen_bits_are_written_in_full(
    tmp_path: Path, deep: np.ndarray, suffix: str, with_alpha: bool, icc: bytes | None
) -> None:
    path = tmp_path / f"a{suffix}"
    alpha = (deep[::-1, :, 0] / 65535).astype(np.float32) if with_alpha else None
    picture = Picture((deep / 257).astype(np.float32), alpha, 16, icc)
    write_picture(path, picture, SETTINGS)
    again = read_picture(path)
    assert again.bits == 16
    np.testing.assert_allclose(again.rgb, picture.rgb, atol=1e-3)
    assert (again.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_allclose(again.alpha, alpha, atol=1e-5)
    assert again.icc == icc
    assert read_settings(path) == SETTINGS
    # Other readers agree.
    theirs = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(theirs[:, :, 2::-1], deep)
    with Image.open(path) as image:
        image.load()
        assert image.info.get("icc_profile") == icc
    if suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            np.testing.assert_array_equal(file.asarray()[:, :, :3], deep)
            assert file.pages[0].extrasamples == ((2,) if with_alpha else ())


def test_sixteen_bits_become_eight_where_the_format_has_no_more(tmp_path: Path, deep: np.ndarray) -> None:
    write_picture(tmp_path / "a.webp", Picture((deep / 257).astype(np.float32), None, 16))
    assert read_picture(tmp_path / "a.webp").bits == 8


def test_a_grey_profile_is_not_put_on_a_colour_picture(tmp_path: Path, photo: np.ndarray) -> None:
    grey = bytearray(SRGB)
    grey[16:20] = b"GRAY"
    Image.fromarray(photo).convert("L").save(tmp_path / "a.png", icc_profile=bytes(grey))
    assert read_picture(tmp_path / "a.png").icc is None


def test_settings_are_found_in_sequences(tmp_path: Path, photo: np.ndarray) -> None:
    frames = [Picture(photo.astype(np.float32)), Picture(photo[::-1].astype(np.float32))]
    for name in ("a.gif", "a.webp"):
        assert picture_files.write_sequence(tmp_path / name, iter(frames), SETTINGS) == 2
        assert read_settings(tmp_path / name) == SETTINGS
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 2
            assert image.info["loop"] == 0
            assert 80 <= image.info.get("duration", 83) <= 84


def test_foreign_pictures_carry_no_settings(tmp_path: Path, photo: np.ndarray) -> None:
    for name in ("a.png", "a.jpg", "a.webp", "a.tif"):
        Image.fromarray(photo).save(tmp_path / name)
        with pytest.raises(PictureError, match="carries no onnxdream settings"):
            read_settings(tmp_path / name)
    (tmp_path / "b.png").write_bytes(png(1, 1, 8, 2, b"\0\0\0\0", png_chunk(b"tEXt", b"onnxdream\0[1, 2]")))
    with pytest.raises(PictureError, match="carries no onnxdream settings"):
        read_settings(tmp_path / "b.png")


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def interrupted(to: Path) -> None:
        to.write_bytes(b"half")
        raise KeyboardInterrupt

    def full(to: Path) -> None:
        to.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def wrong(to: Path) -> None:
        to.write_bytes(b"whole")
        raise ValueError("this is no network")

    with pytest.raises(WriteError, match=r"a.png: cannot be written: No space left on device"):
        write_whole(path, full)
    with pytest.raises(ValueError, match="this is no network"):
        write_whole(path, wrong)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, interrupted)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    write_whole(path, lambda to: to.write_bytes(b"new") and None)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_an_interruption_at_any_moment_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    began = time.perf_counter()
    for _ in range(20):
        write_whole(tmp_path / "first.txt", lambda to: to.write_text("whole") and None)
    each = (time.perf_counter() - began) / 20
    (tmp_path / "first.txt").unlink()
    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for delay in np.linspace(1e-6, 4 * each, 400):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                for number in range(50):
                    write_whole(tmp_path / f"{number}.txt", lambda to: to.write_text("whole") and None)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 100
    assert {path.read_text() for path in tmp_path.iterdir()} == {"whole"}
    assert not list(tmp_path.glob(".*"))


def test_a_picture_that_cannot_be_encoded_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"16400x1 is more than .webp can hold; use .png"):
        write_picture(path, Picture(np.zeros((1, 16400, 3), np.float32)))
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OutputError, match=r"16400x1 is more than .webp can hold; use .png"):
        check_size(path, (1, 16400))
    check_size(path.with_suffix(".png"), (1, 16400))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xyz", "cannot write .xyz files; use .png"),
        ("a", "cannot write a file without an ending"),
        ("none/a.png", "there is no folder .*none to write into"),
        ("file/a.png", "there is no folder .*file to write into"),
        ("folder.png", "is a folder; name a file in it"),
    ],
)
def test_targets_that_cannot_be_written_are_known_before(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=message):
        check_writable(tmp_path / name)


@pytest.mark.parametrize("read", [read_picture, read_settings])
def test_bad_files_are_named_in_one_line(
    tmp_path: Path, photo: np.ndarray, read: Callable[[Path], object], capfd: pytest.CaptureFixture[str]
) -> None:
    expected = bad_pictures(tmp_path, photo)
    assert len(expected) == 11
    for name, message in expected.items():
        only_settings = read is read_settings and name.startswith(("half", "float"))
        with pytest.raises(PictureError, match=f"{message}|carries no" if only_settings else message) as caught:
            read(tmp_path / name)
        text = str(caught.value)
        assert text.startswith(str(tmp_path / name))
        assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_the_pixel_limit_of_pillow_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(60000, 60000, 8, 2, b"\0"))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PictureError):
        read_picture(tmp_path / "bomb.png")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "array",
    [np.zeros((5, 5)), np.zeros((5, 5, 4)), np.zeros((0, 5, 3)), np.full((5, 5, 3), np.nan), np.full((5, 5, 3), "a")],
    ids=["grey", "four channels", "empty", "NaN", "text"],
)
def test_arrays_that_are_no_pictures_are_refused(array: np.ndarray) -> None:
    with pytest.raises(PictureError):
        to_batch(array)


def test_resizing_keeps_what_it_can(photo: np.ndarray) -> None:
    batch = to_batch(photo)
    assert resize(batch, (96, 130)) is batch
    half = resize(batch, (48, 65))
    np.testing.assert_allclose(half, batch.reshape(1, 3, 48, 2, 65, 2).mean((3, 5)), atol=1e-3)
    assert resize(batch[:, :, :1, :1], (7, 9)).shape == (1, 3, 7, 9)
    assert np.abs(resize(resize(batch, (192, 260)), (96, 130)) - batch).mean() < 2


def test_keep_colors_takes_lightness_from_one_and_colour_from_the_other(photo: np.ndarray) -> None:
    other = cv2.resize(skimage.data.coffee(), (130, 96), interpolation=cv2.INTER_AREA)
    mixed = picture_files.keep_colors(other.astype(np.float32), photo.astype(np.float32))
    light, colour, both = (cv2.cvtColor(p.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for p in (other, photo, mixed))
    inside = (mixed.min(2) > 1) & (mixed.max(2) < 254)  # where the mixture is a colour that a screen can show
    assert inside.mean() > 0.5
    assert np.abs(both[inside][:, 0] - light[inside][:, 0]).max() < 0.5
    assert np.abs(both[inside][:, 1:] - colour[inside][:, 1:]).max() < 1.5


def test_noise_is_seeded_and_smooth() -> None:
    first = picture_files.noise((60, 80), 3)
    np.testing.assert_array_equal(first, picture_files.noise((60, 80), 3))
    assert np.abs(first - picture_files.noise((60, 80), 4)).mean() > 1
    assert first.min() >= 0
    assert first.max() <= 255
    assert picture_files.noise((1, 1), 0).shape == (1, 1, 3)


def test_a_mask_is_its_lightness_or_its_alpha(tmp_path: Path, see_through: np.ndarray) -> None:
    Image.fromarray(see_through).save(tmp_path / "grey.png")
    black = Image.new("RGB", see_through.shape[::-1])
    black.putalpha(Image.fromarray(see_through))
    black.save(tmp_path / "alpha.png")
    white = Image.fromarray(np.dstack([see_through] * 3 + [np.full_like(see_through, 255)]))
    white.save(tmp_path / "opaque.png")
    for name in ("grey.png", "alpha.png", "opaque.png"):
        np.testing.assert_allclose(picture_files.load_mask(tmp_path / name), see_through / 255, atol=1e-6)


def test_a_source_is_brought_to_size(tmp_path: Path, photo: np.ndarray, see_through: np.ndarray) -> None:
    Image.fromarray(np.dstack([photo, see_through])).save(tmp_path / "a.png")
    job = picture_files.Job(tmp_path / "a.png", tmp_path / "out.png")
    picture = picture_files.load_source(job, size=65, noise_size=(0, 0), seed=0)
    assert picture.rgb.shape == (48, 65, 3)
    assert picture.alpha is not None
    assert picture.alpha.shape == (48, 65)
    with pytest.raises(PictureError, match="more than 400,000,000 pixels; choose a smaller size"):
        picture_files.load_source(job, size=100_000, noise_size=(0, 0), seed=0)
    with pytest.raises(PictureError, match="30000x30000"):
        picture_files.load_source(
            picture_files.Job(None, tmp_path / "out.png"), size=None, noise_size=(30000, 30000), seed=0
        )


class TestPlans:
    """Where dreams go."""

    def test_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        a, b = Path("pictures/a.jpg"), Path("pictures/b.x.tif")
        (tmp_path / "out").mkdir()

        def targets(*args: object, **kwargs: object) -> list[str]:
            return [str(j.target) for j in picture_files.plan_jobs(*args, **{"sequence": False, **kwargs})]  # type: ignore[arg-type]

        assert targets([a], None) == ["a-dream.png"]
        assert targets([a, b], None) == ["a-dream.png", "b.x-dream.png"]
        assert targets([a], Path("x.webp")) == ["x.webp"]
        assert targets([a], Path("out")) == ["out/a-dream.png"]
        assert targets([a, b], Path("out")) == ["out/a-dream.png", "out/b.x-dream.png"]
        assert targets([], None, noise_seed=4) == ["noise-4-dream.png"]
        assert targets([], Path("out"), noise_seed=4) == ["out/noise-4-dream.png"]
        assert targets([a], None, sequence=True) == ["a-dream"]
        assert targets([a], Path("out"), sequence=True) == ["out"]
        assert targets([a], Path("new"), sequence=True) == ["new"]
        assert targets([a], Path("x.gif"), sequence=True) == ["x.gif"]
        assert targets([a, b], Path("out"), sequence=True) == ["out/a-dream", "out/b.x-dream"]

    def test_what_cannot_be_done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("a.png", "a-dream.png", "file"):
            Path(name).write_bytes(b"x")
        Path("b.gif").mkdir()
        a = Path("a.png")
        with pytest.raises(OptionError, match="name at least one picture"):
            picture_files.plan_jobs([], None, sequence=False)
        refused = [
            ([a], a, False, "would overwrite a.png, which it is made from"),
            ([a], Path("../") / tmp_path.name / "a.png", False, "would overwrite a.png"),
            ([a, Path("a-dream.png")], None, False, "a-dream.png: would overwrite a-dream.png"),
            ([a, Path("b.png")], Path("c.png"), False, "several pictures need a folder"),
            ([a, Path("other/a.png")], None, False, "would overwrite|two of the pictures would go there"),
            ([Path("x/c.png"), Path("y/c.jpg")], None, False, "two of the pictures would go there"),
            ([a], Path("x.mp4"), True, "a sequence goes into a folder or a file ending in .gif or .webp"),
            ([a], Path("file"), True, "is a file"),
            ([a], Path("b.gif"), True, "is a folder"),
            ([a], Path("none/x"), True, "no folder none to write into"),
        ]
        for sources, out, sequence, message in refused:
            with pytest.raises(OutputError, match=message):
                picture_files.plan_jobs(sources, out, sequence=sequence)
