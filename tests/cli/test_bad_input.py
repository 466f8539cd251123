"""Whatever is wrong with what was asked for: one line that names it, the right exit code, and nothing left behind."""

from __future__ import annotations

import functools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
from onnx import TensorProto, helper
from PIL import Image

from helpers import small_networks as small
from helpers.command_line import command, onnxdream
from helpers.pictures import bad_pictures
from onnxdream.cli.exit_codes import exit_code
from onnxdream.errors import BackendError, ClusterError, OptionError, OutputError, VideoError, WriteError
from onnxdream.networks import registry
from onnxdream.networks.model import load_model

CARD = {"preprocessing": {"channels": "RGB", "mean": [0, 0, 0], "std": [1, 1, 1]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good picture, cat.png 80x60, and everything that is wrong."""
    folder = tmp_path_factory.mktemp("bad")
    cat = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((80, 60), Image.Resampling.BOX))
    bad_pictures(folder, cat)
    Image.fromarray(cat).save(folder / "cat.png")
    Image.fromarray(cat[:1, :1]).save(folder / "pixel.png")
    (folder / "old.png").write_bytes(b"old")
    (folder / "folder").mkdir()
    (folder / "broken.toml").write_text("steps = = 3")
    (folder / "wrong.toml").write_text("stesp = 3")
    bad_networks(folder)
    return folder


def bad_networks(folder: Path) -> None:
    (folder / "random.onnx").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "text.onnx").write_text("this is no network\n")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "folder.onnx").mkdir()
    whole = registry.bundled()["squeezenet1_1"].read_bytes()
    (folder / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.onnx").write_bytes(whole[:-100])
    kernel = small.weights(4, 3, 3, 3)

    def save(name: str, *nodes: onnx.NodeProto, **options: object) -> None:
        onnx.save(small.network(nodes, **options), folder / name)  # type: ignore[arg-type]

    first, last = small.conv("x", "a"), small.conv("b", "out")
    weights = {"w_a": kernel, "w_out": small.weights(4, 4, 3, 3)}
    save(
        "det.onnx",
        *first,
        small.node("Det", ["a"], "b"),
        small.node("Relu", ["b"], "out"),
        w_a=kernel,
        rank=2,
        size=(1, 3, 48, 48),
    )
    custom = small.node("Mystery", ["x"], "b", domain="com.acme")
    save("custom.onnx", custom, *last, domains=["com.acme"], w_out=weights["w_out"])
    save("unknown.onnx", small.node("Mystery", ["x"], "b"), *last, w_out=weights["w_out"])
    nan = kernel.copy()
    nan[1, 1, 1, 1] = np.nan
    save("nan.onnx", *small.conv("x", "out"), w_out=nan)
    save("five.onnx", small.node("Relu", ["x"], "out"), size=(1, 224, 224, 5))
    save("vector.onnx", small.node("Relu", ["x"], "out"), size=("N", 10))
    other = helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, 7])
    save("two.onnx", small.node("Add", ["x", "other"], "a"), *small.conv("a", "out"), w_out=kernel, inputs=[other])
    none = helper.make_graph(
        [helper.make_node("Relu", ["w"], ["out"])], "none", [], [helper.make_tensor_value_info("out", 1, [4, 3, 3, 3])],
        [onnx.numpy_helper.from_array(kernel, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(none, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "none.onnx")
    save("misfit.onnx", *small.conv("x", "out"), w_out=small.weights(4, 5, 3, 3))
    save("flat.onnx", small.node("GlobalAveragePool", ["x"], "out"))

    branch = [
        helper.make_graph(
            [helper.make_node(op, ["a"], ["picked"])], op, [], [helper.make_tensor_value_info("picked", 1, None)]
        )
        for op in ("Relu", "Neg")
    ]
    choose = [
        helper.make_node("ReduceMax", ["a"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "one"], ["bright"]),
        helper.make_node("If", ["bright"], ["b"], name="choice", then_branch=branch[0], else_branch=branch[1]),
    ]
    save("if.onnx", *first, *choose, *last, one=np.array(1, np.float32), **weights)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["going"]), helper.make_node("Relu", ["state"], ["next"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("state", 1, None)],
        [helper.make_tensor_value_info("going", TensorProto.BOOL, []), helper.make_tensor_value_info("next", 1, None)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["three", "", "a"], ["b"], name="again", body=body)
    save("loop.onnx", *first, loop, *last, three=np.array(3), **weights)

    for name, location in (
        ("outside.onnx", "../weights.bin"),
        ("absent.onnx", "absent.bin"),
        ("short.onnx", "short.bin"),
    ):
        proto = small.network(small.conv("x", "out"), w_out=kernel)
        tensor = proto.graph.initializer[0]
        onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=kernel.nbytes)
        tensor.ClearField("raw_data")
        onnx.save(proto, folder / name)
    (folder.parent / "weights.bin").write_bytes(kernel.tobytes())
    (folder / "short.bin").write_bytes(kernel.tobytes()[:100])

    cards = {
        "card_text": "{oops", "card_list": "[1, 2]", "card_bare": '{"name": "x"}',
        "card_std": json.dumps({"preprocessing": {"channels": "RGB", "mean": [0, 0, 0], "std": [1, 0, 1]}}),
        "card_grey": json.dumps({"preprocessing": {"channels": "L", "mean": [0], "std": [1]}}),
        "card_nan": '{"preprocessing": {"channels": "RGB", "mean": [0, 0, NaN], "std": [1, 1, 1]}}',
        "card_labels": json.dumps({**CARD, "labels": "../../secret.txt"}),
        "card_missing_labels": json.dumps({**CARD, "labels": "none.txt"}),
    }  # fmt: skip
    for name, text in cards.items():
        save(f"{name}.onnx", *small.conv("x", "out"), w_out=kernel)
        (folder / f"{name}.json").write_text(text)


def listing(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def fails(folder: Path, *arguments: object, code: int = 2) -> str:
    """Run a command that must fail with one line and leave everything as it was; the line after 'error: '."""
    before = listing(folder)
    done = onnxdream(*arguments, folder=folder)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    assert done.returncode == code, done.stderr
    assert listing(folder) == before
    return done.stderr.removeprefix("error: ").rstrip()


PICTURES = {
    "missing.png": "missing.png: no such file",
    "half.png": "half.png: the picture is damaged or cut off",
    "half.jpg": "half.jpg: the picture is damaged or cut off",
    "half16.png": "half16.png: the picture is damaged or cut off",
    "half.tif": "half.tif: .*(damaged or cut off|not a picture)",
    "text.jpg": "text.jpg: not a picture, or of a kind that cannot be read",
    "empty.png": "empty.png: the file is empty",
    "bomb.png": "bomb.png: 60000x60000 is more than 400,000,000 pixels; make it smaller",
    "folder": "folder: is a folder, not a picture",
    "pixel.png": "a picture of 1x1 is too small for fire8, which needs at least 31x31; enlarge it or choose an earlier",
    "cat.png/x.png": "cat.png/x.png: no such file",
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(folder: Path, name: str) -> None:
    assert re.match(PICTURES[name], fails(folder, "image", name, "-o", "old.png", "--overwrite"))


NETWORKS = {
    "missing.onnx": "missing.onnx: no such file",
    "squeezenet": "no network or file called 'squeezenet'; did you mean squeezenet1_1?",
    "qwertz": "no network or file called 'qwertz'; known are efficientnet_lite0, efficientnet_lite2, googlenet, ",
    "random.onnx": "random.onnx: not an ONNX file",
    "text.onnx": "text.onnx: not an ONNX file",
    "empty.onnx": "empty.onnx: not an ONNX file but empty; download it again",
    "folder.onnx": "folder.onnx: is not a file; name an ONNX file",
    "half.onnx": "half.onnx: not an ONNX file, or only part of one",
    "cut.onnx": "cut.onnx: not ",
    "cat.png": "cat.png: not an ONNX file but a PNG picture",
    "custom.onnx": r"custom.onnx: uses operators outside the ONNX standard \(com.acme.Mystery\); export it",
    "unknown.onnx": r"unknown.onnx: uses operators outside the ONNX standard \(Mystery\); export it",
    "nan.onnx": "nan.onnx: weight w_out holds NaN or infinity; the file is damaged",
    "five.onnx": r"five.onnx: takes 5 channels, and a picture gives 1, 3 or 4 \(grey, RGB, RGB and alpha\); name them",
    "vector.onnx": r"vector.onnx: input x \[N,10\] is not a picture \[N,3,H,W\] or \[N,H,W,3\]; export it",
    "two.onnx": r"two.onnx: takes several inputs \(x \[N,3,H,W\], other \[1,7\]\); give the others a value with",
    "none.onnx": "none.onnx: takes no input, so no picture",
    "misfit.onnx": "misfit.onnx: the shapes in its graph do not match: "
    "the convolution out_before takes 5 channels, not 3",
    "outside.onnx": r"outside.onnx: weight w_out is outside the model's folder \(../weights.bin\); put the weights",
    "absent.onnx": "absent.onnx: its weights are in another file, absent.bin .432 bytes., which is missing; put it",
    "short.onnx": "short.onnx: its weights file short.bin is too short, with 100 of at least 432 bytes; get it",
    "card_text.onnx": "card_text.json: not a usable card: .*; correct it or remove it",
    "card_list.onnx": "card_list.json: not a usable card",
    "card_bare.onnx": "card_bare.json: not a usable card: it has no 'preprocessing'",
    "card_std.onnx": "card_std.json: not a usable card: preprocessing: channels RGB need one mean and one non-zero std",
    "card_grey.onnx": "card_grey.onnx: takes 3 channels but its card gives L",
    "card_nan.onnx": "card_nan.json: not a usable card: preprocessing.mean.2 is nan; input should be a finite number",
    "card_labels.onnx": "card_labels.json: labels '../../secret.txt' must be a file next to the card",
    "card_missing_labels.onnx": "card_missing_labels.json: not a usable card: .*none.txt",
    "flat.onnx": "flat: no layer keeps a spatial grid, so there is nothing to dream with",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(folder: Path, name: str) -> None:
    assert re.match(NETWORKS[name], fails(folder, "image", "cat.png", "-m", name, "-o", "old.png", "--overwrite"))


def test_networks_fail_alike_where_they_are_only_looked_at(folder: Path) -> None:
    assert fails(folder, "layers", "nan.onnx").startswith("nan.onnx: weight w_out holds NaN")
    assert fails(folder, "layers", "squeezenet").endswith("did you mean squeezenet1_1?")


GRADIENTS = {
    "det.onnx": ("the_b", "Det", "a, a_before"),
    "if.onnx": ("choice", "If", "a, a_before"),
    "loop.onnx": ("again", "Loop", "a, a_before"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_operators_without_a_derivative(folder: Path, name: str) -> None:
    node, operator, layers = GRADIENTS[name]
    line = fails(folder, "image", "cat.png", "-m", name, "-l", "out", "-o", "old.png", "--overwrite")
    assert re.search(rf"{node}.*{operator}.*; layers before it that work: {layers}$", line)
    if operator != "If":
        return
    record = onnxdream(
        "image", "cat.png", "-m", name, "-l", layers.split(",")[0], "--steps", 1, "--octaves", 1, "-o", "new.png",
        "--size", 48, folder=folder,
    )  # fmt: skip
    assert record.returncode == 0, record.stderr
    (folder / "new.png").unlink()


def test_external_weights_beside_the_network_work(tmp_path: Path) -> None:
    proto = small.plain()
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    assert (tmp_path / "net.bin").stat().st_size > 1000
    model = load_model(tmp_path / "net.onnx")
    again = {t.name: onnx.numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    np.testing.assert_array_equal(again["w_a"], small.weights(8, 3, 3, 3))


OPTIONS = {
    "-l fire66": r"squeezenet1_1 has no layer 'fire66'; did you mean fire6",
    "-l qwertz": r"squeezenet1_1 has no layer 'qwertz'; see `onnxdream layers squeezenet1_1`",
    "-l fire8 --size 20": "a picture of 20x15 is too small for fire8, which needs at least 31x31",
    "-l fire6:nan": "layer fire6:nan: the weight nan is not a finite number",
    "--channels 512": "layer fire8 has channels 0 to 511; there is no channel 512",
    "--channels 3,x": "channels '3,x' are not numbers and ranges such as 3,5-8",
    "--channels 9-3": "channels '9-3': the range 9-3 runs backwards",
    "--objective l3": "unknown objective 'l3'; objectives are l2, root, centred, power, mean, channel, neuron, logit",
    "--objective neuron": "objective neuron needs --channels",
    "--guide text.jpg": "text.jpg: not a picture",
    "--guide cat.png -l logits": "layer logits has no places to guide; choose one before the network's pooling",
    "--mask missing.png": "missing.png: no such file",
    "--mask empty.png": "empty.png: the file is empty",
    "--preset eye": "no preset called 'eye'; did you mean eyes?",
    "--config missing.toml": r"missing.toml: cannot be read \(No such file or directory\)",
    "--config broken.toml": "broken.toml: not a TOML file: ",
    "--config wrong.toml": "wrong.toml: unknown setting 'stesp'; did you mean steps?",
    "--like cat.png": "cat.png: carries no onnxdream settings",
    "--like bomb.png": "bomb.png: 60000x60000",
    "--octaves 0": "octaves is 0; it must be between 1 and 64",
    "--octaves 99999999999999999999": "octaves is 99999999999999999999",
    "--octaves x": "Invalid value for '--octaves': .*; see `onnxdream image --help`",
    "--octave-scale 1": "octave_scale is 1.0; it must be above 1 and at most 8",
    "--steps -1": "steps is -1; it must be between 0 and 100000",
    "--step-size inf": "step_size is inf; it must be between -255 and 255",
    "--seed -1": "seed is -1; it must be at least 0",
    "--size 0": "Invalid value for '--size'",
    "--size 999999999": "999999999x749999999 is more than 400,000,000 pixels; choose a smaller size",
    "--threads 1000000": "threads is 1000000; it must be between 0 and 1024",
    "--max-memory 1K": "max_memory is 1024; it must be at least 64 MiB, such as 64M or 4G",
    "--max-memory lots": "memory 'lots' is not a size such as 512M or 4G",
    "--device toaster": "unknown device 'toaster'; devices are auto, cuda",
    "--frames 0": "Invalid value for '--frames'",
    "--frames 2 --zoom 9 -o new": "a sequence needs frames from 1, zoom from 0.5 to 2 and .*, not 2, 9.0, 0.0",
    "--frames 2 -o x.png": "x.png: a sequence goes into a folder or a file ending in .gif or .webp",
    "--from-noise 9x9": "--from-noise starts from nothing; leave the picture out",
    "--nonsense": "No such option: --nonsense.*; see `onnxdream image --help`",
    "-o none/x.png": "none/x.png: there is no folder none to write into; create it first",
    "-o cat.png/x.png": "cat.png/x.png: there is no folder cat.png to write into",
    "-o x.mp3": "x.mp3: cannot write .mp3 files; use .png, .jpg",
    "-o x": "x: cannot write a file without an ending",
    "-o cat.png": "cat.png: would overwrite cat.png, which it is made from; choose another name",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(folder: Path, options: str) -> None:
    assert re.match(OPTIONS[options], fails(folder, "image", "cat.png", *options.split()))


COMMANDS = {
    "image": "name at least one picture, or use --from-noise",
    "image --from-noise 0x5": "size '0x5' is not of the form 640x480",
    "image --from-noise big": "size 'big' is not of the form 640x480",
    "image --from-noise 99999x99999": "99999x99999 is more than 400,000,000 pixels; choose a smaller size",
    "image --from-noise 9x9": "a picture of 9x9 is too small for fire8, which needs at least 31x31",
    "image cat.png pixel.png -o new.png": "new.png: several pictures need a folder to go into; create it first",
    "image cat.png half.png/../cat.png": ".*(two of the pictures would go there|no such file)",
    "imagine": "No such command 'imagine'.*; see `onnxdream --help`",
    "layers": "Missing argument '(MODEL|model)'; see `onnxdream layers --help`",
    "--nonsense": "No such option: --nonsense; see `onnxdream --help`",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(folder: Path, line: str) -> None:
    assert re.match(COMMANDS[line], fails(folder, *line.split()))


def test_no_arguments_print_the_help(folder: Path) -> None:
    bare, asked = onnxdream(folder=folder), onnxdream("--help", folder=folder)
    assert (bare.returncode, bare.stdout, bare.stderr) == (0, asked.stdout, "")
    assert "Usage: onnxdream" in bare.stdout


def test_exit_codes() -> None:
    assert exit_code(OptionError("x")) == exit_code(OutputError("x")) == 2
    assert exit_code(WriteError("x")) == exit_code(BackendError("x")) == exit_code(ClusterError("x")) == 1


@pytest.mark.parametrize(
    ("causes", "code"), [([VideoError("x")], 2), ([WriteError("x")], 1), ([WriteError("x"), VideoError("x")], 2)]
)
def test_a_failure_on_the_cluster_has_the_exit_code_of_its_cause(causes: list[Exception], code: int) -> None:
    failure, hinted = ClusterError("x"), ClusterError("x; y")
    failure.__cause__ = ExceptionGroup("failed", causes)
    hinted.__cause__ = failure
    assert exit_code(failure) == exit_code(hinted) == code


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_no_bad_input(folder: Path, tmp_path: Path) -> None:
    import resource

    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    program = command("image", folder / "cat.png", "-o", "new.png", "--octaves", 1, "--steps", 0)
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit)
    assert (done.returncode, done.stderr) == (1, "error: new.png: cannot be written: File too large\n")
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_a_failure(folder: Path) -> None:
    if "cuda" in json.loads(onnxdream("info", "--json", folder=folder).stdout)["devices"]:
        pytest.skip("there is a CUDA device")
    line = fails(folder, "image", "cat.png", "--device", "cuda", code=1)
    assert re.match(
        r"this onnxruntime offers no cuda \(only .*cpu\); install it with `pip install onnxdream\[gpu\]`", line
    )


def test_too_little_memory_is_bad_input(folder: Path) -> None:
    line = fails(folder, "image", "--from-noise", "1500x1500", "--max-memory", "64M", "--octaves", 1)
    assert re.match(r"too little memory to dream a picture of 1500x1500 with fire8; make it smaller or raise", line)
    line = fails(folder, "image", "--from-noise", "700x700", "--max-memory", "64M", "-l", "logits", "--octaves", 1)
    assert re.match(
        r"a picture of 700x700 needs \d+ MiB, and l2\(logits\) looks at all of it, so it cannot be tiled", line
    )


def test_a_batch_goes_on_behind_a_bad_picture(folder: Path, tmp_path: Path) -> None:
    names = ["cat.png", "half.png", "missing.png", "pixel.png"]
    Image.fromarray(skimage.data.coffee()[:60, :80]).save(tmp_path / "coffee.png")
    done = onnxdream(
        "image",
        *names,
        tmp_path / "coffee.png",
        "-o",
        tmp_path,
        "--octaves",
        1,
        "--steps",
        1,
        "--json",
        "-q",
        folder=folder,
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error"] * 3
    assert ["half.png" in lines[0], "missing.png" in lines[1], "1x1 is too small" in lines[2]] == [True] * 3
    record = json.loads(done.stdout)
    assert [Path(p["output"]).name for p in record["pictures"]] == ["cat-dream.png", "coffee-dream.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cat-dream.png", "coffee-dream.png", "coffee.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("sequence", [False, True])
def test_an_interrupt_leaves_nothing_behind(folder: Path, tmp_path: Path, sequence: bool) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    target = ("-o", "new.gif", "--frames", 50) if sequence else ("-o", "old.png", "--overwrite")
    program = command("image", folder / "cat.png", "--steps", 50000, *target, "-q")
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(2.5)  # it dreams by now
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (130, "", "error: interrupted\n")
    assert (tmp_path / "old.png").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["old.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_sequence_keeps_its_whole_frames(folder: Path, tmp_path: Path) -> None:
    program = command(
        "image", folder / "cat.png", "--octaves", 1, "--steps", 3, "--frames", 99999, "-o", "frames", "-q"
    )
    with subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "frames").glob("*.png"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "error: interrupted\n")
    frames = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert frames == [f"{i:05d}.png" for i in range(len(frames))]
    for name in frames:
        with Image.open(tmp_path / "frames" / name) as image:
            image.load()
