"""A real Ray cluster on one machine: a head that takes no work and nodes that come and go."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.command_line import command, onnxdream, onnxdream_process
from helpers.paths import DATA
from onnxdream import objectives
from onnxdream.cli.exit_codes import BAD_INPUT, exit_code
from onnxdream.cluster.ray import ClusterProgress, RayCluster
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import ClusterError, OptionError, VideoError
from onnxdream.images import read_picture
from onnxdream.networks.model import Model
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.io.open import Encoding, finish, open_source, open_writer, read_segment
from onnxdream.video.job.chunks import Chunk, SegmentSplitter, find_chunks
from onnxdream.video.job.pipeline import JobSpec, SegmentPipeline
from onnxdream.video.job.worker import SegmentWorker

pytest.importorskip("ray", reason="the cluster's tests need ray: pip install onnxdream[ray]")
ray_cluster = pytest.importorskip("ray.cluster_utils")
cloudpickle = pytest.importorskip("ray.cloudpickle")

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
LOOK = ["-l", "fire3", "--octaves", "2", "--steps", "4", "--frame-steps", "1", "--size", "160", "--quiet", "--json"]
QUIET = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
CUTS = (0, 12, 25, 36)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with one each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = ray_cluster.Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    try:
        for _ in range(2):
            made.add_node(**NODE)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 frames with three cuts: the real clip, the same mirrored, a pan over a real photograph, the clip again; and
    the clip's sound.
    """
    folder = tmp_path_factory.mktemp("film")
    rocket = read_picture(DATA / "rocket.jpg").rgb.astype(np.uint8)
    with open_source(DATA / "clip.mp4") as clip:
        info = clip.info
        writer = open_writer(folder / "segment", info, Encoding(), folder / "film.mkv")
        for frame in clip.frames():
            scene = sum(frame.index >= cut for cut in CUTS)
            image = frame.image
            if scene == 2:
                image = 255 - image[:, ::-1]
            elif scene == 3:
                image = rocket[60 : 60 + info.height, 4 * frame.index : 4 * frame.index + info.width]
            writer.write(np.ascontiguousarray(image), frame.pts)
        writer.close()
    finish(folder / "film.mkv", [folder / "segment"], DATA / "clip.mp4", replace(info), metadata={})
    return folder / "film.mkv"


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files of every program that the test starts, not below that of the film."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setitem(QUIET, "TMPDIR", folder)
        yield Path(folder)


