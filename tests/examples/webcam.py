"""Dream the webcam: python webcam.py [CAMERA OR FILE]; Escape ends it."""

import sys

import cv2
import onnxdream

source = sys.argv[1] if len(sys.argv) > 1 else "0"
capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
dreamer = onnxdream.create_video_dreamer("fire5", target_fps=25)
while (read := capture.read())[0] and cv2.waitKey(1) != 27:
    cv2.imshow("dream", dreamer.apply(read[1]))
