"""A network camera: python mjpeg_server.py FILE PORT serves a video as MJPEG over HTTP, 25 pictures a second."""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2


class Camera(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        due = time.perf_counter()
        while True:
            for jpeg in PICTURES:
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return
                due += 0.04
                time.sleep(max(0.0, due - time.perf_counter()))

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    capture, PICTURES = cv2.VideoCapture(sys.argv[1]), []
    while (read := capture.read())[0]:
        PICTURES.append(cv2.imencode(".jpg", cv2.resize(read[1], (160, 90)))[1].tobytes())
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Camera)
    print(server.server_address[1], flush=True)
    server.serve_forever()
