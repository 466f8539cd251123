"""A model server of one's own on 127.0.0.1 that can fail in every way a real one does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Shelf:
    """Serves `content` under every address; what happens there is said with `plan`.

    A plan is a list of acts, one a request, the last repeated: "whole", "damaged" (one byte differs), "short" (its end
    is missing), "endless" (no length is given, and too much comes), "unranged" (Range is ignored), "elsewhere" (a
    redirection to /whole), a status code, or the number of bytes after which the connection is cut. With "held" half of
    the answer comes, and the rest when `gate` is set.
    """

    def __init__(self, content: bytes, models: Path) -> None:
        self.content = content
        self.models = models
        self.plans: dict[str, list[str | int]] = {}
        self.log: list[tuple[str, str | None]] = []  # (address, Range) of every request
        self.sent = 0  # bytes of content
        self.gate = threading.Event()
        self.half_sent = threading.Event()
        self.address = ""

    def offer(self, name: str, *mirrors: str, **changes: Any) -> Path:
        """Write the card of the network `name` that is to be fetched from `mirrors`."""
        card = {
            "urls": [mirror if "://" in mirror else f"{self.address}/{mirror}" for mirror in mirrors],
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "bytes": len(self.content),
            "title": "A served network",
            "licence": "CC0; really",
            "preprocessing": {"channels": "BGR", "mean": [1, 2, 3], "std": [4, 5, 6]},
            "recommended": ["fire3"],
        }
        self.models.mkdir(exist_ok=True)
        path = self.models / f"{name}.json"
        path.write_text(json.dumps({k: v for k, v in {**card, **changes}.items() if v is not None}))
        return path

    def plan(self, mirror: str, *acts: str | int) -> str:
        self.plans[f"/{mirror}"] = list(acts)
        return mirror

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.log.append((request.path, asked))
        plan = self.plans.get(request.path, ["whole"])
        act = plan.pop(0) if len(plan) > 1 else plan[0]
        if isinstance(act, int) and 400 <= act < 600:
            request.send_error(act)
            return
        if act == "elsewhere":
            request.send_response(302)
            request.send_header("Location", f"{self.address}/whole")
            request.end_headers()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and act != "unranged" else 0
        body = self.content[:-1000] if act == "short" else self.content
        if act == "damaged":
            body = body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]
        body = body[start:] + (b"!" if act == "endless" else b"")
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{start + len(body)}")
        if act != "endless":
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if isinstance(act, int):
            body = body[:act]
        if act == "held":
            half = len(body) // 2
            self._send(request, body[:half])
            self.half_sent.set()
            self.gate.wait(60)
            body = body[half:]
        self._send(request, body)

    def _send(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        try:
            request.wfile.write(body)
            request.wfile.flush()
            self.sent += len(body)
        except OSError:  # whoever asked has gone
            pass


@contextmanager
def shelf(content: bytes, models: Path) -> Iterator[Shelf]:
    made = Shelf(content, models)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        made.address = f"http://127.0.0.1:{server.server_port}"
        yield made
        made.gate.set()
        server.shutdown()
        thread.join()
