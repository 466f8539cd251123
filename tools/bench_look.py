"""Measure what every bundled preset does to photographs: speckle, light, colour, burnt pixels, and what it costs.

    python tools/bench_look.py [--size 640] [--photos a.jpg,b.jpg] [--presets eyes,waves] [--folder DIR] [--json]

Without --photos, six from wheels: astronaut, chelsea, coffee and rocket of scikit-image, china and flower of
scikit-learn. Each is dreamed by the preset, and once more by its plain step (`--bands none --colors free --headroom 0`,
the same number of steps) right after. Medians over the photographs of

- `speck`, `mid`: shares of the added lightness energy above 0.25 and in 0.02 to 0.1 cycles a pixel, in percent;
- `dL`, `dC`: changes of the mean lightness and of the mean chroma, CIELAB;
- `clip`: percentage points of pixels newly at 0 or 255 in one channel;
- `gain`: the objective after over before; `of plain`: the same over that of the plain step;
- `time`: seconds over those of the plain step.

--folder keeps the dreams there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from onnxdream.dream.build import build_dreamer
from onnxdream.images import Picture, read_picture, write_picture
from onnxdream.networks import registry
from onnxdream.settings import PLAIN, PRESETS, RunSettings, Settings, layered

DEFAULT = "(default)"


def fetch(folder: Path) -> list[Path]:
    """The six photographs."""
    import skimage

    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), "scikit-learn"]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("scikit_learn*.whl"))) as wheel:
        others = [Path(wheel.extract(f"sklearn/datasets/images/{name}.jpg", folder)) for name in ("china", "flower")]
    data = Path(skimage.__file__).parent / "data"
    return [*(data / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")), *others]


def load(path: Path, size: int) -> np.ndarray:
    """A photograph, RGB float32 [H,W,3] in 0..255, its longer side `size` pixels."""
    rgb = read_picture(path).rgb
    scale = size / max(rgb.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.clip(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=method), 0, 255)


def measure(photo: np.ndarray, dream: np.ndarray) -> dict[str, float]:
    """How a dream differs from its photograph, both float32 RGB [H,W,3] in 0..255; see above."""
    before, after = (cv2.cvtColor(picture / np.float32(255), cv2.COLOR_RGB2Lab) for picture in (photo, dream))
    height, width = photo.shape[:2]
    added = (after - before)[..., 0]
    window = np.outer(np.hanning(height), np.hanning(width))
    energy = np.abs(np.fft.fft2((added - added.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))

    def share(low: float, high: float) -> float:
        return float(100 * energy[(frequency >= low) & (frequency < high)].sum() / energy.sum())

    chroma = [float(np.hypot(lab[..., 1], lab[..., 2]).mean()) for lab in (before, after)]
    burnt = [float(100 * ((p < 0.5) | (p >= 254.5)).any(axis=2).mean()) for p in (photo, dream)]
    return {
        "speck": share(0.25, 1), "mid": share(0.02, 0.1), "dL": float(added.mean()), "dC": chroma[1] - chroma[0],
        "clip": burnt[1] - burnt[0],
    }  # fmt: skip


def bench(name: str, photos: dict[str, np.ndarray], folder: Path | None, threads: int) -> dict[str, float]:
    """The medians of one preset."""
    settings = Settings() if name == DEFAULT else layered({}, preset=name)
    dreamer, plain = (
        build_dreamer(s, max_memory=RunSettings.max_memory, threads=threads)
        for s in (settings, settings.updated(PLAIN))
    )
    rows = []
    for title, photo in photos.items():
        dream, rival = dreamer.dream(photo), plain.dream(photo)
        if folder is not None:
            write_picture(folder / f"{title}-{name.strip('()')}.png", Picture(dream.exact), settings.stored())
        rows.append({
            **measure(photo, dream.exact), "gain": dream.objective_after / dream.objective_before,
            "of plain": dream.objective_after / rival.objective_after, "time": dream.seconds / rival.seconds,
        })  # fmt: skip
    return {key: float(np.median([row[key] for row in rows])) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--photos", default="")
    parser.add_argument("--presets", default="")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(p) for p in arguments.photos.split(",") if p] or fetch(Path(scratch))
        photos = {path.stem: load(path, arguments.size) for path in paths}
    names = [name for name in arguments.presets.split(",") if name] or [
        DEFAULT,
        *(n for n in PRESETS if PRESETS[n]["model"] in registry.bundled()),
    ]
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name in names:
        rows[name] = bench(name, photos, arguments.folder, arguments.threads)
    if arguments.json:
        print(json.dumps({"size": arguments.size, "photos": list(photos), "presets": rows}))
        return
    table = Table("preset", *next(iter(rows.values())), box=None)
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
