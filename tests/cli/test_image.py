"""The command line, run as its users run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image

import onnxdream
from helpers import command_line
from helpers import small_networks as small
from helpers.breadth import everyday
from helpers.paths import DATA
from onnxdream.images import read_picture, read_settings
from onnxdream.picture_files import zoomed
from onnxdream.settings import PRESETS

QUICK = ("--octaves", 2, "--steps", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real photographs: rocket.jpg 160x107, cat.png 120x80 and coffee.webp 120x80."""
    folder = tmp_path_factory.mktemp("pictures")
    with Image.open(DATA / "rocket.jpg") as rocket:
        rocket.resize((160, 107), Image.Resampling.BOX).save(folder / "rocket.jpg", quality=95)
    for name, data in (("cat.png", skimage.data.chelsea()), ("coffee.webp", skimage.data.coffee())):
        Image.fromarray(data).resize((120, 80), Image.Resampling.BOX).save(folder / name)
    return folder


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    done = command_line.onnxdream(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done


def dream(folder: Path, *arguments: object) -> dict[str, Any]:
    """Run `onnxdream image … --json` and return the one object that it prints."""
    done = run(folder, "image", *arguments, "--json")
    assert done.stdout.count("\n") == 1
    record = json.loads(done.stdout)
    assert isinstance(record, dict)
    return record


class TestImage:
    def test_one_picture_under_its_default_name(self, pictures: Path, tmp_path: Path) -> None:
        done = run(tmp_path, "image", pictures / "rocket.jpg", *QUICK)
        assert done.stdout == ""
        assert re.fullmatch(
            r"rocket-dream\.png squeezenet1_1 l2\(fire8\) x\d+\.\d in \d+\.\d s on CPUExecutionProvider\n", done.stderr
        )
        assert [p.name for p in tmp_path.iterdir()] == ["rocket-dream.png"]
        dreamed, source = (read_picture(p).rgb for p in (tmp_path / "rocket-dream.png", pictures / "rocket.jpg"))
        assert dreamed.shape == source.shape
        assert 1 < np.abs(dreamed - source).mean() < 30

    def test_json_says_what_was_done(self, pictures: Path, tmp_path: Path) -> None:
        layers = ("-l", "fire4", "-l", "fire6:0.5")
        record = dream(tmp_path, pictures / "rocket.jpg", "-o", "a.png", *layers, *QUICK)
        assert set(record) == {
            "model", "layer", "objective", "seconds_total", "source", "output", "provider", "seconds", "steps",
            "frames", "objective_before", "objective_after",
        }  # fmt: skip
        assert record["model"] == "squeezenet1_1"
        assert record["layer"] == "fire4, fire6"
        assert record["objective"] == "l2(fire4) + 0.5*l2(fire6)"
        assert record["provider"] == "CPUExecutionProvider"
        assert (record["output"], record["steps"], record["frames"]) == ("a.png", 4, 1)
        assert record["objective_after"] > record["objective_before"] > 0
        assert 0 < record["seconds"] <= record["seconds_total"]

    def test_several_pictures(self, pictures: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        names = ("rocket.jpg", "cat.png", "coffee.webp")
        record = dream(tmp_path, *(pictures / n for n in names), "-o", "out", *QUICK)
        assert set(record) == {"model", "layer", "objective", "seconds_total", "pictures"}
        targets = [f"out/{Path(n).stem}-dream.png" for n in names]
        assert [p["output"] for p in record["pictures"]] == targets
        assert sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "out").iterdir()) == sorted(targets)
        # What is dreamed before or after a picture changes nothing about it.
        (tmp_path / "reverse").mkdir()
        run(tmp_path, "image", *(pictures / n for n in reversed(names)), "-o", "reverse", *QUICK)
        for target in targets:
            again = tmp_path / target.replace("out/", "reverse/")
            assert again.read_bytes() == (tmp_path / target).read_bytes()

    @pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.tif", "A.PNG"])
    def test_the_ending_chooses_the_format(self, pictures: Path, tmp_path: Path, name: str) -> None:
        run(tmp_path, "image", pictures / "cat.png", "-o", name, "--octaves", 1, "--steps", 1, "-q")
        kinds = {".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".png": "PNG"}
        with Image.open(tmp_path / name) as image:
            assert image.format == kinds[Path(name).suffix.lower()]
        assert read_settings(tmp_path / name)["steps"] == 1

    def test_quiet_is_silent(self, pictures: Path, tmp_path: Path) -> None:
        done = run(tmp_path, "image", pictures / "cat.png", "--quiet", "--octaves", 9, "--steps", 1)
        assert (done.stdout, done.stderr) == ("", "")
        noisy = run(tmp_path, "image", pictures / "cat.png", "--octaves", 9, "--steps", 1)
        assert noisy.stderr.startswith("note: 6 of 9 octaves left out: fire8 needs 31x31\ncat-dream.png squeezenet1_1")

    @pytest.mark.parametrize("name", everyday(["a.jpg", "a.png"], 2))
    def test_like_dreams_again_as_that_one_was_made(self, pictures: Path, tmp_path: Path, name: str) -> None:
        options = ("-m", "efficientnet_lite0", "-l", "block5:1.0", "--seed", 9, "--step-size", 2.25, "--smooth", 0.5)
        more = ("--jitter", 8, "--keep-colors", *QUICK)
        run(tmp_path, "image", pictures / "rocket.jpg", "-o", name, *options, *more, "-q")
        again = f"again{Path(name).suffix}"
        run(tmp_path, "image", pictures / "rocket.jpg", "-o", again, "--like", name, "-q")
        assert (tmp_path / name).read_bytes() == (tmp_path / again).read_bytes()
        assert read_settings(tmp_path / name) == {
            "version": onnxdream.__version__, "model": "efficientnet_lite0", "inputs": [], "layers": ["block5:1.0"],
            "also": [], "objective": "l2", "exponent": 4.0, "channels": [], "guide": "", "octaves": 2,
            "octave_scale": 1.4, "steps": 2, "step_size": 2.25, "jitter": 8, "bands": [0.3, 1.0, 1.0, 0.3],
            "colors": "natural", "headroom": 20.0, "smooth": 0.5, "half": False, "seed": 9, "keep_colors": True,
        }  # fmt: skip

    def test_settings_come_in_layers(self, pictures: Path, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text('steps = 1\noctaves = 2\nlayers = ["fire3"]\nkeep_colors = true\n')
        options = ("--preset", "jewels", "--config", "a.toml", "--seed", 2)
        run(tmp_path, "image", pictures / "cat.png", "-o", "a.png", *options, "-q")
        stored = read_settings(tmp_path / "a.png")
        expected = {"steps": 1, "octaves": 2, "layers": ["fire3"], "smooth": 0.5, "seed": 2, "keep_colors": True}
        assert {k: stored[k] for k in expected} == expected

    def test_presets(self, pictures: Path, tmp_path: Path) -> None:
        record = dream(tmp_path, pictures / "cat.png", "-p", "ribbons", *QUICK)
        assert record["model"] == PRESETS["ribbons"]["model"]
        assert record["layer"] == PRESETS["ribbons"]["layers"][0]

    def test_objectives(self, pictures: Path, tmp_path: Path) -> None:
        cases = {
            ("-l", "fire5", "--channels", "3,5-7"): "channel(fire5, 3, 5, 6, 7)",
            (
                "-l",
                "fire5/expand3x3/conv",
                "--objective",
                "neuron",
                "--channels",
                "3",
            ): "neuron(fire5/expand3x3/conv, 3)",
            ("--objective", "logit", "--channels", "285"): "neuron(logits, 285)",
            ("--guide", pictures / "coffee.webp"): "guide(fire8)",
        }
        for options, objective in cases.items():
            record = dream(tmp_path, pictures / "cat.png", *options, *QUICK)
            assert record["objective"] == objective
            assert record["objective_after"] > record["objective_before"]
        done = run(tmp_path, "image", pictures / "cat.png", "-l", "fire5:0", *QUICK)
        assert done.stderr.startswith("note: 0*l2(fire5) does not respond to this picture, so nothing was dreamed\n")

    def test_mask_and_keep_colors(self, pictures: Path, tmp_path: Path) -> None:
        mask = np.zeros((8, 12), np.uint8)
        mask[:, :6] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        source = read_picture(pictures / "cat.png").rgb
        run(tmp_path, "image", pictures / "cat.png", "--mask", "mask.png", "-o", "a.png", *QUICK, "-q")
        change = np.abs(read_picture(tmp_path / "a.png").rgb - source)
        assert change[:, :50].mean() > 1
        assert change[:, 72:].max() <= 1
        free = ("--colors", "free")
        run(tmp_path, "image", pictures / "cat.png", "--keep-colors", "-o", "b.png", *QUICK, *free, "-q")
        run(tmp_path, "image", pictures / "cat.png", "-o", "c.png", *QUICK, *free, "-q")
        kept, changed = (
            np.abs(np.diff(read_picture(tmp_path / n).rgb, axis=2) - np.diff(source, axis=2)).mean()
            for n in ("b.png", "c.png")
        )
        assert kept < 0.5 * changed

    def test_size(self, pictures: Path, tmp_path: Path) -> None:
        run(tmp_path, "image", pictures / "rocket.jpg", "--size", 80, "-o", "a.png", *QUICK, "-q")
        assert read_picture(tmp_path / "a.png").rgb.shape == (54, 80, 3)
        run(tmp_path, "image", pictures / "cat.png", "--size", 180, "-o", "b.png", *QUICK, "-q")
        assert read_picture(tmp_path / "b.png").rgb.shape == (120, 180, 3)

    def test_from_noise(self, tmp_path: Path) -> None:
        record = dream(tmp_path, "--from-noise", "160x120", *QUICK, "--seed", 6)
        assert record["source"] is None
        assert record["output"] == "noise-6-dream.png"
        picture = read_picture(tmp_path / "noise-6-dream.png").rgb
        assert picture.shape == (120, 160, 3)
        assert 10 < picture.std() < 100

    def test_sixteen_bits_alpha_and_profile_survive(self, tmp_path: Path) -> None:
        deep = (cv2.resize(skimage.data.chelsea(), (90, 60)).astype(np.uint16) * 257)[:, :, ::-1]
        alpha = np.linspace(0, 65535, 90).astype(np.uint16)[None].repeat(60, 0)
        cv2.imwrite(str(tmp_path / "deep.png"), np.dstack([deep, alpha]))
        run(tmp_path, "image", "deep.png", "-o", "a.tif", *QUICK, "-q")
        dreamed = read_picture(tmp_path / "a.tif")
        assert dreamed.bits == 16
        assert dreamed.alpha is not None
        np.testing.assert_allclose(dreamed.alpha, alpha / 65535, atol=1e-5)
        assert (np.rint(dreamed.rgb * 257) % 257 != 0).mean() > 0.5  # more than 8 bits of dream

    def test_odd_names(self, pictures: Path, tmp_path: Path) -> None:
        names = ["[bold]a b.png", ":cat: ü.png", "-x.png"]
        for name in names:
            (tmp_path / name).write_bytes((pictures / "cat.png").read_bytes())
        done = run(tmp_path, "image", "--octaves", 1, "--steps", 1, "--", *names)
        for name in names:
            assert f"{Path(name).stem}-dream.png squeezenet1_1" in done.stderr
            assert (tmp_path / f"{Path(name).stem}-dream.png").is_file()


class TestSequences:
    def test_into_a_folder(self, pictures: Path, tmp_path: Path) -> None:
        options = ("--frames", 3, "--zoom", 1.2, "--rotate", 5, *QUICK)
        record = dream(tmp_path, pictures / "cat.png", "-o", "tunnel", *options)
        assert (record["frames"], record["steps"], record["output"]) == (3, 12, "tunnel")
        frames = sorted((tmp_path / "tunnel").iterdir())
        assert [p.name for p in frames] == ["00000.png", "00001.png", "00002.png"]
        first, second, third = (read_picture(p).rgb for p in frames)
        assert first.shape == third.shape == (80, 120, 3)
        assert np.abs(second - first).mean() > 5
        assert read_settings(frames[2])["seed"] == 0

        # The second frame starts from the first, enlarged and turned about its middle.
        def correlation(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.corrcoef(a[20:60, 30:90].ravel(), b[20:60, 30:90].ravel())[0, 1])

        assert correlation(second, zoomed(first, 1.2, 5)) > 0.9 > correlation(second, zoomed(first, 1.2, -5)) + 0.02

    def test_without_a_name(self, pictures: Path, tmp_path: Path) -> None:
        run(tmp_path, "image", pictures / "cat.png", "--frames", 2, *QUICK, "-q")
        assert sorted(p.name for p in (tmp_path / "cat-dream").iterdir()) == ["00000.png", "00001.png"]

    @pytest.mark.parametrize("name", ["a.gif", "a.webp"])
    def test_into_an_animation(self, tmp_path: Path, name: str) -> None:
        run(tmp_path, "image", "--from-noise", "64x48", "-o", name, "--frames", 3, *QUICK, "-q")
        with Image.open(tmp_path / name) as image:
            assert (image.n_frames, image.size, image.info["loop"]) == (3, (64, 48), 0)  # type: ignore[attr-defined]
        assert read_settings(tmp_path / name)["octaves"] == 2
        assert [p.name for p in tmp_path.iterdir()] == [name]


class TestLooking:
    def test_models(self, tmp_path: Path) -> None:
        text = run(tmp_path, "models").stdout
        for word in ("squeezenet1_1", "efficientnet_lite0", "Apache-2.0", "fire6", *PRESETS):
            assert word in text
        record = json.loads(run(tmp_path, "models", "--json").stdout)
        assert {"efficientnet_lite0", "squeezenet1_1"} <= {m["name"] for m in record["models"]}
        assert set(record["models"][0]) == {
            "name", "title", "licence", "source", "sha256", "recommended", "bytes", "downloaded", "file", "urls",
        }  # fmt: skip
        assert set(record["presets"]) == set(PRESETS)

    def test_layers(self, tmp_path: Path) -> None:
        text = run(tmp_path, "layers", "squeezenet1_1").stdout
        assert re.search(r"\*\s+fire6\s+Concat\s+384\s+16\s+\d+ px", text)
        assert "everything" in text
        record = json.loads(run(tmp_path, "layers", "squeezenet1_1", "--json").stdout)
        assert record["model"] == "squeezenet1_1"
        fire6 = next(at for at in record["layers"] if at["name"] == "fire6")
        assert fire6.pop("receptive_field") > 100
        assert fire6 == {
            "name": "fire6", "operator": "Concat", "channels": 384, "spatial": True, "stride": 16, "recommended": True,
        }  # fmt: skip
        assert record["layers"][-1]["receptive_field"] is None

    def test_layers_of_a_file_without_a_card(self, tmp_path: Path) -> None:
        onnx.save(small.plain(), tmp_path / "net[1].onnx")
        done = run(tmp_path, "layers", "net[1].onnx")
        assert done.stderr == "note: net[1].onnx comes without a card; ImageNet's RGB mean and deviation are assumed\n"
        assert "net[1]" in done.stdout
        assert "a_before" in done.stdout

    def test_info(self, tmp_path: Path) -> None:
        text = run(tmp_path, "info").stdout
        assert "CPUExecutionProvider" in text
        record = json.loads(run(tmp_path, "info", "--json").stdout)
        assert record["devices"]["cpu"] == "CPUExecutionProvider"
        assert record["versions"]["onnxdream"] == onnxdream.__version__
        assert isinstance(record["problems"], list)

    def test_version_and_help(self, tmp_path: Path) -> None:
        assert run(tmp_path, "--version").stdout.strip() == onnxdream.__version__
        for arguments, words in (
            (("--help",), ("image", "models", "layers", "info")),
            (("image", "--help"), ("--preset", "--guide", "--from-noise", "--max-memory")),
            (("layers", "-h"), ("--json",)),
        ):
            text = run(tmp_path, *arguments).stdout
            for word in words:
                assert word in text
        script = Path(sys.executable).parent / "onnxdream"
        assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.strip()

    def test_a_reader_that_goes_away(self, tmp_path: Path) -> None:
        program = command_line.command("layers", "efficientnet_lite0", "--json")
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert b"Traceback" not in process.stderr.read()
