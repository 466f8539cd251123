"""The house rules: what may import what, and the public API."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import onnxdream
from conftest import ROOT
from onnxdream.autodiff.registry import UNSUPPORTED

PACKAGE = ROOT / "onnxdream"
# Lower floors first; a module may import from its own floor and those below. Rooms, and modules of the top level.
FLOORS = [
    {"errors", "version"},
    {"images"},
    {"graph"},
    {"networks"},
    {"autodiff"},
    {"lowering"},
    {"objectives"},
    {"engines"},
    {"cluster", "environment"},
    {"dream"},
    {"settings"},
    {"interpret", "export", "picture_files", "video"},
    {"benchmark"},
    {"cli"},
]
ONLY_IN = {
    "onnxruntime": "engines",
    "av": "video",
    "pooch": "networks",
    "ray": "cluster",
    "torch": None,
    "torchvision": None,
}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, inside the package) of everything a file imports at run time."""
    found = []
    tree = ast.parse(path.read_text())
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
            base = package[: len(package) - node.level + 1]
            targets = [node.module] if node.module else [a.name for a in node.names]
            found += [(".".join([*base, target]), True) for target in targets if target]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert room(path) in floor, f"{room(path)} has no floor yet"
    for name, inside in imports(path):
        if inside:
            assert name.split(".")[0] in floor, f"{path} imports {name} from the package itself"
            assert floor[name.split(".")[0]] <= floor[room(path)], f"{path} imports {name} from above"
        for library, home in ONLY_IN.items():
            if not inside and name.split(".")[0] == library:
                assert room(path) == home, f"{path} imports {library}"


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
