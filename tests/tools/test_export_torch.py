"""torchvision's architectures through the export tool: names, outputs, and gradients against torch's autograd."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from helpers import torchvision_operators
from helpers.command_line import onnxdream
from helpers.float64 import run_float64
from helpers.paths import DATA, ROOT
from onnxdream import objectives
from onnxdream.dream.step_graph import build_gradient_model, build_step_model
from onnxdream.engines.select import select
from onnxdream.networks.model import Model, load_model

torchvision_operators.declare()
if importlib.util.find_spec("torchvision") is None:  # it takes seconds to import
    pytest.skip("torchvision is not installed", allow_module_level=True)

from tools import export_torch  # noqa: E402  (needs the operators declared)

QUICK = ("squeezenet1_1", "resnet18")
ARCHITECTURES = (
    "alexnet", "vgg11", "googlenet", "inception_v3", "resnet50", "resnext50_32x4d", "densenet121", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0",
    "efficientnet_v2_s", "regnet_y_400mf", "regnet_x_400mf", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t",
    "maxvit_t", "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn/backbone",
)  # fmt: skip
# Sizes that are computed in floating point, attention over reduced pictures, splits and unfolded patches.
TIMM = (
    "tf_efficientnet_lite0", "mobilevit_xxs", "pvt_v2_b0", "resnest14d", "edgenext_xx_small", "hrnet_w18_small",
)  # fmt: skip


def random_source(name: str) -> export_torch.Source:
    """The architecture, or NAME/MODULE of it, with seeded random weights and lively batch-norm statistics."""
    torch.manual_seed(0)
    name, _, part = name.partition("/")
    source = export_torch.open_source(name if ":" in name else f"torchvision:{name}", pretrained=False)
    source.network = source.network.get_submodule(part)
    for module in source.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    source.network.eval().requires_grad_(False)
    return source


def three_depths(model: Model, source: export_torch.Source) -> list[str]:
    """Names of layers a third, two thirds and nearly all of the way in that are modules giving one tensor."""
    gives: dict[str, object] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, path=path: gives.__setitem__(path, output))
        for path, module in source.network.named_modules()
    ]
    with torch.no_grad():
        source.network(torch.zeros(1, 3, *source.size))
    for hook in hooks:
        hook.remove()
    outputs = {model.card.aliases.get(p, p): p for p, given in gives.items() if p and isinstance(given, Tensor)}
    # The mean square of what a layer normalisation puts out is a constant, and its gradient rounding errors.
    names = [outputs[n] for n, at in model.layers.items() if n in outputs and at.operator != "LayerNormalization"]
    return [names[round((len(names) - 1) * share)] for share in (0.3, 0.6, 0.95)]


def torch_gradient(source: export_torch.Source, path: str, image: np.ndarray) -> tuple[np.ndarray, float]:
    """d mean(a²) / d image for the output a of the module at `path`, in float64, and the objective."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _inputs: object, output: object) -> None:
        caught.append(export_torch._first_tensor(output).clone())  # before the next module writes into it

    handle = source.network.get_submodule(path).register_forward_hook(catch)
    x = torch.from_numpy(image).double().requires_grad_()
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in (source.mean, source.std))
    source.network.double()((x - mean) / std)
    handle.remove()
    objective = caught[-1].square().mean()
    (gradient,) = torch.autograd.grad(objective, x)
    source.network.float()
    return gradient.numpy(), objective.item()


def errors(source: export_torch.Source, model: Model, path: str) -> tuple[float, float]:
    """Relative errors of the gradient: the largest in float64, and the root mean square in float32 onnxruntime."""
    low = model.smallest_picture([path])
    size = model.fixed_input_size([path]) or model.nearest_size([path], (max(96, low[0]), max(96, low[1])))
    height, width = size
    image = np.random.default_rng(3).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
    expected, objective = torch_gradient(source, path, image)
    proto = build_gradient_model(model, objectives.l2(path))
    exact = run_float64(proto, {"image": image})
    assert exact["objective"][0] == pytest.approx(objective, rel=1e-4)
    single = select("cpu").open(proto, fixed_shapes={"N": 1, "H": height, "W": width}).run({"image": image})
    double = np.abs(exact["gradient"] - expected).max() / np.abs(expected).max()
    return float(double), float(np.linalg.norm(single["gradient"] - expected) / np.linalg.norm(expected))


Row = tuple[str, str, float, float]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    """Rows to print as the README's table when all architectures have had their turn."""
    rows: list[Row] = []
    yield rows
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + markdown(rows))


def markdown(rows: list[Row]) -> str:
    """Two rows beside each other, the first half of the alphabet on the left."""
    told = []
    for name, size, double, single in sorted(rows):
        digits = [f"{v:.0e}".replace("e-0", "e-") for v in (double, single)]
        told.append(" | ".join([f"`{name}`".replace("/backbone`", "`, backbone"), size, *digits]))
    half = (len(told) + 1) // 2
    right = [*told[half:], *([" | | |"] if len(told) % 2 else [])]
    head = ["| " + " | ".join(["architecture | size | float64 | float32"] * 2) + " |", "| --- " * 8 + "|"]
    return "\n".join([*head, *(f"| {a} | {b} |" for a, b in zip(told[:half], right, strict=True))])


