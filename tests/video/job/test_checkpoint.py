"""Records of a job on the disk: what is read back, what is refused, and who may write."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from onnxdream.errors import OptionError, OutputError
from onnxdream.video.job.checkpoint import Checkpoint, JobRecord, Manifest, Segment, digest_of, manifest_lines
from onnxdream.video.job.chunks import Chunk, ChunkList

JOB = JobRecord(
    source=["clip\udcff.mp4", "3f"],  # a name that is no UTF-8
    format="VideoInfo()",
    encoding="Encoding()",
    options=["None", "1"],
    settings={"layers": ("fire3",), "size": None},
    network="ab",
    guide="",
    engine="cpu",
)


def opened(target: Path, job: JobRecord = JOB, *, unchanged: bool = True) -> Checkpoint:
    return Checkpoint.open(target, job, resume=True, chain=False, unchanged=lambda segments: unchanged)


def segment(folder: Path, number: int) -> Segment:
    name = f"segment-{number:05d}"
    (folder / name).write_text(f"frames of {number}")
    return Segment(name, frames=3, objective=float("nan"), next_frame=3 * number + 3, state="", digest="d1")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The target of an unfinished job with two segments."""
    checkpoint = opened(tmp_path / "out.mp4")
    for number in (1, 0):  # in the order they were finished
        checkpoint.add(segment(checkpoint.folder, number))
    checkpoint.release(keep=True)
    return tmp_path / "out.mp4"


def test_a_job_is_resumed_with_its_segments_in_order(target: Path) -> None:
    checkpoint = opened(target)
    assert [path.read_text() for path in checkpoint.files()] == ["frames of 0", "frames of 1"]
    assert checkpoint.frames == 6
    assert checkpoint.has(0, 2)
    assert not checkpoint.has(1, 2)
    checkpoint.release(keep=False)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"settings": {"layers": ("fire4",), "size": None}}, "settings"),
        ({"options": ["None", "2"], "engine": "openvino"}, "engine, options"),
        ({"source": ["clip\udcff.mp4", "40"]}, "source"),
    ],
)
def test_another_job_is_refused(target: Path, change: dict[str, object], name: str) -> None:
    with pytest.raises(OptionError, match=rf"other settings is there \({name} changed\).*--restart"):
        opened(target, replace(JOB, **change), unchanged=False)
    opened(target).release(keep=True)  # nothing was lost, and the lock is free


def test_a_job_of_an_earlier_version_is_refused_by_what_differs(target: Path) -> None:
    manifest = target.parent / ".out.mp4.onnxdream" / "manifest.jsonl"
    header = {**json.loads(manifest.read_text().splitlines()[0]), "fingerprint": 7}
    del header["engine"]
    manifest.write_text(json.dumps(header) + "\n")
    with pytest.raises(OptionError, match=r"\(engine, fingerprint changed\)"):
        opened(target)


def test_a_finished_part_keeps_its_state_files_for_the_next(target: Path) -> None:
    checkpoint = opened(target)
    for number in (2, 3, 4):
        state = checkpoint.folder / f"state-{number:05d}.npz"
        state.write_text("state")
        checkpoint.add(replace(segment(checkpoint.folder, number), state=state.name))
    assert [path.name for path in sorted(checkpoint.folder.glob("state-*"))] == ["state-00003.npz", "state-00004.npz"]
    assert checkpoint.segments[-1].state_digest == digest_of(checkpoint.folder / "state-00004.npz") != ""


def test_another_run_is_kept_out(target: Path) -> None:
    first = opened(target)
    with pytest.raises(OutputError, match="another run is making it; let it finish, or stop it"):
        opened(target)
    first.release(keep=True)
    opened(target).release(keep=True)


@pytest.mark.parametrize(
    "change",
    [{"file": "../precious"}, {"file": 3}, {"state": "/etc/passwd"}, {"frames": -1}, {"frames": "3"}, {"more": 1}],
)
def test_what_is_no_segment_ends_the_manifest(tmp_path: Path, change: dict[str, object]) -> None:
    good = Segment("segment-00000", frames=3, objective=1.5, next_frame=3, state="", digest="d1")
    odd = {**asdict(good), "file": "segment-00001", **change}
    lines = manifest_lines(JOB, good) + json.dumps(odd).encode() + b"\n" + manifest_lines(good)
    (tmp_path / "manifest.jsonl").write_bytes(lines)
    manifest = Manifest.read(tmp_path / "manifest.jsonl")
    assert (manifest.segments, manifest.damaged) == ([good], True)
    assert manifest.job is not None
    assert JOB.changes(manifest.job) == []


def test_a_line_cut_off_is_no_damage(tmp_path: Path) -> None:
    good = Segment("segment-00000", frames=3, objective=1.5, next_frame=3, state="", digest="d1")
    (tmp_path / "manifest.jsonl").write_bytes(manifest_lines(JOB, good) + b'{"file": "segm')
    manifest = Manifest.read(tmp_path / "manifest.jsonl")
    assert (manifest.segments, manifest.damaged) == ([good], False)


def test_chunks_are_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "chunks.json"
    assert ChunkList.load(path) is None
    chunks = ChunkList(
        [Chunk(0, 0, 12, cuts=(0, 7), segments=2, end_time=0.5), Chunk(2, 12, 30, 4, 4)], "a.mp4: broken"
    )
    chunks.save(path)
    assert ChunkList.load(path) == chunks
    for damaged in ("{}", path.read_text()[:-9], path.read_text().replace("12", '"12"', 1), "[]"):
        path.write_text(damaged)
        assert ChunkList.load(path) is None
