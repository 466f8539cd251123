"""Bring a PyTorch network to onnxdream: one command from a pretrained CNN to a file that dreams.

    python tools/export_torch.py torchvision:googlenet
    python tools/export_torch.py timm:resnet50.a1_in1k -o resnet.onnx
    python tools/export_torch.py mypackage.networks:build --state trained.pth --mean 128,128,128 --std 64,64,64
    python tools/export_torch.py torchvision:fcn_resnet50 --submodule backbone --layer layer3.5

The first argument names a network: torchvision:NAME, timm:NAME, or package.module:factory, a function without arguments
(or a module). The file gets height and width as symbols where the network allows, else the size it was made for. Every
layer keeps its module path as its name (inception4c, layer3.5.conv2); a card with the preprocessing of the weights is
written beside it; and its outputs are compared with PyTorch's. With --layer the step model for that layer is written
too, ready to run anywhere. Needs the extra `export` (torch, torchvision; timm where it is named).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import math
import re
import sys
import tempfile
import urllib.error
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from onnxscript.optimizer import optimize_ir
from torch import nn

from onnxdream import objectives
from onnxdream.dream.step_graph import build_feature_model
from onnxdream.engines.select import select
from onnxdream.errors import ModelError, OnnxDreamError, OptionError, OutputError
from onnxdream.export import export_model
from onnxdream.images import write_whole
from onnxdream.networks.card import IMAGENET
from onnxdream.networks.model import Model, load_model

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST_MULTIPLE = 64
# Outputs that differ by more than this, relative to the largest, mean that the export went wrong.
TOLERANCE = 1e-3


@dataclass
class Source:
    """A network and what is known about its pictures; mean and std for values in 0..255."""

    name: str
    network: nn.Module
    size: tuple[int, int] = (224, 224)
    channels: str = "RGB"
    mean: tuple[float, ...] = IMAGENET.mean
    std: tuple[float, ...] = IMAGENET.std
    labels: tuple[str, ...] = ()
    about: dict[str, str] = field(default_factory=dict)


def open_source(spec: str, *, pretrained: bool = True, for_state: bool = False) -> Source:
    """The network that `spec` names, with trained weights where it has some.

    With `for_state` it is built without weights as it would be with them. Raises OptionError for a name that leads
    nowhere, ModelError when weights cannot be fetched.
    """
    kind, _ = _parts(spec)
    try:
        opener = {"torchvision": _torchvision, "timm": _timm}.get(kind, _factory)
        source = opener(spec, pretrained and not for_state)
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise ModelError(
            f"{spec}: its weights cannot be fetched ({error}); connect to a network, or give them with --state FILE"
        ) from error
    except RuntimeError as error:
        if not str(error).startswith("invalid hash value"):
            raise
        raise ModelError(f"{spec}: the fetched weights are damaged ({error}); try again") from error
    if for_state and kind == "torchvision":
        _as_with_weights(source.network)
    return source


def _parts(spec: str) -> tuple[str, str]:
    kind, _, name = spec.partition(":")
    if not kind or not name:
        raise OptionError(f"{spec!r} names no network; use torchvision:NAME, timm:NAME or package.module:factory")
    return kind, name


def _torchvision(spec: str, pretrained: bool) -> Source:
    models = _library("torchvision.models", "torchvision")
    name = spec.partition(":")[2]
    if name not in models.list_models():
        raise OptionError(f"torchvision has no network {name!r}; it has {', '.join(models.list_models())}")
    weights = models.get_model_weights(name).DEFAULT
    extra = (
        {}
        if pretrained or "weights_backbone" not in _parameters(models.get_model_builder(name))
        else {"weights_backbone": None}
    )
    network = models.get_model(name, weights=weights if pretrained else None, **extra)
    source = Source(name, network, about={"title": name, "source": f"torchvision {weights}", "licence": "BSD-3-Clause"})
    transforms = weights.transforms()
    if hasattr(transforms, "mean"):
        source.mean, source.std = _of_255(transforms.mean), _of_255(transforms.std)
    else:  # detectors normalise inside
        source.mean, source.std = (0.0,) * 3, (255.0,) * 3
    crop = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None)
    if crop:
        source.size = (int(crop[0]), int(crop[0]))
    source.labels = tuple(weights.meta.get("categories", ()))
    return source


def _as_with_weights(network: nn.Module) -> None:
    """What torchvision's builders of GoogLeNet and Inception do when they are given weights."""
    if hasattr(network, "transform_input"):
        network.transform_input = True  # type: ignore[assignment]
    if hasattr(network, "aux_logits"):
        network.aux_logits = False  # type: ignore[assignment]
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, head):
                setattr(network, head, None)


