"""Dream only what moves, by background subtraction: python what_moves.py IN OUT.mp4."""

import sys

import cv2
import numpy as np
import onnxdream

capture = cv2.VideoCapture(sys.argv[1])
width, height, rate = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS))
writer = cv2.VideoWriter(sys.argv[2], cv2.VideoWriter.fourcc(*"mp4v"), rate, (int(width), int(height)))
background = cv2.createBackgroundSubtractorMOG2(varThreshold=50, detectShadows=False)
dreamer = onnxdream.create_video_dreamer("fire5", octaves=3)
while (read := capture.read())[0]:
    frame = read[1]
    moving = cv2.morphologyEx(background.apply(frame), cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    writer.write(dreamer.apply(frame, cv2.GaussianBlur(moving, (0, 0), 4)))
writer.release()