def dream(source: Path, out: Path, *more: object) -> dict[str, Any]:
    done = subprocess.run(
        command("video", source, "-o", out, *LOOK, *more), capture_output=True, text=True, env=QUIET, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def start(source: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("video", source, "-o", out, *LOOK, *more), stdout=-1, stderr=-1, text=True, env=QUIET
    )


def wait_for_segments(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the job of `out` has so many finished segments, or is over."""
    manifest = out.parent / f".{out.name}.onnxdream" / "manifest.jsonl"
    while process.poll() is None and not (manifest.is_file() and len(manifest.read_text().splitlines()) >= count + 1):
        time.sleep(0.02)


def content(path: Path) -> tuple[list[np.ndarray], list[Fraction], list[bytes]]:
    """Frames, their times, and the packets of sound."""
    with open_source(path) as video:
        found = [(f.image, f.pts * video.info.time_base) for f in video.frames()]
    with av.open(str(path)) as container:
        sound = [bytes(p) for p in container.demux(audio=0) if p.size] if container.streams.audio else []
    return [image for image, _ in found], [at for _, at in found], sound


def assert_same(first: Path, second: Path) -> None:
    (frames, times, sound), (other, other_times, other_sound) = content(first), content(second)
    assert times == other_times
    assert sound == other_sound
    for one, two in zip(frames, other, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def alone(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The film dreamed on one machine, without any options of a cluster."""
    out = tmp_path_factory.mktemp("alone") / "out.mkv"
    dream(film, out, "--segment-frames", 16)
    return out


@pytest.mark.slow
def test_a_film_with_a_node_removed_half_way_is_the_one_machine_s(
    cluster: Any, film: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mkv"
    process = start(film, out, "--segment-frames", 16, "--ray", cluster.address)
    wait_for_segments(out, 1, process)
    running = process.poll() is None
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    try:
        stdout, stderr = process.communicate(timeout=200)
    finally:
        process.kill()
        cluster.add_node(**NODE)
    assert process.returncode == 0, stderr
    assert len(content(out)[2]) > 10
    assert running, "the node was to go while the film was being dreamed"
    assert json.loads(stdout)["frames"] == 48
    assert_same(out, alone)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mkv"]


@pytest.mark.slow
def test_a_killed_driver_s_job_goes_on(cluster: Any, film: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    process = start(film, out, "--segment-frames", 16, "--ray", cluster.address)
    wait_for_segments(out, 1, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    record = dream(film, out, "--segment-frames", 16, "--ray", cluster.address)
    assert record["resumed_frames"] >= 12
    assert_same(out, alone)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mkv"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupt", "preview"])
def test_whoever_stops_leaves_no_task_behind(cluster: Any, film: Path, tmp_path: Path, how: str) -> None:
    """By Ctrl-C, or because what is told of the progress cannot be written; neither begins a cluster of its own."""
    out, preview, more = tmp_path / "out.mkv", tmp_path / "gone" / "now.jpg", []
    if how == "preview":
        preview.parent.mkdir()
        more = ["--preview", preview]
    sessions = set(Path("/tmp/ray").glob("session_2*"))
    process = start(film, out, "--segment-frames", 8, "--overlap", 2, "--steps", 40, "--ray", cluster.address, *more)
    wait_for_segments(out, 1, process)
    if how == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        shutil.rmtree(preview.parent)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if how == "interrupt" else 1), stderr
    assert stderr.count("\n") == 1, stderr
    assert set(Path("/tmp/ray").glob("session_2*")) == sessions
    before = {path.stat().st_mtime_ns for path in (tmp_path / ".out.mkv.onnxdream").rglob("*")}
    time.sleep(3)
    assert {path.stat().st_mtime_ns for path in (tmp_path / ".out.mkv.onnxdream").rglob("*")} == before


@pytest.mark.slow
def test_parts_of_a_long_shot_are_the_same_wherever_they_are_dreamed(cluster: Any, film: Path, tmp_path: Path) -> None:
    """Begun on the cluster, finished by one machine, against one machine alone."""
    timeline = tmp_path / "timeline.toml"
    timeline.write_text("[[at]]\ntime = 0.8\nstep_size = 2.5\n")
    options = ["--segment-frames", 8, "--overlap", 4, "--timeline", timeline]
    dream(film, tmp_path / "alone.mkv", *options)
    out = tmp_path / "out.mkv"
    process = start(film, out, *options, "--ray", cluster.address)
    wait_for_segments(out, 3, process)
    process.kill()
    process.communicate()
    assert dream(film, out, *options)["resumed_frames"] > 0
    assert_same(out, tmp_path / "alone.mkv")


def chunks_of(flags: str, segment_frames: int, overlap: int) -> list[tuple[int, int | None, int, int, int]]:
    frames = ((index, flag == "|", Fraction(index)) for index, flag in enumerate(flags))
    return [(s.first, s.stop, s.warm_up, s.fade, s.segments) for s in find_chunks(frames, segment_frames, overlap)]


def test_where_a_film_is_cut() -> None:
    shots = "|......." + "|......" + "|." + "|" + "." * 24
    assert chunks_of(shots, 8, 0) == [(0, 8, 0, 0, 1), (8, 15, 0, 0, 1), (15, 17, 0, 0, 1), (17, 42, 0, 0, 4)]
    assert chunks_of(shots, 8, 3)[:3] == chunks_of(shots, 8, 0)[:3]
    assert chunks_of(shots, 8, 3)[3:] == [
        (17, 25, 0, 3, 1), (25, 33, 3, 3, 1), (33, 41, 3, 3, 1), (41, 42, 3, 0, 1)
    ]  # fmt: skip
    assert chunks_of("|.|.......", 12, 3) == [(0, 10, 0, 0, 1)]  # short shots share a segment
    assert chunks_of("|" + "." * 7, 8, 3) == [(0, 8, 0, 0, 1)]  # one that just fits is not divided
    assert chunks_of("", 8, 3) == []


def test_frames_that_have_gone_are_missed(film: Path, squeezenet: Model, tmp_path: Path) -> None:
    dreamer = VideoDreamer(Dreamer(squeezenet, objectives.l2("fire3"), octaves=1, steps=1), size=(45, 80))
    spec = JobSpec(film, {}, tmp_path / "out.mkv", dreamer, Encoding(), segment_frames=96)
    with spec.open() as video, pytest.raises(VideoError, match="has 4 fewer frames"):
        list(SegmentPipeline(spec, video, Chunk(first=40, stop=52, cuts=(40,)), tmp_path))


def test_chunks_end_where_the_source_is_damaged() -> None:
    def frames() -> Iterator[tuple[int, bool, Fraction]]:
        yield from ((index, index == 0, Fraction(index)) for index in range(5))
        raise VideoError("broken")

    found = find_chunks(frames(), 8, 0)
    assert next(found).stop == 5
    with pytest.raises(VideoError, match="broken"):
        next(found)


def test_a_pipe_is_one_segment() -> None:
    begins_segment = SegmentSplitter(None)
    assert [begins_segment(cut) for cut in (True, False, True)] == [True, False, False]


def test_lost_tasks_are_retried_and_failing_ones_reported(cluster: Any, tmp_path: Path) -> None:
    def work(number: int, report: Any) -> int:
        if number == 2 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with (tmp_path / f"tried-{number}").open("a") as tries:
            tries.write("x")
        if number == 5:
            raise VideoError("this one cannot be read")
        return number * number

    results = []
    with pytest.raises(ClusterError, match="5 failed 3 times: this one cannot be read") as caught:
        results.extend(RayCluster(cluster.address).map(work, range(8)))
    assert sorted(results) == [(n, n * n) for n in range(8) if n != 5]
    assert exit_code(caught.value) == BAD_INPUT
    assert (tmp_path / "tried-5").read_text() == "xxx"


def test_progress_tells_who_is_at_work(cluster: Any) -> None:
    def work(number: int, report: Any) -> None:
        for done in range(20):
            report(done)
            time.sleep(0.1)

    seen: list[ClusterProgress] = []
    with RayCluster(cluster.address).connected():
        list(RayCluster(cluster.address).map(work, range(2), on_progress=seen.append))
    assert max(progress.workers for progress in seen) == 2
    assert max(progress.amount for progress in seen) > 10


def test_the_work_ends_when_the_callback_returns_false(cluster: Any) -> None:
    def work(number: int, report: Any) -> int:
        report(1)
        time.sleep(0.3)
        return number

    told: list[ClusterProgress] = []

    def stop(progress: ClusterProgress) -> bool:
        told.append(progress)
        return len(told) < 3

    results = list(RayCluster(cluster.address).map(work, itertools.count(), on_progress=stop))
    assert len(told) == 3
    assert sorted(results) == [(n, n) for n in sorted(n for n, _ in results)]


def test_no_more_at_once_than_asked_for(cluster: Any, tmp_path: Path) -> None:
    def work(number: int, report: Any) -> int:
        mine = tmp_path / f"at-work-{number}"
        mine.touch()
        time.sleep(0.2)
        count = len(list(tmp_path.iterdir()))
        mine.unlink()
        return count

    counts = [count for _, count in RayCluster(cluster.address, workers=1).map(work, range(4))]
    assert counts == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ray", "auto", "--workers", "0"], "workers"),
        (["--workers", "2"], "--ray"),
        (["--overlap", "97"], "overlap is 97"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    done = onnxdream("video", DATA / "clip.mp4", "-o", "out.mkv", *options, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("address", everyday(["127.0.0.1:1", "ray://127.0.0.1:1"], 2))
def test_a_cluster_that_cannot_be_reached_is_one_line(tmp_path: Path, address: str) -> None:
    options = ("-o", "out.mkv", "--ray", address)
    done = onnxdream_process("video", DATA / "clip.mp4", *options, folder=tmp_path, **QUIET)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert address in done.stderr


@pytest.mark.parametrize("options", [{"workers": 0}, {"cpus_per_worker": 0}, {"gpus_per_worker": 1.5}, {"retries": -1}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        RayCluster(**options)


def test_pictures_are_the_same_from_a_cluster(cluster: Any, tmp_path: Path) -> None:
    look = ["-l", "fire3", "--octaves", 2, "--steps", 1, "--size", 120, "--quiet", "--json"]
    for name in ("a", "b", "c"):
        shutil.copy(DATA / "rocket.jpg", tmp_path / f"{name}.jpg")
    (tmp_path / "broken.jpg").write_text("no picture")
    sources = ["a.jpg", "broken.jpg", "b.jpg", "c.jpg"]
    (tmp_path / "here").mkdir()
    (tmp_path / "far").mkdir()
    here = onnxdream("image", *sources, "-o", "here", *look, folder=tmp_path)
    far = onnxdream_process("image", *sources, "-o", "far", *look, "--ray", cluster.address, folder=tmp_path)
    assert here.returncode == far.returncode == 2
    assert here.stderr == far.stderr
    assert "broken.jpg" in far.stderr
    for name in ("a", "b", "c"):
        one, two = (tmp_path / folder / f"{name}-dream.png" for folder in ("here", "far"))
        assert one.read_bytes() == two.read_bytes()
    records = [json.loads(done.stdout)["pictures"] for done in (here, far)]
    assert [r["source"] for r in records[0]] == [r["source"] for r in records[1]] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.slow
def test_an_atlas_is_the_same_from_a_cluster(cluster: Any, tmp_path: Path) -> None:
    look = [
        "squeezenet1_1",
        "-l",
        "fire3",
        "-l",
        "fire4",
        "--channels",
        "0-9",
        "--steps",
        3,
        "--size",
        48,
        "--json",
        "-q",
    ]
    here = onnxdream_process("atlas", *look, "-o", "here", folder=tmp_path)
    far = onnxdream_process("atlas", *look, "-o", "far", "--ray", cluster.address, folder=tmp_path)
    assert (here.returncode, far.returncode) == (0, 0), far.stderr
    assert json.loads(far.stdout)["made"] == 20
    pictures = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").glob("*/channel-*.jpg"))
    assert len(pictures) == 20
    for name in [*pictures, Path("index.html")]:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "far" / name).read_bytes()


def test_the_same_chunk_twice_at_once_does_no_harm(film: Path, squeezenet: Model, tmp_path: Path) -> None:
    dreamer = VideoDreamer(Dreamer(squeezenet, objectives.l2("fire3"), octaves=1, steps=2, threads=1), size=(90, 160))
    spec = JobSpec(film, {}, tmp_path / "out.mkv", dreamer, Encoding(), segment_frames=16)
    workers = [cloudpickle.dumps(SegmentWorker(spec, tmp_path, None, pictures=False)) for _ in range(2)]
    chunk = Chunk(number=3, first=25, stop=36, cuts=(25,))
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda worker: cloudpickle.loads(worker)(chunk, lambda amount: None), workers)
    assert one.segments == two.segments
    assert [p.name for p in tmp_path.iterdir()] == ["segment-00003"]
    with open_source(film) as video:
        assert len(read_segment(tmp_path / "segment-00003", video.info)) == 11


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["film", "pictures"])
def test_machines_without_a_common_disk(
    film: Path, alone: Path, tmp_path: Path, temporary_folder: Path, kind: str
) -> None:
    """A node that does not see the files here, in a mount namespace of its own."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to make a mount namespace: the node would see the same disk")
    source, options = film, ["--segment-frames", 16]
    if kind == "pictures":
        source, options = tmp_path / "pictures", [*options, "--rate", 10, "--end", "2.5"]
        source.mkdir()
        for number, frame in enumerate(content(film)[0]):
            iio.imwrite(source / f"{number}.png", frame)
        alone = tmp_path / "alone.mkv"
        dream(source, alone, *options)
    hidden = film.parent.parent
    out = tmp_path / "out.mkv"
    made = ray_cluster.Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    start_node = f"{sys.executable} -m ray.scripts.scripts start --address={made.address} --num-cpus=1 --block"
    hide = f"mount -t tmpfs none {hidden} && exec {start_node} --object-store-memory={80 << 20}"
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", hide], stdout=-3, stderr=-3, env=QUIET)
    try:
        if kind == "film":  # a driver that is killed leaves the film on the node, where the next one finds it
            killed = start(source, out, *options, "--ray", made.address)
            wait_for_segments(out, 1, killed)
            killed.kill()
            killed.communicate()
            assert len(list(temporary_folder.glob("onnxdream-*"))) == 1
        dream(source, out, *options, "--ray", made.address)
        left = list(temporary_folder.glob("onnxdream-*"))
    finally:
        node.terminate()
        node.wait(60)
        made.shutdown()
    frames, times, sound = content(out)
    expected = content(alone)
    assert (times, sound) == expected[1:]
    for one, two in zip(frames, expected[0], strict=True):
        np.testing.assert_array_equal(one, two)
    assert left == []


@pytest.mark.slow
def test_a_driver_outside_of_the_cluster(film: Path, alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="ray:// needs grpcio: pip install onnxdream[ray]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {**NODE, "num_cpus": 1, "ray_client_server_port": port}
    made = ray_cluster.Cluster(initialize_head=True, head_node_args=head)
    try:
        dream(film, tmp_path / "out.mkv", "--segment-frames", 16, "--ray", f"ray://127.0.0.1:{port}")
    finally:
        made.shutdown()
    assert_same(tmp_path / "out.mkv", alone)


@pytest.mark.slow
def test_a_source_that_is_damaged_meanwhile(cluster: Any, film: Path, alone: Path, tmp_path: Path) -> None:
    """What cannot be read is named by its time, the rest is kept, and the mended source is gone on with."""
    source, out = tmp_path / "film.mkv", tmp_path / "out.mkv"
    shutil.copy2(film, source)
    whole, stat = source.read_bytes(), source.stat()
    process = start(source, out, "--segment-frames", 16, "--ray", cluster.address)
    wait_for_segments(out, 1, process)
    while not (tmp_path / ".out.mkv.onnxdream" / "chunks.json").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    source.write_bytes(whole[: len(whole) * 3 // 5])
    stderr = process.communicate()[1]
    assert process.returncode == 2
    assert "failed 3 times" in stderr
    assert "0:01." in stderr
    assert "frames are kept" in stderr
    assert stderr.count("\n") == 1
    source.write_bytes(whole)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    options = ["--segment-frames", 16, "--ray", cluster.address]
    assert dream(source, out, *options)["resumed_frames"] >= 12
    assert_same(out, alone)


@pytest.mark.slow
def test_a_gpu_per_worker(cluster: Any, film: Path, tmp_path: Path) -> None:
    """Only a node with a GPU takes the work, and it is said when that GPU is left idle."""
    node = cluster.add_node(**NODE, num_gpus=1)
    options = ["--segment-frames", 16, "--end", 1, "--ray", cluster.address, "--gpus-per-worker", 0.5]
    try:
        told = [v for v in LOOK if v != "--quiet"]
        done = onnxdream_process("video", film, "-o", "out.mkv", *told, *options, folder=tmp_path)
    finally:
        cluster.remove_node(node)
    assert done.returncode == 0, done.stderr
    assert "dreams on its CPU" in done.stderr
    assert json.loads(done.stdout)["frames"] == 25