def _timm(spec: str, pretrained: bool) -> Source:
    timm = _library("timm", "timm")
    name = spec.partition(":")[2]
    try:
        network = timm.create_model(name, pretrained=pretrained, exportable=True)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise OptionError(f"timm has no network {name!r}") from error
        if "Invalid pretrained tag" in str(error):
            raise OptionError(f"timm has no such weights: {cause(error)}") from error
        raise
    except OSError as error:  # what its hub raises when there is no network
        raise ConnectionError(cause(error)) from error
    config = timm.data.resolve_model_data_config(network)
    licence = str(network.pretrained_cfg.get("license") or "")
    return Source(
        name=name.partition(".")[0],
        network=network,
        size=tuple(config["input_size"][1:]),
        mean=_of_255(config["mean"]),
        std=_of_255(config["std"]),
        about={"title": name, "source": f"timm {name}", "licence": licence},
    )


def _factory(spec: str, pretrained: bool) -> Source:
    path, _, name = spec.partition(":")
    sys.path.insert(0, "")  # packages in the current folder
    try:
        module = importlib.import_module(path)
        if not hasattr(module, name):
            raise OptionError(f"{spec}: {path} has no {name!r}; name a function as package.module:function")
        network = getattr(module, name)
        network = network if isinstance(network, nn.Module) or not callable(network) else network()
    except OnnxDreamError:
        raise
    except Exception as error:  # it is someone else's code
        why = f"{type(error).__name__}: {cause(error)}"
        raise OptionError(f"{spec}: {why}; it must name a function without arguments, or a module") from error
    if not isinstance(network, nn.Module):
        raise OptionError(f"{spec} makes a {type(network).__name__}, not a torch.nn.Module")
    return Source(name, network, about={"title": name, "source": spec})


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptionError(f"{package} is needed for this: pip install {package} ({error})") from error
    except RuntimeError as error:  # its compiled part is for another torch
        why = f"{package} does not fit torch {torch.__version__} ({cause(error)})"
        raise OptionError(f"{why}; install versions that belong together: pip install -U torch {package}") from error


def _parameters(function: Any) -> set[str]:
    import inspect

    return set(inspect.signature(function).parameters)


def _of_255(values: Any) -> tuple[float, ...]:
    return tuple(round(float(v) * 255, 6) for v in values)


