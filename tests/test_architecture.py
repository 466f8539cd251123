"""The house rules: what may import what, and the public API."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import onnxdream
from helpers.paths import ROOT
from onnxdream.autodiff.registry import UNSUPPORTED

PACKAGE = ROOT / "onnxdream"
# Lower floors first; a module may import from its own floor and those below. A name stands for all modules below it.
FLOORS = [
    {"errors", "version"},
    {"exif", "picture_kinds", "photo_metadata"},
    {"tiff_files"},
    {"images"},
    {"output_files"},
    {"graph"},
    {"networks"},
    {"settings"},
    {"autodiff"},
    {"lowering"},
    {"objectives"},
    {"engines"},
    {"cluster", "environment"},
    {"dream"},
    {"interpret", "export", "picture_files"},
    {"video.flow", "video.frame_formats", "video.io", "video.rate_control", "video.timeline"},
    {"video.dreamer"},
    {"video.job", "video.live", "video.evaluate"},
    {"benchmark"},
    {"cli"},
]
ONLY_IN = {
    "onnxruntime": "engines",
    "openvino": "engines",
    "av": "video",
    "pooch": "networks",
    "ray": "cluster",
    "torch": None,
    "torchvision": None,
}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def dotted(path: Path) -> str:
    """The name of a module within the package; that of a folder for its __init__."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path) for path in modules()}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, inside the package) of every module that a file imports at run time, within functions too."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        n
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for n in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(a.name, False) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.module or "", False))
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.relative_to(PACKAGE).parts
            base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
            names = [".".join([*base, a.name]) for a in node.names]
            found += [(name if name in NAMES else ".".join(base), True) for name in names]
    return found


def floor(name: str) -> int | None:
    """The number of a module's floor; None for the folder of modules on several floors."""
    for number, names in enumerate(FLOORS):
        if any(name == one or name.startswith(f"{one}.") for one in names):
            return number
    has_floors = any(one.startswith(f"{name}.") for names in FLOORS for one in names)
    assert has_floors, f"{name} has no floor yet"
    return None


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    own = floor(dotted(path))
    for name, inside in imports(path):
        if inside:
            assert name in NAMES, f"{path} imports {name or 'the package itself'}"
            below = floor(name)
            assert own is not None, f"{path} must be empty, since the modules beside it are on several floors"
            assert below is not None, f"{path} imports {name}, whose modules are on several floors"
            assert below <= own, f"{path} imports {name} from above"
        for library, home in ONLY_IN.items():
            if not inside and name.split(".")[0] == library:
                assert dotted(path).split(".")[0] == home, f"{path} imports {library}"


def test_engines_are_reached_by_their_interface_alone() -> None:
    """No module outside knows which engines there are, and nothing that crosses the interface is untyped."""
    for path in modules():
        if dotted(path).split(".")[0] != "engines":
            engines = {name for name, inside in imports(path) if inside and name.startswith("engines.")}
            assert engines <= {"engines.base", "engines.cache", "engines.select"}, path
            assert "cv2.dnn" not in path.read_text(encoding="utf-8"), path
    for name in ("base", "cache", "select"):
        tree = ast.parse((PACKAGE / "engines" / f"{name}.py").read_text(encoding="utf-8"))
        assert "Any" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}, name


def test_no_imports_run_in_a_circle() -> None:
    """Not even those that wait in a function until it is called."""
    graph = {dotted(path): {name for name, inside in imports(path) if inside} for path in modules()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_jobs_live_sessions_and_evaluation_are_independent() -> None:
    rooms = ("video.job", "video.live", "video.evaluate")
    for room in rooms:
        for path in sorted((PACKAGE / room.replace(".", "/")).glob("*.py")):
            for name, inside in imports(path):
                other = inside and name.startswith(rooms) and not name.startswith(room)
                assert not other, f"{path} imports {name}"


def test_public_api() -> None:
    assert onnxdream.__all__ == [
        "Dream",
        "Dreamer",
        "Model",
        "Objective",
        "OnnxDreamError",
        "Progress",
        "RayCluster",
        "VideoDreamer",
        "activations",
        "build_gradient_model",
        "build_step_model",
        "create_video_dreamer",
        "dream_frames",
        "dream_video",
        "errors",
        "load_model",
        "objectives",
        "show",
        "visualize",
    ]
    for name in onnxdream.__all__:
        assert getattr(onnxdream, name) is not None


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, onnxdream, onnxdream.cli.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "cv2", "numpy", "scipy", "PIL", "pooch", "requests"}
    assert not heavy & set(loaded)


def test_dreaming_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, onnxdream\n"
        "dreamer = onnxdream.Dreamer(onnxdream.load_model('squeezenet1_1'), octaves=1, steps=1)\n"
        "print(dreamer.dream(np.full((64, 64, 3), 99, np.uint8)).steps)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_the_readme_lists_every_operator_without_a_rule() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    listed = readme.partition("but for these; a network")[2].partition("## ")[0]
    assert set(listed.split("`")[1::2]) == set(UNSUPPORTED)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "tests"))
)
def test_test_modules_import_from_no_other(path: Path) -> None:
    """What they share is in tests/helpers/."""
    for name, _ in imports(path):
        assert not any(part.startswith("test_") or part == "conftest" for part in name.split(".")), f"imports {name}"
