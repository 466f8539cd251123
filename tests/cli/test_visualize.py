"""`onnxdream activations`, `visualize` and `atlas` as their users run them, the atlas in a real browser too."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import skimage
from onnx import save

from helpers.command_line import command, onnxdream
from helpers.notes import noted
from helpers.paths import DATA
from helpers.small_networks import classifier, conv, network, node, weights
from onnxdream.images import read_settings
from onnxdream.interpret.targets import class_index
from onnxdream.networks.model import Model

ROCKET = DATA / "rocket.jpg"
QUICK = ("--steps", 8, "--size", 48)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def good(*arguments: object, folder: Path) -> dict[str, Any]:
    done = onnxdream(*arguments, "--json", "--quiet", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_activations(tmp_path: Path) -> None:
    record = good("activations", ROCKET, "-l", "fire4", "-o", "a.png", "--npz", "a.npz", "--top", 6, folder=tmp_path)
    assert record["shape"][0] == 256
    means = [entry["mean"] for entry in record["strongest"]]
    assert len(means) == 6
    assert means == sorted(means, reverse=True)
    raw = np.load(tmp_path / "a.npz")
    assert list(raw["activation"].shape) == record["shape"]
    assert float(raw["mean"].max()) == pytest.approx(means[0])
    assert read_settings(tmp_path / "a.png")["layer"] == "fire4"
    overlaid = ["-l", "fire4", "--channels", "3,9", "--overlay", "--colors", "magma", "-o", "b.png"]
    assert {e["channel"] for e in good("activations", ROCKET, *overlaid, folder=tmp_path)["strongest"]} == {3, 9}
    assert iio.imread(tmp_path / "b.png").shape[2] == 3


def test_layers_without_places_are_bars(tmp_path: Path) -> None:
    coffee = Path(skimage.__file__).parent / "data" / "coffee.png"
    record = good("activations", coffee, "-l", "logits", "--top", 5, "-o", "bars.png", folder=tmp_path)
    assert record["shape"] == [1000]
    assert record["strongest"][0]["channel"] == 967  # espresso
    assert iio.imread(tmp_path / "bars.png").shape == (5 * 22 + 8, 640, 3)


def test_visualize(tmp_path: Path) -> None:
    record = good(
        "visualize", "squeezenet1_1", "-l", "fire3", "--channels", "0-4", *QUICK, "-o", "g.png", folder=tmp_path
    )
    assert [p["label"] for p in record["pictures"]] == ["0", "1", "2", "3", "4"]
    assert all(p["objective"] > 0 for p in record["pictures"])
    assert read_settings(tmp_path / "g.png")["objectives"][4] == "channel(fire3, 4)"
    cat = good(
        "visualize", "squeezenet1_1", "--class", "tabby cat", "--class", 281, *QUICK, "--size", 64, folder=tmp_path
    )
    assert cat["objectives"] == ["neuron(logits, 281)"]
    assert (tmp_path / "squeezenet1_1-logits.png").is_file()


def test_a_class_by_its_name_and_kind(squeezenet: Model) -> None:
    with noted("no class is called 'Tabby Cat'; tabby is shown"):
        assert class_index(squeezenet, "Tabby Cat", 1000) == 281
    assert class_index(squeezenet, "tiger cat", 1000) == 282


def test_visualize_in_other_ways(tmp_path: Path) -> None:
    def labels(*arguments: object) -> list[str]:
        given = ("visualize", "squeezenet1_1", "-l", "fire2", *QUICK, "-o", "w.png", "--overwrite", *arguments)
        return [picture["label"] for picture in good(*given, folder=tmp_path)["pictures"]]

    assert labels("--channels", 7, "--neuron", "--sign", "both", "--recipe", "pixel") == ["7", "-7"]
    assert labels("--interpolate", "3,9", "--frames", 3, "--recipe", "maco") == ["3-9 0%", "3-9 50%", "3-9 100%"]
    assert labels("--channels", 5, "--diversity", 2) == ["5 a", "5 b"]
    assert labels("-l", "fire3", "--channels", "1,2") == ["fire2 1", "fire3 1", "fire2 2", "fire3 2"]
    (tmp_path / "single").mkdir()
    labels("--channels", "1,2", "--objective", "cosine", "-o", "single", "--start", ROCKET)
    assert sorted(p.name for p in (tmp_path / "single").iterdir()) == [
        "squeezenet1_1-fire2-1.png",
        "squeezenet1_1-fire2-2.png",
    ]
    assert iio.imread(tmp_path / "single" / "squeezenet1_1-fire2-1.png").shape == (48, 48, 3)
    labels("--channels", "3,3", "-l", "fire2", "-o", "made/")
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["squeezenet1_1-fire2-3.png"]


def test_interrupted_single_pictures_are_there(tmp_path: Path) -> None:
    arguments = ("visualize", "squeezenet1_1", "-l", "fire4", "--channels", "0-63", "--size", 64, "-o", "single/")
    process = subprocess.Popen(
        command(*arguments, "--steps", 40), cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "single").glob("*.png")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    made = list((tmp_path / "single").iterdir())
    assert 0 < len(made) < 64
    for path in made:
        assert iio.imread(path).shape == (64, 64, 3)
        assert read_settings(path)["objectives"] == [f"channel(fire4, {path.stem.rpartition('-')[2]})"]


def test_channels_that_stay_inactive_are_named(tmp_path: Path) -> None:
    shut = {"w_out": -np.abs(weights(6, 8, 3, 3))}
    shut["w_out"][0] *= -1
    save(network([*conv("x", "a"), *conv("a", "out")], w_a=weights(8, 3, 3, 3), **shut), tmp_path / "shut.onnx")
    done = onnxdream("visualize", "shut.onnx", "-l", "out", *QUICK, "-o", "s.png", folder=tmp_path)
    assert "note: nothing found for 1, 2, 3, 4, 5 of out: inactive everywhere" in done.stderr
    assert good("visualize", "shut.onnx", "-l", "out", *QUICK, "-o", "s.png", "--overwrite", folder=tmp_path)[
        "pictures"
    ][1] == {
        "label": "1",
        "objective": 0,
    }


def test_what_is_no_number_is_an_error(tmp_path: Path) -> None:
    nodes = [*conv("x", "a"), node("Log", ["a_before"], "out")]
    save(network(nodes, w_a=weights(8, 3, 3, 3)), tmp_path / "log.onnx")
    for asked in (["visualize", "log.onnx", *QUICK, "--channels", 1], ["activations", ROCKET, "-m", "log.onnx"]):
        done = onnxdream(*asked, "-l", "out", "-o", "l.png", folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == (
            "error: layer out of log (operator Log) gives NaN or infinity on this picture; "
            "choose a layer before it, such as a_before"
        )
        assert not (tmp_path / "l.png").exists()


def test_names_that_are_too_long_are_shortened(tmp_path: Path) -> None:
    name = "a/" + "very/" * 60 + "long"
    save(network(conv("x", name), outputs=(name,), **{f"w_{name}": weights(4, 3, 3, 3)}), tmp_path / "long.onnx")
    output = good("visualize", "long.onnx", "-l", name, *QUICK, folder=tmp_path)["output"]
    assert (tmp_path / output).is_file()
    assert good("visualize", "long.onnx", "-l", name, *QUICK, "-o", "each/", folder=tmp_path)["output"] == "each"
    assert len(list((tmp_path / "each").iterdir())) == 4
    many = [f"layer_{number:02d}" for number in range(13)]
    nodes = [made for before, layer in zip(["x", *many], many, strict=False) for made in conv(before, layer)]
    shapes = {f"w_{layer}": weights(4, 3 if layer == many[0] else 4, 3, 3) for layer in many}
    save(network(nodes, outputs=(many[-1],), **shapes), tmp_path / "deep.onnx")
    named = [part for layer in many for part in ("-l", layer)]
    output = good("visualize", "deep.onnx", *named, "--channels", 1, "--steps", 1, "--size", 64, folder=tmp_path)
    assert output["output"] == "deep-layer_00-and-12-more.png"


def test_classes_have_signs_and_numbers(strange: Path) -> None:
    (strange / "fixed.json").write_text(
        json.dumps(
            {"preprocessing": {"channels": "RGB", "mean": [0] * 3, "std": [255] * 3}, "labels": ["hen", "b", "c"]}
        )
    )
    both = ("visualize", "fixed.onnx", "--class", "hen", "--class", 7, "--sign", "both", *QUICK, "-o", "c.png")
    labels = [picture["label"] for picture in good(*both, folder=strange)["pictures"]]
    (strange / "fixed.json").unlink()
    assert labels == ["0", "-0", "7", "-7"]


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of 2,000 channels, a classifier without labels, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("strange")
    wide = network(
        [*conv("x", "a", strides=[4, 4]), *conv("a", "out")], w_a=weights(8, 3, 3, 3), w_out=weights(2000, 8, 3, 3)
    )
    save(wide, folder / "wide.onnx")
    save(classifier(size=("N", 3, 48, 64)), folder / "fixed.onnx")
    (folder / "text.png").write_text("no picture")
    (folder / "empty").mkdir()
    (folder / "folder.npz").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("precious")
    (folder / "texts").mkdir()
    (folder / "texts" / "text.png").write_text("no picture")
    return folder


def test_thousands_of_channels_and_no_labels(strange: Path) -> None:
    done = onnxdream("visualize", "wide.onnx", "-l", "out", *QUICK, "-o", "w.png", folder=strange)
    assert done.returncode == 0
    assert "the first 16 of 2000 channels" in done.stderr
    assert (
        good("activations", ROCKET, "-m", "wide.onnx", "-l", "out", "-o", "v.png", folder=strange)["shape"][0] == 2000
    )
    fixed = good("visualize", "fixed.onnx", "--class", 3, *QUICK, "-o", "f.png", folder=strange)
    assert fixed["size"] == [48, 64]
    shown = good("activations", ROCKET, "-m", "fixed.onnx", "-l", "out", "-o", "x.png", folder=strange)
    assert shown["shape"] == [10]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("visualize squeezenet1_1 -l fire5 --channels 256", "channels 0 to 255"),
        ("visualize squeezenet1_1 -l fire55", "did you mean"),
        ("visualize squeezenet1_1 --class tabbi", "did you mean tabby"),
        ("visualize squeezenet1_1 --class 'house of hens'", "no class"),
        ("visualize squeezenet1_1 --class 1000", "no class"),
        ("visualize fixed.onnx --class tabby", "no class names"),
        ("visualize squeezenet1_1 -l fire8 --size 16", "at least"),
        ("visualize squeezenet1_1 --recipe soup", "fourier, maco, pixel"),
        ("visualize squeezenet1_1 --spectrum full", "for --recipe maco"),
        ("visualize squeezenet1_1 --recipe maco --spectrum empty", "contains no pictures"),
        ("visualize squeezenet1_1 --objective joy", "channel, neuron, cosine, layer"),
        ("visualize squeezenet1_1 --sign up", "positive, negative, both"),
        ("visualize squeezenet1_1 -l fire5 --interpolate 3", "two channels"),
        ("visualize squeezenet1_1 -l fire5 --channels 1 --diversity 40", "between 2 and 16"),
        ("visualize squeezenet1_1 -l logits --channels 1 --diversity 2 --steps 8 --size 64", "not spatial"),
        ("visualize squeezenet1_1 --class tabby --channels 3", "choose one"),
        ("visualize squeezenet1_1 --class hen --neuron", "--class and --neuron"),
        ("visualize squeezenet1_1 --class hen --objective cosine", "--class and --objective"),
        ("visualize squeezenet1_1 -l fire5 --class hen", "has 256 channels, not one for each class"),
        ("visualize fixed.onnx --class 10", "classes are 0 to 9"),
        ("visualize squeezenet1_1 --interpolate 1,2 --sign both", "--interpolate and --sign"),
        ("visualize squeezenet1_1 --interpolate 1,1", "two channels"),
        ("visualize squeezenet1_1 --neuron --objective cosine", "--neuron and --objective"),
        ("visualize squeezenet1_1 --objective layer --channels 3", "--objective layer and --channels"),
        ("visualize squeezenet1_1 --frames 5", "--frames is for --interpolate"),
        ("visualize squeezenet1_1 --interpolate 1,2 --frames 0", "frames is 0"),
        ("visualize squeezenet1_1 --diversity-weight 2", "for --diversity"),
        ("visualize wide.onnx -l out --channels all --size 4096 --columns 1", "beyond 65,000"),
        ("visualize wide.onnx -l out --channels 0-99 --size 256 --columns 100 -o g.webp", "more than .webp can hold"),
        ("visualize squeezenet1_1 -o nowhere/new/", "no folder nowhere"),
        ("visualize squeezenet1_1 -o text.png/", "is a file"),
        ("visualize squeezenet1_1 -o full --columns 3", "for one grid"),
        (f"visualize squeezenet1_1 -o {'x' * 300}.png", "File name too long"),
        (f"activations {ROCKET} -o {'x' * 300}.png", "File name too long"),
        (f"activations {ROCKET} -m wide.onnx -l out --tile 2048 --top 512 --columns 1", "beyond 65,000"),
        (
            f"activations {ROCKET} -m wide.onnx -l out --tile 400 --top 100 --columns 50 -o g.webp",
            "more than .webp can hold",
        ),
        (f"activations {ROCKET} -l logits --overlay", "no places"),
        (f"activations {ROCKET} --npz nowhere/x.npz", "nowhere/x.npz: there is no folder nowhere"),
        (f"activations {ROCKET} --npz folder.npz", "folder.npz: is a folder"),
        ("visualize squeezenet1_1 --start text.png", "text.png"),
        ("visualize squeezenet1_1 -o nowhere/g.png", "nowhere"),
        ("visualize squeezenet1_1 -o g.xyz", ".xyz"),
        ("activations text.png", "text.png"),
        (f"activations {ROCKET} --channels 300 -l fire5", "channels 0 to 255"),
        (f"activations {ROCKET} --colors pink", "viridis"),
        (f"activations {ROCKET} --npz a.txt", ".npz"),
        ("atlas squeezenet1_1 -o full", "contains no atlas"),
        ("atlas squeezenet1_1 -o text.png", "text.png"),
        ("atlas squeezenet1_1 -o new --images nowhere", "no such folder"),
        ("atlas squeezenet1_1 -o new --images empty", "contains no pictures"),
        (f"atlas squeezenet1_1 -o new --images {'x' * 300}", "File name too long"),
        (f"visualize squeezenet1_1 -o {'x' * 300}/", "File name too long"),
        (f"atlas squeezenet1_1 -o {'x' * 300} --channels 0", "File name too long"),
        ("atlas squeezenet1_1 -o new --images texts --channels 0 --steps 1", "none of its pictures can be read"),
        ("atlas squeezenet1_1 -o new --channels 5000", "there is no channel 5000"),
        ("atlas squeezenet1_1 -o /proc/atlas --channels 0", "cannot be written"),
    ],
)
def test_bad_input_is_one_clear_line(strange: Path, arguments: str, says: str) -> None:
    before = sorted(strange.rglob("*"))
    done = onnxdream(*shlex.split(arguments), "--quiet", folder=strange)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert sorted(strange.rglob("*")) == before


ATLAS = ("atlas", "squeezenet1_1", "-l", "fire3", "-l", "fire4", "--channels", "0-11", "--steps", 24, "--size", 64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("chelsea.png", "coffee.png", "astronaut.png", "brick.png", "rocket.jpg"):
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)
    (folder / "broken.png").write_text("no picture")
    return folder


@pytest.mark.slow
def test_an_interrupted_atlas_goes_on_where_it_stopped(tmp_path: Path, pictures: Path) -> None:
    arguments = (*ATLAS, "-o", "atlas", "--images", pictures)
    process = subprocess.Popen(command(*arguments), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "atlas" / "fire3"
    until = time.monotonic() + 120
    while not (folder / "channel-0.jpg").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "error: interrupted"
    first = {path.name: path.stat().st_mtime_ns for path in folder.glob("channel-*.jpg")}
    assert 0 < len(first) <= 12
    assert "made so far" in (tmp_path / "atlas" / "index.html").read_text()  # what there is, is shown
    assert not list(tmp_path.rglob(".onnxdream-*"))

    record = good(*arguments, folder=tmp_path)
    assert record["found"] >= len(first)
    assert record["made"] + record["found"] == 24
    assert {n: (folder / n).stat().st_mtime_ns for n in first} == first
    assert good(*arguments, folder=tmp_path)["made"] == 0
    done = onnxdream(*arguments, "--seed", 3, folder=tmp_path)
    assert done.returncode == 2
    assert "other settings (seed)" in done.stderr
    (folder / "channel-3.jpg").write_bytes(b"")  # as a full disk leaves it
    (folder / "statistics.json").write_text('{"3": {"mea')
    again = good(*arguments, folder=tmp_path)
    assert (again["made"], again["found"], again["layers"]) == (1, 23, ["fire3", "fire4"])
    assert (folder / "channel-3.jpg").stat().st_size > 0
    statistics = json.loads((folder / "statistics.json").read_text())["3"]
    assert len(statistics["peaks"]) == 5  # the broken picture is left out
    assert statistics["peaks"] == sorted(statistics["peaks"], reverse=True)
    assert 0 <= statistics["active"] <= 1


def test_networks_of_one_name_do_not_share_an_atlas(tmp_path: Path, pictures: Path) -> None:
    shut = -np.abs(weights(6, 8, 3, 3))
    shut[0] *= -1
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        nodes = [*conv("x", "A"), *conv("A", "a"), *conv("a", "out")]
        mid = {"w_a": np.abs(weights(8, 8, 3, 3)), "w_out": shut}
        save(network(nodes, w_A=weights(8, 3, 3, 3, seed=number), **mid), tmp_path / str(number) / "same.onnx")
    look = ("-l", "all", "--channels", "0-2,0", *QUICK, "--images", pictures, "-o", "atlas")
    done = onnxdream("atlas", "0/same.onnx", *look, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: nothing found for 1, 2 of out: inactive everywhere" in done.stderr
    out = {path.name for path in (tmp_path / "atlas" / "out").iterdir()}
    assert "patches-0.jpg" in out
    assert "patches-1.jpg" not in out  # it answers to no picture
    homes = {path.name.lower() for path in (tmp_path / "atlas").iterdir() if path.is_dir()}
    assert len(homes) == 6  # on disks that take A for a, too
    done = onnxdream("atlas", "1/same.onnx", *look, folder=tmp_path)
    assert done.returncode == 2
    assert "other settings (network)" in done.stderr
    record = good("atlas", "0/same.onnx", "-l", "a", *look[2:], folder=tmp_path)
    assert record["layers"] == ["A_before", "A", "a_before", "a", "out_before", "out"]
    assert (record["made"], record["found"]) == (0, 18)


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the atlas in; `apt-get install chromium`")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_the_atlas_in_a_browser(tmp_path: Path, pictures: Path, browser: Any) -> None:
    arguments = ("--channels", "0-5,281", "--steps", 2, "--size", 64, "--images", pictures, "-o", "atlas")
    layers = ("-l", "fire3/squeeze1x1", "-l", "fire3", "-l", "logits")
    good("atlas", "squeezenet1_1", *layers, *arguments, folder=tmp_path)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    aborted = "net::ERR_ABORTED"  # by going on to the next page
    page.on("requestfailed", lambda request: None if request.failure == aborted else wrong.append(request.url))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url))
    index = (tmp_path / "atlas" / "index.html").as_uri()
    page.goto(index)
    assert page.locator(".layer").count() == 3
    page.fill("#search", "logi")
    assert page.locator(".layer:visible").count() == 1
    page.fill("#search", "fire3 4")
    page.press("#search", "Enter")
    page.wait_for_url("**/fire3.html#c4")
    assert page.locator(".channel").count() == 6
    loaded = "[...document.querySelectorAll('.channel:first-child img')].every(i => i.complete && i.naturalWidth > 0)"
    page.wait_for_function(loaded)
    assert page.locator("img:not([loading=lazy])").count() == 0
    page.fill("#search", "5")
    assert page.locator(".channel:visible").count() == 1
    page.fill("#search", "")
    page.select_option("#sort", "peak")
    peaks = page.eval_on_selector_all(".channel", "all => all.map(e => Number(e.dataset.peak))")
    assert peaks == sorted(peaks, reverse=True)
    page.click(".channel >> nth=0")
    first = page.inner_text("dialog figcaption b")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("dialog figcaption b") != first
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.click("a[rel=next]")
    page.fill("#search", "tabby")
    assert page.locator(".channel:visible").get_attribute("id") == "c281"
    page.press("#search", "Enter")  # and the same key does not close what it opened
    assert page.inner_text("dialog figcaption").startswith("281 tabby")
    page.keyboard.press("Escape")
    page.focus("#c281")
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    for width, height in ((1366, 768), (1280, 720), (1200, 900), (740, 360), (360, 740), (320, 568)):
        page.set_viewport_size({"width": width, "height": height})
        for part in ("figcaption b", ".numbers", ".sketch"):
            box = page.locator(f"dialog {part}").bounding_box()
            assert 0 <= box["x"] < box["x"] + box["width"] <= width
            assert 0 <= box["y"] < box["y"] + box["height"] <= height
        assert page.evaluate("(d => d.scrollHeight <= d.clientHeight)(document.querySelector('dialog'))")
    for query, goes_to in (("tabby", "logits.html#c281"), ("tench", "logits.html#c0"), ("logits", "logits.html")):
        page.goto(index)
        page.fill("#search", query)
        assert page.locator(".layer:visible").count() == 1
        page.press("#search", "Enter")
        page.wait_for_url(f"**/{goes_to}")
    page.goto(index)
    page.fill("#search", "fire3 281")
    page.press("#search", "Enter")
    assert page.inner_text("#count") == "fire3 has no channel 281 here"
    assert page.url == index
    phone = browser.new_page(viewport={"width": 360, "height": 740})
    for name in ("index", "fire3", "logits"):
        phone.goto((tmp_path / "atlas" / f"{name}.html").as_uri())
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wrong == []