def load_state(network: nn.Module, path: Path) -> None:
    """Load a saved state dict, also one inside a training checkpoint or of a DataParallel module.

    Raises ModelError when it is unreadable or does not fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can raise anything
        raise ModelError(f"{path}: not a readable state dict: {cause(error)}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path}: holds a {type(state).__name__}, not a state dict of tensors")
    weights = {str(k).removeprefix("module."): v for k, v in state.items()}
    # Parts that the network can have and has not, as heads that are only there to train it.
    absent = {name for name, value in network.__dict__.items() if value is None}
    absent |= {name for name, module in network._modules.items() if module is None}
    try:
        network.load_state_dict({k: v for k, v in weights.items() if k.partition(".")[0] not in absent})
    except RuntimeError as error:
        raise ModelError(f"{path}: does not fit the network: {' '.join(str(error).split())[:300]}") from error


def cause(error: BaseException) -> str:
    """What began it all, in one line: the first line of its message that says something."""
    while error.__cause__ is not None:
        error = error.__cause__
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if re.search(r"\w", line)]
    return " ".join(lines[0].split())[:300] if lines else type(error).__name__


def export(source: Source, path: Path, *, fixed: bool = False) -> Model:
    """Write `source` to `path` (.onnx) and its card beside it; returns the model read back.

    Height and width stay symbols unless `fixed`, or unless the network does not allow it. Raises ModelError when
    PyTorch cannot export it.
    """
    problem = ""
    for free in (False,) if fixed else (True, False):
        try:
            program = _program(source, free)
        except Exception as error:  # of its many parts; with a free size also for what only fits one size
            problem = _refusal(error)
            continue
        try:
            aliases = name_layers(program.model.graph)
            _write(source, program, aliases, path)
            model = load_model(path)
        except OutputError:
            raise
        except OnnxDreamError as error:
            problem = str(error).replace(str(path), path.name)
            continue
        problem, multiple = _free_sizes(model, source) if free else ("", 1)
        if problem:
            continue
        if multiple == model.card.multiple:
            return model
        _write_card(source, aliases, path, multiple)
        return load_model(path)
    raise ModelError(f"{source.name}: PyTorch cannot export it: {problem}")


def _refusal(error: BaseException) -> str:
    """Why PyTorch did not export a network, and what to do where that is known."""
    why = cause(error)
    channels = re.search(r"to have (\d+) channels, but got 3", str(error))
    return f"it takes pictures of {channels[1]} channels; only networks for 3 can dream" if channels else why


def _program(source: Source, free: bool) -> torch.onnx.ONNXProgram:
    height, width = source.size
    example = torch.zeros(2, 3, height, width + 32) if free else torch.zeros(1, 3, height, width)
    dim = torch.export.Dim
    shapes = ({0: dim("N"), 2: dim.DYNAMIC, 3: dim.DYNAMIC},) if free else None
    talk = io.StringIO()  # traces and graphs, of failures above all
    quiet = contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk)
    with quiet[0], quiet[1], warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            # Not optimised: that would melt layers together, and their names with them.
            program = torch.onnx.export(
                source.network.eval(), (example,), dynamo=True, opset_version=18, dynamic_shapes=shapes,
                input_names=["image"], verbose=False, optimize=False,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
    assert program is not None
    if any(node.op_type == "SplitToSequence" for node in program.model.graph):
        optimize_ir(program.model)  # sequences become splits, at the price of layers melted into others
    return program


def name_layers(graph: ir.Graph) -> dict[str, str]:
    """Name the last tensor computed in each module after the module's path; returns the other names it goes by.

    Where modules end in the same tensor, the outermost gives the name: a block rather than its last ReLU.
    """
    last: dict[str, ir.Value] = {}
    inside: dict[ir.Value, str] = {}
    for node in graph:
        paths = [p for p in _scopes(node) if p]
        for path in paths:
            last[path] = node.outputs[0]
        inside[node.outputs[0]] = paths[-1] if paths else ""
    named: dict[ir.Value, str] = {}
    aliases: dict[str, str] = {}
    for path in sorted(last, key=lambda p: (p.count("."), len(p))):
        if last[path] in named:
            aliases[path] = named[last[path]]
        else:
            named[last[path]] = path
    taken = set(named.values())
    for value, path in inside.items():
        if value not in named:
            producer = value.producer()
            assert producer is not None
            stem = "/".join(filter(None, [path, producer.op_type.lower()]))
            count = next(i for i in range(len(taken) + 1) if (f"{stem}_{i}" if i else stem) not in taken)
            named[value] = f"{stem}_{count}" if count else stem
            taken.add(named[value])
    weights = set(graph.initializers) | {v.name for v in graph.inputs}
    for value, name in named.items():
        value.name = f"{name}/out" if name in weights else name
    return aliases


def _free_sizes(model: Model, source: Source) -> tuple[str, int]:
    """Why a graph of free size is wrong for some sizes, or "" when it is not, and what sides must be multiples of.

    Networks that decide by the size what to do, as windowed attention decides whether to pad, are exported the way the
    example went.
    """
    lost = [o for node in model.proto.graph.node for o in node.output if o and o not in model.shapes]
    if lost or model.output_name not in model.layers:
        return f"the shapes of {', '.join(lost[:3]) or model.output_name} cannot be told for every size", 1
    height, width = source.size
    for size in ((height, width), (height + 32, width), (height, width + 64)):
        problem = _problem(model, source, size)
        if problem:
            return problem, 1
    # As many halvings as a network may want: the smallest that will do.
    step, problem = model.size_multiple([model.output_name]), ""
    while step <= max(_LARGEST_MULTIPLE, model.size_multiple([model.output_name])):
        problem = _problem(model, source, (height // step * step + step, width // step * step + 3 * step))
        if not problem:
            return "", step
        step *= 2
    return problem, 1


def _problem(model: Model, source: Source, size: tuple[int, int]) -> str:
    """What is wrong with the file on pictures of `size` (height, width), or "" if nothing is."""
    try:
        error = compare(model, source, size)
    except Exception as failure:  # of a network that PyTorch itself does not run at this size
        return f"pictures of {size[1]}x{size[0]} fail: {cause(failure)}"
    return "" if error <= TOLERANCE else f"pictures of {size[1]}x{size[0]} come out wrong by {error:.1e}"


def _scopes(node: ir.Node) -> Iterator[str]:
    """Paths of the modules the node belongs to, outermost first."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    yield from [s for s in json.loads(scopes.replace("'", '"'))[:-1] if not s.startswith("_")]