def test_the_table_is_the_readmes() -> None:
    """Made of the README's own numbers it is the table there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"(\| architecture .*?)\n\n", readme, re.DOTALL)
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in shown.splitlines()[2:]]
    rows = [
        (row[0].replace("`, backbone", "/backbone`").strip("`"), row[1], float(row[2]), float(row[3]))
        for line in cells
        for row in (line[:4], line[4:])
    ]
    assert markdown(rows) == shown


def prove(name: str, folder: Path, table: list[Row]) -> None:
    source = random_source(name)
    model = export_torch.export(source, folder / f"{re.sub('[/:]', '-', name)}.onnx")
    size = model.fixed_input_size([model.output_name])
    assert export_torch.compare(model, source) < 1e-4
    depths = three_depths(model, source)
    found = {path: errors(source, model, path) for path in depths}
    select("cpu").open(build_step_model(model, objectives.l2(depths[-1])))
    double, single = (max(of) for of in zip(*found.values(), strict=True))
    table.append((name, "any" if size is None else f"{size[1]}x{size[0]}", double, single))
    assert double <= 1e-5, found
    # Where a unit lies within float32 rounding of a kink, torch's own float32 gradient is off as much.
    assert single <= 5e-2, found


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_gradients(name: str, tmp_path: Path, table: list[Row]) -> None:
    prove(name, tmp_path, table)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_of_every_family(name: str, tmp_path: Path, table: list[Row]) -> None:
    prove(name, tmp_path, table)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_gradients_of_networks_of_timm(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    rows: list[Row] = []
    prove(f"timm:{name}", tmp_path, rows)
    assert [row[1] for row in rows] == ["any"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A ResNet-18 with a saved state dict, through the tool's command line."""
    folder = tmp_path_factory.mktemp("export")
    torch.save({"state_dict": random_source("resnet18").network.state_dict()}, folder / "trained.pth")
    options = ["--state", str(folder / "trained.pth"), "--layer", "layer2.1.conv2", "-o", str(folder / "net.onnx")]
    assert export_torch.main(["torchvision:resnet18", *options]) == 0
    return folder, load_model(folder / "net.onnx")


def test_layers_keep_their_module_paths(exported: tuple[Path, Model]) -> None:
    _, model = exported
    for path in ("conv1", "layer1.0.conv2", "layer2.1.bn1", "layer3", "layer3.1", "layer4.0.downsample.0", "fc"):
        assert model.layer(path)
    assert model.layer("layer3") == model.layer("layer3.1")
    assert model.layer("layer2.1.conv2").operator == "Conv"
    assert model.layer("layer3").stride == 16


def test_the_card_is_that_of_the_weights(exported: tuple[Path, Model]) -> None:
    folder, model = exported
    assert model.card.preprocessing.mean == pytest.approx((123.675, 116.28, 103.53))
    assert model.card.preprocessing.channels == "RGB"
    assert len(model.card.labels) == 1000
    assert model.card.size == (224, 224)
    assert str(Path.home()) not in (folder / "net.json").read_text()
    assert b"site-packages" not in (folder / "net.onnx").read_bytes()


def test_one_command_makes_a_file_that_dreams(exported: tuple[Path, Model]) -> None:
    folder, _ = exported
    step = onnx.load(folder / "net-layer2.1.conv2.onnx")
    assert {i.name for i in step.graph.input} == {"image", "step_size", "shift"}
    rocket = DATA / "rocket.jpg"
    done = onnxdream(
        "image", rocket, "-m", "net.onnx", "-l", "layer2.1.conv2", "--size", 160, "--steps", 3, "--json", "-o", "o.png",
        folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["objective_after"] > 1.2 * record["objective_before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet18"], "names no network"),
        (["torchvision:resnet19"], "torchvision has no network 'resnet19'"),
        (["nowhere.at.all:build"], "No module named 'nowhere'"),
        (["math:pi"], "float"),
        (["torchvision:resnet18", "--random", "--submodule", "tail"], "no module 'tail'"),
        (["torchvision:resnet18", "--state", "missing.pth"], "missing.pth: not a readable state dict"),
        (["torchvision:resnet18", "--state", "empty.pth"], "empty.pth: not a readable state dict"),
        (["torchvision:resnet18", "--state", "list.pth"], "list.pth: holds a list, not a state dict"),
        ([":build"], "names no network"),
        (["mine:absent"], "mine has no 'absent'"),
        (["mine:wants"], "missing 1 required positional argument: 'size'; it must name a function without arguments"),
        (["mine:fails"], "mine:fails: KeyError: 'weights'"),
        (["broken:build"], "broken:build: SyntaxError: "),
        (["mine:grey"], "it takes pictures of 1 channels; only networks for 3 can dream"),
        (["mine:misfit"], "misfit: PyTorch cannot export it: a and b must have same reduction dim"),
        (["mine:small", "--mean", "1,2"], "--mean 1,2: give three numbers"),
        (["mine:small", "--std", "1,x,3"], "--std 1,x,3: give three numbers"),
        (["mine:small", "--std", "1,0,3"], "--std 1,0,3: pictures cannot be divided by 0"),
        (["mine:small", "--size", "1", "2", "3"], "--size 1 2 3: give a height and a width"),
        (["mine:small", "--size", "0"], "--size 0: give a height and a width"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert export_torch.main([*arguments, "-o", str(out / "o.onnx")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert "\x1b" not in told
    assert not list(out.iterdir())


MINE = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.Sigmoid()))

class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return torch.relu(self.conv(x)) + 1

def stemmed(): return nn.Sequential(Stem(), nn.Conv2d(4, 4, 3))

def grey(): return nn.Sequential(nn.Conv2d(1, 4, 3))

def misfit(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2))

