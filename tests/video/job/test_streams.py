"""Whole jobs on films with sound, subtitles and chapters."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from helpers.films import packets
from helpers.jobs import film, flash, flash_times, job, strength, times
from helpers.notes import notes
from onnxdream.dream.dreamer import Dreamer


def chapters(path: Path) -> list[tuple[Fraction, str]]:
    with av.open(str(path)) as container:
        return [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in container.chapters()]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_everything_beside_the_pictures_is_copied(tmp_path: Path, look: Dreamer, suffix: str) -> None:
    source, target = film(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}"
    with notes() as told:
        job(source, target, look, segment_frames=9)
    assert not told
    for kind, count in (("audio", 2), ("subtitle", 1)):
        for number in range(count):
            copied = packets(target, kind, number)
            assert copied == packets(source, kind, number)
            assert len(copied) >= 2
    assert chapters(target) == chapters(source) == [(0, "one"), (Fraction(12, 25), "two")]
    with av.open(str(target)) as container:
        assert (container.metadata["title"], (container.metadata.get("artist") or container.metadata["ARTIST"])) == (
            "Film",
            "Blender",
        )
        assert [s.language for s in container.streams if s.type in ("audio", "subtitle")] == ["eng", "ger", "fre"]
    assert times(target) == times(source)
    assert strength(source, target) > 1


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("target", ["b.mov", "b.mkv"])
def test_a_part_of_a_film_stays_in_sync(tmp_path: Path, look: Dreamer, target: str, every: int) -> None:
    source, target = flash(tmp_path / "a.mov"), tmp_path / target
    job(
        source,
        target,
        look,
        start=Fraction(13, 25) - Fraction(1, 100),
        end=Fraction(8, 5),
        every=every,
        segment_frames=8,
    )
    assert times(target)[0] == 0
    assert len(times(target)) == 27
    light, sound = flash_times(target)
    assert light == Fraction(12, 25)
    assert abs(sound - float(light)) < 0.002
    with av.open(str(target)) as container:
        last = list(container.decode(audio=0))[-1]
        assert float(last.pts * last.time_base) < 1.09