def _write(source: Source, program: torch.onnx.ONNXProgram, aliases: dict[str, str], path: Path) -> None:
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with the paths of this machine
    write_whole(path, lambda to: program.save(str(to), external_data=False))
    _write_card(source, aliases, path)


def _write_card(source: Source, aliases: dict[str, str], path: Path, multiple: int = 1) -> None:
    card = {
        "name": path.stem,
        **source.about,
        "size": list(source.size),
        "multiple": multiple if multiple > 1 else None,
        "preprocessing": {"channels": source.channels, "mean": source.mean, "std": source.std},
        "aliases": aliases,
        "labels": source.labels,
    }
    text = json.dumps({k: v for k, v in card.items() if v}, indent=1)
    write_whole(path.with_suffix(".json"), lambda to: to.write_text(text + "\n", encoding="utf-8"))


def compare(model: Model, source: Source, size: tuple[int, int] | None = None) -> float:
    """The largest difference between the file's output and PyTorch's on one picture, relative to the largest output.

    The picture is of `size` (height, width), by default the size of the network's own pictures. No difference at all is
    no evidence, as it may be due to a head of zeros: then layers before it are compared, from the last to the first.
    """
    height, width = size or model.fixed_input_size([model.output_name]) or source.size
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (source.mean, source.std))
    prepared = torch.from_numpy(
        (image if source.channels == "RGB" else image[:, ::-1].copy()) - mean
    ) / torch.from_numpy(std)
    outputs: dict[str, torch.Tensor] = {}  # by the names of layers

    def keep(path: str, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs[model.card.aliases.get(path, path)] = output.clone()  # before the next module writes into it

    hooks = [
        module.register_forward_hook(lambda _module, _given, output, path=path: keep(path, output))
        for path, module in source.network.named_modules()
    ]
    try:
        with torch.no_grad():
            outputs[model.output_name] = _first_tensor(source.network.eval()(prepared))
    finally:
        for hook in hooks:
            hook.remove()
    for name in [model.output_name, *(n for n in reversed(model.layers) if n in outputs and n != model.output_name)]:
        expected = outputs[name].numpy()
        found = select("cpu").open(build_feature_model(model, name)).run({"image": image})["features"]
        error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
        if error != 0:
            return error
    return 0.0


def _first_tensor(output: Any) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="torchvision:NAME, timm:NAME or package.module:factory")
    parser.add_argument("-o", "--output", type=Path, help="the ONNX file to write; default: NAME.onnx")
    parser.add_argument("--state", type=Path, help="a saved state dict to load into the network")
    parser.add_argument("--random", action="store_true", help="random weights instead of the pretrained ones")
    parser.add_argument("--submodule", default="", help="export only this module of the network, such as backbone.body")
    parser.add_argument("--size", type=int, nargs="+", help="height and width, where the network has a size of its own")
    parser.add_argument("--fixed", action="store_true", help="keep the size fixed even where it could be free")
    parser.add_argument("--channels", choices=("RGB", "BGR"), help="the order the network takes")
    parser.add_argument("--mean", help="subtracted from pictures in 0..255, three numbers: 124,116,104")
    parser.add_argument("--std", help="divides them then, three numbers")
    parser.add_argument("--layer", help="also write the step model for this layer, as NAME-LAYER.onnx")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    try:
        _run(parser.parse_args(arguments))
    except OnnxDreamError as error:
        print(f"export_torch: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    """Export into a scratch folder beside the output, and move everything into place once it is right."""
    given = {name: _three(name, getattr(options, name)) for name in ("mean", "std") if getattr(options, name)}
    if 0 in given.get("std", ()):
        raise OptionError(f"--std {options.std}: pictures cannot be divided by 0")
    if options.size and (len(options.size) > 2 or min(options.size) < 1):
        raise OptionError(f"--size {' '.join(map(str, options.size))}: give a height and a width, or one for both")
    path = options.output or Path(f"{_parts(options.network)[1].partition('.')[0]}.onnx")
    _check_output(path, options)
    source = open_source(options.network, pretrained=not options.random, for_state=options.state is not None)
    if options.state:
        load_state(source.network, options.state)
    if options.submodule:
        try:
            source.network, source.labels = source.network.get_submodule(options.submodule), ()
        except AttributeError as error:
            raise OptionError(f"{options.network} has no module {options.submodule!r}: {error}") from error
    if options.size:
        source.size = (options.size[0], options.size[-1])
    for name, value in {**given, **({"channels": options.channels} if options.channels else {})}.items():
        setattr(source, name, value)
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    with scratch as folder:
        told = _make(source, Path(folder) / path.name, options)
        for made in sorted(Path(folder).iterdir()):
            made.replace(path.with_name(made.name))
    for name, what in told.items():
        print(f"{path.with_name(name)}: {what}")


def _check_output(path: Path, options: argparse.Namespace) -> None:
    if path.suffix != ".onnx":
        raise OptionError(f"{path}: the name of the file to write ends in .onnx")
    outputs = [path, path.with_suffix(".json"), *([_step_path(path, options.layer)] if options.layer else [])]
    there = [str(p) for p in outputs if p.exists()]
    if there and not options.overwrite:
        raise OutputError(f"{', '.join(there)}: exists already; choose another name with -o or use --overwrite")


def _step_path(path: Path, layer: str) -> Path:
    return path.with_name(f"{path.stem}-{layer.replace('/', '_')}.onnx")


def _make(source: Source, path: Path, options: argparse.Namespace) -> dict[str, str]:
    """Write what was asked for, and say of each file name what it is."""
    try:
        model = export(source, path, fixed=options.fixed)
    except ModelError as error:
        if hasattr(source.network, "backbone") and not options.submodule:
            raise ModelError(f"{error}; its features alone may do: --submodule backbone") from error
        raise
    error = compare(model, source)
    if not error <= TOLERANCE:
        raise ModelError(f"{path.name}: its outputs differ from PyTorch's by {error:.1e}; it is not written")
    only = model.fixed_input_size([model.output_name]) or (model.input_dims[2:] if all(model.input_dims[2:]) else None)
    multiple = model.size_multiple([model.output_name])
    size = f"pictures of {only[1]}x{only[0]}" if only else "pictures of any size"
    if multiple > 1:
        size = f"pictures whose sides are multiples of {multiple}"
    told = {path.name: f"{len(model.layers)} layers, {size}, outputs within {error:.1e} of PyTorch's"}
    if options.layer:
        step = _step_path(path, options.layer)
        export_model(model, objectives.l2(options.layer), step)
        told[step.name] = f"the step model of l2({options.layer})"
    return told


def _three(name: str, text: str) -> tuple[float, ...]:
    """Three finite numbers between commas."""
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise OptionError(f"--{name} {text}: give three numbers between commas, of 0..255, one for each channel")
    return values


if __name__ == "__main__":
    sys.exit(main())
