"""Networks by name: bundled, one's own, and fetched on demand from servers that fail in every way real ones do."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import onnx
import pytest

from helpers import small_networks as small
from helpers.command_line import command, onnxdream
from helpers.shelf import Shelf, shelf
from onnxdream.cli.exit_codes import exit_code
from onnxdream.errors import DownloadError, ModelError, OnnxDreamError, OutputError
from onnxdream.networks import download, http, registry
from onnxdream.networks.card import IMAGENET, Card, Preprocessing
from onnxdream.networks.model import load_model
from onnxdream.settings import PRESETS

NETWORK = registry.bundled()["squeezenet1_1"].read_bytes()
HALF = len(NETWORK) // 2
ON_DEMAND = ["googlenet", "mobilenet_v2", "resnet50", "vgg16"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setenv("ONNXDREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONNXDREAM_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ONNXDREAM_OFFLINE", raising=False)
    with shelf(NETWORK, tmp_path / "models") as made:
        yield made


def cached(tmp_path: Path) -> list[str]:
    """The names in the cache, but for the lock of a process that was killed."""
    return sorted(p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock")


def good(path: Path) -> bool:
    return path.read_bytes() == NETWORK and cached(path.parent.parent) == [path.name]


def start_of(asked: str | None) -> int:
    assert asked is not None
    return int(asked.removeprefix("bytes=").removesuffix("-"))


class TestOnDemand:
    def test_by_name(self, server: Shelf, tmp_path: Path) -> None:
        server.offer("served", "a")
        model = load_model("served")
        assert model.path is not None
        assert good(model.path)
        assert model.path.parent == tmp_path / "cache"
        assert model.name == "served"
        assert model.card.preprocessing == Preprocessing("BGR", (1, 2, 3), (4, 5, 6))
        assert not model.card.assumed
        assert model.layers["fire3"].recommended
        assert server.log == [("/a", None)]
        assert load_model("served").path == model.path
        assert len(server.log) == 1

    def test_after_a_cut_only_the_rest_is_asked_for(self, server: Shelf) -> None:
        server.offer("served", server.plan("a", HALF, "whole"))
        assert good(registry.find("served"))
        (_, first), (_, second) = server.log
        assert first is None
        assert HALF - 65536 <= start_of(second) <= HALF
        assert server.sent == HALF + len(NETWORK) - start_of(second)

    def test_many_cuts(self, server: Shelf) -> None:
        server.offer("served", server.plan("a", *[700_000] * 20))
        assert good(registry.find("served"))
        starts = [start_of(asked) for _, asked in server.log[1:]]
        assert starts == sorted(set(starts))
        assert len(starts) >= 7

    def test_the_next_mirror_goes_on_where_one_stopped(self, server: Shelf) -> None:
        server.offer("served", server.plan("a", HALF, 500), "b")
        assert good(registry.find("served"))
        assert [address for address, _ in server.log] == ["/a", "/a", "/b"]
        assert start_of(server.log[2][1]) == start_of(server.log[1][1]) > 0

    def test_a_later_run_goes_on_where_one_gave_up(self, server: Shelf, tmp_path: Path) -> None:
        server.offer("served", server.plan("a", HALF, 404, "whole"))
        with pytest.raises(DownloadError, match=r"127.0.0.1:\d+: it answers 404 Not Found\); 4[89] % has arrived"):
            registry.find("served")
        (part,) = cached(tmp_path)
        there = (tmp_path / "cache" / part).stat().st_size
        assert good(registry.find("served"))
        assert start_of(server.log[-1][1]) == there

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
    def test_goes_on_after_being_stopped(self, server: Shelf, tmp_path: Path, end: signal.Signals) -> None:
        server.offer("served", server.plan("a", "held", "whole"))
        program = command("layers", "served", "--json")
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert server.half_sent.wait(60)
            (part,) = waited_for(tmp_path / "cache", HALF - 65536)
            process.send_signal(end)
            _, said = process.communicate(timeout=60)
        assert process.returncode == (130 if end == signal.SIGINT else -end)
        assert "Traceback" not in said
        assert cached(tmp_path) == [part.name]
        there = part.stat().st_size
        assert good(registry.find("served"))
        assert start_of(server.log[-1][1]) == there

    def test_a_server_that_always_sends_the_whole(self, server: Shelf) -> None:
        server.offer("served", server.plan("a", HALF, "unranged"))
        assert good(registry.find("served"))
        assert len(server.log) == 2

    def test_a_server_that_sends_elsewhere(self, server: Shelf) -> None:
        server.offer("served", server.plan("a", HALF, "elsewhere"))
        assert good(registry.find("served"))
        assert [address for address, _ in server.log] == ["/a", "/a", "/whole"]
        assert start_of(server.log[2][1]) > 0

    def test_a_server_that_falls_silent(self, server: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http, "READ_SECONDS", 0.5)
        server.offer("served", server.plan("a", "held", "whole"))
        assert good(registry.find("served"))
        assert not server.gate.is_set()
        assert start_of(server.log[1][1]) >= HALF - 65536

    @pytest.mark.parametrize("act", ["damaged", "short", "endless", 404, 500])
    def test_past_a_bad_mirror(self, server: Shelf, act: str | int) -> None:
        server.offer("served", server.plan("a", act), "b")
        assert good(registry.find("served"))
        assert server.log == [("/a", None), ("/b", None)]

    def test_a_file_of_another_size_is_not_asked_for_again(self, server: Shelf) -> None:
        server.offer("served", server.plan("a", "short"))
        with pytest.raises(DownloadError, match=rf"has {len(NETWORK) - 1000} bytes instead of {len(NETWORK)}"):
            registry.find("served")
        assert server.log == [("/a", None)]

    @pytest.mark.parametrize("size", [HALF, len(NETWORK), len(NETWORK) + 1])
    def test_a_part_that_is_something_else(self, server: Shelf, size: int) -> None:
        server.offer("served", "a", "b")
        part = download.Source.read(server.models / "served.json").part
        part.parent.mkdir()
        part.write_bytes(bytes(size))
        assert good(registry.find("served"))
        assert server.log[-1] == ("/a", None)

    def test_a_whole_part_needs_no_server(self, server: Shelf) -> None:
        server.offer("served", "a")
        part = download.Source.read(server.models / "served.json").part
        part.parent.mkdir()
        part.write_bytes(NETWORK)
        assert good(registry.find("served"))
        assert server.log == []

    @pytest.mark.parametrize("wrong", [NETWORK[:-1] + b"!", b"", NETWORK + b"!"])
    def test_a_damaged_file_is_fetched_again(self, server: Shelf, wrong: bytes) -> None:
        server.offer("served", "a")
        path = download.Source.read(server.models / "served.json").path
        path.parent.mkdir()
        path.write_bytes(wrong)
        assert good(registry.find("served"))

    def test_two_processes_at_once(self, server: Shelf, tmp_path: Path) -> None:
        server.offer("served", server.plan("a", "held"))
        program = [sys.executable, "-c", "from onnxdream.networks import registry; print(registry.find('served'))"]
        both = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert server.half_sent.wait(60)
        third = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            third.wait(1.5)  # it waits while another one downloads
        server.gate.set()
        found = {process.communicate(timeout=60)[0].strip() for process in (*both, third)}
        (path,) = found
        assert good(Path(path))
        assert server.log == [("/a", None)]
        assert [p.name for p in (tmp_path / "cache").iterdir()] == [Path(path).name]

    def test_what_is_told_while_it_downloads(self, server: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[int] = []

        class Reporter:
            def __init__(self, name: str, size: int) -> None:
                assert (name, size) == ("served", len(NETWORK))

            def __enter__(self) -> object:
                return told.append

            def __exit__(self, *_: object) -> None:
                told.append(-1)

        monkeypatch.setattr(download, "_reporter", download._reporter)
        download.report_to(Reporter)  # type: ignore[arg-type]
        server.offer("served", server.plan("a", HALF, "whole"))
        registry.find("served")
        assert told[0] == 0
        assert told[:-1] == sorted(told[:-1])
        assert told[-2:] == [len(NETWORK), -1]


def waited_for(folder: Path, size: int) -> list[Path]:
    """The .part files in `folder`, once one has `size` bytes."""
    for _ in range(600):
        parts = list(folder.glob("*.part"))
        if parts and parts[0].stat().st_size >= size:
            return parts
        time.sleep(0.05)
    raise AssertionError(f"no part of {size} bytes in {folder}")


class TestFailures:
    def failure(self, code: int) -> str:
        with pytest.raises(OnnxDreamError) as caught:
            registry.find("served")
        assert exit_code(caught.value) == code
        text = str(caught.value)
        assert "\n" not in text
        return text

    @pytest.mark.parametrize(
        ("act", "words"),
        [
            (404, "it answers 404 Not Found"),
            (503, "it answers 503 Service Unavailable"),
            ("damaged", "the file is damaged or a different one (its sha256 differs)"),
            (0, "the connection broke off"),
            ("endless", f"its file has more than {len(NETWORK)} bytes"),
        ],
    )
    def test_no_mirror_gives_it(self, server: Shelf, tmp_path: Path, act: str | int, words: str) -> None:
        server.offer("served", server.plan("a", act), server.plan("b", act))
        host = server.address.removeprefix("http://")
        path = download.Source.read(server.models / "served.json").path
        assert self.failure(1) == (
            f"served (4.95 MB) cannot be downloaded ({host}: {words}; {host}: {words}); "
            f"try again later, or save {server.address}/a as {path}"
        )
        assert not path.exists()
        assert all((tmp_path / "cache" / name).stat().st_size == 0 for name in cached(tmp_path))

    def test_no_network(self, server: Shelf) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # and never listens
            server.offer("served", f"http://127.0.0.1:{closed.getsockname()[1]}/a", "http://no.such.host.invalid/a")
            text = self.failure(1)
        assert text.count("no connection") == 2
        assert "no.such.host.invalid: no connection" in text

    @pytest.mark.parametrize("value", ["1", "true", "YES"])
    def test_offline(self, server: Shelf, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("ONNXDREAM_OFFLINE", value)
        server.offer("served", "a", "b")
        path = download.Source.read(server.models / "served.json").path
        assert self.failure(2) == (
            f"served: {path} does not exist, and downloads are forbidden (offline); save {server.address}/a as {path}"
        )
        path.parent.mkdir()
        path.write_bytes(NETWORK[:-1])
        assert f"{path} has the wrong content" in self.failure(2)
        path.write_bytes(NETWORK)
        assert registry.find("served") == path
        assert server.log == []

    @pytest.mark.parametrize("value", ["", "0", "false", "no"])
    def test_not_offline(self, server: Shelf, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("ONNXDREAM_OFFLINE", value)
        server.offer("served", "a")
        assert good(registry.find("served"))

    def test_a_cache_that_is_no_folder(self, server: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("ONNXDREAM_CACHE", str(tmp_path / "file" / "cache"))
        server.offer("served", "a")
        with pytest.raises(
            OutputError, match=r"cache: served .4.95 MB. cannot be stored there .Not a directory.; ONNX"
        ):
            registry.find("served")
        assert server.log == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
    def test_a_cache_that_cannot_be_written(self, server: Shelf, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir(mode=0o555)
        server.offer("served", "a")
        assert "cannot be stored there (Permission denied)" in self.failure(2)

    def test_a_disk_that_is_full(self, server: Shelf, tmp_path: Path) -> None:
        server.offer("served", "a")
        done = subprocess.run(
            command("layers", "served", "--json"),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF)),
        )
        assert done.returncode == 2
        assert "served (4.95 MB) cannot be stored there (File too large); ONNXDREAM_CACHE can" in done.stderr
        assert good(registry.find("served"))
        assert start_of(server.log[-1][1]) <= HALF

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"urls": None}, "served.onnx is not next to it, and it has no urls to download it from"),
            ({"urls": "http://a/b"}, "urls is 'http://a/b'; input should be a valid tuple"),
            ({"urls": ["ftp://a/b"]}, "urls.0 is 'ftp://a/b'; string should match pattern '^https?://.'"),
            ({"sha256": "12"}, "sha256 is '12'; string should match pattern '^([0-9a-f]{64})?$'"),
            ({"sha256": None}, "needs its sha256 and bytes"),
            ({"bytes": None}, "needs its sha256 and bytes"),
            ({"bytes": "4"}, "bytes is '4'; input should be a valid integer"),
        ],
    )
    def test_cards_that_name_no_source(self, server: Shelf, changes: dict[str, object], words: str) -> None:
        path = server.offer("served", "a", **changes)
        text = self.failure(2)
        assert text.startswith(f"{path}: ")
        assert words in text

    @pytest.mark.parametrize("text", ["[]", "{", '"a"'])
    def test_cards_that_are_none(self, server: Shelf, text: str) -> None:
        server.offer("served", "a").write_text(text)
        assert "not a usable card" in self.failure(2)


class TestNames:
    @pytest.mark.parametrize("name", ON_DEMAND)
    def test_cards_on_demand(self, name: str) -> None:
        card = Card.read(registry.networks()[name])
        source = download.Source.read(registry.networks()[name])
        assert card.name == source.name == name
        assert card.licence
        assert card.size == (224, 224)
        assert len(card.labels) == 1000
        assert [url.split("/")[2] for url in source.urls] == ["huggingface.co", "media.githubusercontent.com"]
        assert len({url.rsplit("/", 1)[1] for url in source.urls}) == 1
        caffe = Preprocessing("BGR", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0))
        assert card.preprocessing == (caffe if name == "googlenet" else IMAGENET)

    def test_known(self, server: Shelf) -> None:
        server.models.mkdir()
        assert sorted(registry.networks()) == sorted([*registry.bundled(), *ON_DEMAND])

    def test_folders_of_ones_own(self, server: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = tmp_path / "models", tmp_path / "more"
        for place, steps in ((first, 8), (second, 6)):
            place.mkdir()
            net = small.plain()
            net.producer_version = str(steps)
            onnx.save(net, place / "net.v1.onnx")
        onnx.save(small.plain(), second / "squeezenet1_1.onnx")
        monkeypatch.setenv("ONNXDREAM_MODELS", f"{first}{os.pathsep}{second}")
        assert registry.find("net.v1") == first / "net.v1.onnx"
        assert load_model("net.v1").card.assumed
        assert load_model("squeezenet1_1").path == second / "squeezenet1_1.onnx"
        monkeypatch.setenv("ONNXDREAM_MODELS", str(tmp_path / "none"))
        with pytest.raises(ModelError, match=r"ONNXDREAM_MODELS: .*none is not a folder"):
            registry.find("squeezenet1_1")

    def test_the_usual_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("ONNXDREAM_CACHE", raising=False)
        assert download.cache_folder().parts[-1] == "onnxdream"
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("ONNXDREAM_CACHE", "~/nets")
        assert download.cache_folder() == tmp_path / "nets"


class TestCommandLine:
    def run(self, folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return onnxdream(*arguments, folder=folder, **environment)

    def test_dreaming_with_a_network_to_be_fetched(self, server: Shelf, tmp_path: Path) -> None:
        server.offer("served", server.plan("a", "damaged"), server.plan("b", HALF, "whole"))
        noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
        iio.imwrite(tmp_path / "in.png", noise)
        dream = ("image", "in.png", "-m", "served", "--octaves", 1, "--steps", 1, "--json")
        listed = {m["name"]: m for m in json.loads(self.run(tmp_path, "models", "--json").stdout)["models"]}
        assert not listed["served"]["downloaded"]
        assert listed["served"]["bytes"] == len(NETWORK)
        assert listed["served"]["urls"] == [f"{server.address}/a", f"{server.address}/b"]
        assert listed["squeezenet1_1"]["downloaded"]

        forbidden = self.run(tmp_path, *dream, "--offline")
        assert forbidden.returncode == 2
        assert forbidden.stderr.startswith(f"error: served: {listed['served']['file']} does not exist, and downloads")
        assert self.run(tmp_path, *dream, ONNXDREAM_OFFLINE="1").stderr == forbidden.stderr
        assert server.log == []

        done = self.run(tmp_path, *dream)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("note: downloading served, 4.95 MB\n")
        assert json.loads(done.stdout)["model"] == "served"
        assert iio.imread(tmp_path / "in-dream.png").shape == noise.shape
        assert len(server.log) == 3
        again = self.run(tmp_path, *dream, "--offline", "-o", "again.png")
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "again.png").read_bytes() == (tmp_path / "in-dream.png").read_bytes()
        table = self.run(tmp_path, "models", COLUMNS="120").stdout
        assert "served" in table
        row = next(line for line in table.splitlines() if line.startswith("served"))
        assert row.split()[-2:] == ["fire3", "CC0"]
        assert " 4.95 MB " in row
        assert " yes " in row
        vgg16 = next(line for line in table.splitlines() if line.startswith("vgg16"))
        assert " 553 MB " in vgg16
        assert " no " in vgg16

    def test_quiet(self, server: Shelf, tmp_path: Path) -> None:
        server.offer("served", "a")
        made = self.run(
            tmp_path, "image", "--from-noise", "64x64", "-m", "served", "--octaves", 1, "--steps", 1, "-q",
            "-o", "out.png",
        )  # fmt: skip
        assert (made.returncode, made.stdout, made.stderr) == (0, "", "")

    @pytest.mark.parametrize(
        "arguments",
        [("layers", "served"), ("export", "served"), ("video", "a.mp4", "-o", "b.mp4", "-m", "served")],
        ids=lambda arguments: arguments[0],
    )
    def test_every_command_can_stay_offline(self, server: Shelf, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        server.offer("served", "a")
        done = self.run(tmp_path, *arguments, "--offline")
        assert done.returncode == 2
        assert done.stderr.startswith("error: served: ")
        assert "downloads are forbidden (offline)" in done.stderr
        assert server.log == []

    def test_failure_is_one_line(self, server: Shelf, tmp_path: Path) -> None:
        server.offer("served", server.plan("a", "damaged"))
        done = self.run(tmp_path, "layers", "served")
        assert done.returncode == 1
        note, error = done.stderr.splitlines()
        assert note == "note: downloading served, 4.95 MB"
        assert error.startswith("error: served (4.95 MB) cannot be downloaded (127.0.0.1:")

    @pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
    def test_a_bar_on_a_terminal(self, server: Shelf, tmp_path: Path) -> None:
        import pty

        server.offer("served", server.plan("a", "held"))
        ours, theirs = pty.openpty()
        program = command("layers", "served", "--json")
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment) as process:
            os.close(theirs)
            shown = b""
            while b"2.5/5.0" not in shown and b"2.4/5.0" not in shown:
                shown += os.read(ours, 4096)
            server.gate.set()
            assert process.stdout is not None
            assert json.loads(process.stdout.read())["model"] == "served"
        os.close(ours)
        assert b"served" in shown
        assert b"MB" in shown


def test_the_layers_of_networks_on_demand_are_named_as_in_their_files() -> None:
    """GoogLeNet comes from Caffe2, which calls what first goes into a blob BLOB_1, and parameters BLOB_w_0."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    skeleton = onnx.load(folder / "light_inception_v1.onnx")
    weights = {name for node in skeleton.graph.node for name in node.output if name.endswith("_w_0")}
    card = Card.read(registry.networks()["googlenet"])
    blocks = [name.removesuffix("/output_1") for name in card.recommended]
    assert blocks == sorted(blocks)
    assert card.default in card.recommended
    for block in [name.removesuffix("/output_1") for name in card.aliases.values()]:
        assert {f"{block}/1x1_w_0", f"{block}/3x3_w_0", f"{block}/5x5_w_0", f"{block}/pool_proj_w_0"} <= weights
    for name, preset in PRESETS.items():
        recommended = Card.read(registry.networks()[preset["model"]]).recommended
        assert set(preset["layers"]) <= set(recommended), name