def wants(size): return small()

def fails(): return {}["weights"]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules and files of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("def build(:")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    return tmp_path


def test_what_exists_is_kept(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --overwrite always, and with it when the export fails."""
    (mine / "small.json").write_text("a card")
    assert export_torch.main(["mine:small"]) == 2
    assert "small.json: exists already" in capsys.readouterr().err
    assert export_torch.main(["mine:small", "--layer", "nonsense", "--overwrite"]) == 2
    told = capsys.readouterr().err
    assert "nonsense" in told
    assert told.count("\n") == 1
    assert (mine / "small.json").read_text() == "a card"
    assert not list(mine.glob("*.onnx"))
    assert not list(mine.glob(".export*"))
    assert export_torch.main(["mine:small", "--overwrite"]) == 0
    assert json.loads((mine / "small.json").read_text())["name"] == "small"
    assert export_torch.main(["mine:small", "-o", "net.txt"]) == 2
    assert "ends in .onnx" in capsys.readouterr().err


def test_names_and_sizes_are_those_that_the_tool_tells(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_torch.main(["mine:stemmed"]) == 0
    assert "pictures of any size" in capsys.readouterr().out
    layer = next(name for name in load_model(mine / "stemmed.onnx").layers if "/" in name)
    assert export_torch.main(["mine:stemmed", "--fixed", "--size", "64", "--layer", layer, "--overwrite"]) == 0
    told = capsys.readouterr().out
    assert "stemmed.onnx: " in told
    assert "pictures of 64x64" in told
    step = f"stemmed-{layer.replace('/', '_')}.onnx"
    assert f"{step}: the step model of l2({layer})" in told
    assert (mine / step).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_state_goes_into_the_network_it_came_from(name: str, tmp_path: Path) -> None:
    """torchvision's networks with weights transform their input and have no auxiliary heads left."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    full = models.get_model(name, weights=None, init_weights=False, transform_input=True)
    torch.save(full.state_dict(), tmp_path / "full.pth")
    without = {k: v for k, v in full.state_dict().items() if not k.startswith(("aux", "Aux"))}
    torch.save(without, tmp_path / "without.pth")
    picture = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected = full.eval()(picture)
        for file in ("full.pth", "without.pth"):
            source = export_torch.open_source(f"torchvision:{name}", for_state=True)
            export_torch.load_state(source.network, tmp_path / file)
            torch.testing.assert_close(source.network.eval()(picture), expected)


@pytest.mark.slow
def test_a_torchvision_for_another_torch_is_named(tmp_path: Path) -> None:
    """In a process of its own, where a torchvision raises at import what an unfit one does."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\ntorch.library.register_fake('torchvision::nms')(print)"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tools import export_torch; "
    code += "sys.exit(export_torch.main(['torchvision:resnet18', '-o', 'o.onnx']))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert re.fullmatch(r"export_torch: torchvision does not fit torch .*nms does not exist.*\n", ran.stderr)


@pytest.mark.slow
def test_a_detector_is_pointed_to_its_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["torchvision:ssdlite320_mobilenet_v3_large", "--random", "-o", str(tmp_path / "o.onnx")]
    assert export_torch.main(arguments) == 2
    told = capsys.readouterr().err
    assert "--submodule backbone" in told
    assert told.count("\n") == 1
    assert "draft_export" not in told
    print(told)


def test_without_a_network_the_weights_message_is_clear(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The download is refused for real: everything goes through a proxy where nobody listens."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert export_torch.main(["torchvision:squeezenet1_1", "-o", str(tmp_path / "o.onnx")]) == 2
    told = capsys.readouterr().err
    assert "its weights cannot be fetched" in told
    assert "--state" in told
