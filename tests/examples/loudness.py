"""Blend two layers by how loud it is, quiet waves and loud creatures: python loudness.py IN OUT.mp4."""

import sys

import av
import cv2
import numpy as np
import onnxdream

with av.open(sys.argv[1]) as video:
    rate = float(video.streams.video[0].average_rate)
    heard = [(f.time, np.square(f.to_ndarray().astype(float)).mean() ** 0.5) for f in video.decode(audio=0)]
times, loud = np.array(heard).T
loud = np.convolve(loud / loud.max(), np.ones(5) / 5, "same")  # 0..1, and no flicker

capture = cv2.VideoCapture(sys.argv[1])
quiet, noisy = (onnxdream.create_video_dreamer(layer, octaves=3) for layer in ("fire4", "fire8"))
writer = None
for number in range(sys.maxsize):
    ok, frame = capture.read()
    if not ok:
        break
    weight = float(np.interp(number / rate, times, loud))
    dream = cv2.addWeighted(noisy.apply(frame), weight, quiet.apply(frame), 1 - weight, 0)
    if writer is None:
        writer = cv2.VideoWriter(sys.argv[2], cv2.VideoWriter.fourcc(*"mp4v"), rate, dream.shape[1::-1])
    writer.write(dream)
writer.release()
