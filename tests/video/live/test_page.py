"""The page of `onnxdream live --serve`: whom it answers, and what."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest

from onnxdream.video.live.outputs import Page


@pytest.fixture
def page() -> Iterator[Page]:
    with Page(0, lambda: {"text": "all is well"}) as page:
        page.put(np.zeros((48, 64, 3), np.uint8), 0.0)
        yield page


@pytest.mark.parametrize("path", ["/", "/?x=1", "/frame.jpg", "/frame.jpg?t=1", "/status.json?", "/stream.mjpg?x=/"])
def test_the_page_answers_whatever_the_query(path: str, page: Page) -> None:
    address = urlsplit(page.address).netloc
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("HEAD", path)
    head = connection.getresponse()
    assert (head.status, head.read()) == (200, b"")
    with urllib.request.urlopen(page.address + path[1:]) as response:
        assert response.headers["Content-Type"] == head.headers["Content-Type"]
        assert response.read(2)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("LOCALHOST", 200), (None, 200),
        ("rebound.example", 403), ("rebound.example:8000", 403), ("localhost.rebound.example", 403), ("", 403),
    ],
)  # fmt: skip
def test_the_page_is_for_this_machine_alone(host: str | None, status: int, page: Page) -> None:
    """A page of another name that was made to lead here gets nothing."""
    for path in ("/", "/frame.jpg", "/stream.mjpg", "/status.json", "/none"):
        connection = http.client.HTTPConnection(urlsplit(page.address).netloc, timeout=20)
        connection.putrequest("HEAD", path, skip_host=True)
        if host is not None:
            connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status == (404 if path == "/none" and status == 200 else status)
        connection.close()
