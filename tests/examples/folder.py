"""Dream every picture of a folder into another: python folder.py IN OUT."""

import sys
from pathlib import Path

import cv2
import onnxdream

source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(exist_ok=True)
dreamer = onnxdream.create_video_dreamer(preset="ribbons", octaves=3)
for path in sorted(source.iterdir()):
    picture = cv2.imread(str(path))
    if picture is not None:
        dreamer.reset()  # the pictures have nothing to do with one another
        cv2.imwrite(str(target / f"{path.stem}.png"), dreamer.apply(picture))
