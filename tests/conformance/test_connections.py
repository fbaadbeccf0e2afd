"""One connection, used again and again, also after answers that came before the body was read."""

from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest
from live import Live

REFUSED = [
    ("POST", "/embed", {"json": {"texts": []}}, 422),
    ("POST", "/embed", {"content": b"no JSON"}, 400),
    ("POST", "/embed", {"content": b"\x1f\x8b", "headers": {"content-encoding": "gzip"}}, 415),
    ("POST", "/nowhere", {"content": b"x" * 100_000}, 404),
    ("PUT", "/embed", {"content": b"x" * 100_000}, 405),
    ("OPTIONS", "/v1/embeddings", {}, 405),
    ("HEAD", "/livez", {}, 200),
    ("HEAD", "/embed", {}, 405),
]


@pytest.mark.parametrize(("method", "path", "sent", "status"), REFUSED)
def test_a_connection_outlives_an_error(
    server: Live, method: str, path: str, sent: dict[str, object], status: int
) -> None:
    ports = set()

    def note(answer: httpx.Response) -> None:
        """The caller's own port: another one would be another connection."""
        ports.add(answer.extensions["network_stream"].get_extra_info("client_addr")[1])

    with httpx.Client(base_url=server.url, event_hooks={"response": [note]}) as http:
        first = http.post("/embed", json={"texts": "x"})
        refused = http.request(method, path, **sent)
        last = http.post("/embed", json={"texts": "x"})
    assert (first.status_code, refused.status_code, last.status_code) == (200, status, 200)
    assert len(ports) == 1


def test_without_a_key_a_large_body_is_refused_before_it_is_read(guarded: Live) -> None:
    with closing(HTTPConnection(urlsplit(guarded.url).netloc, timeout=30)) as connection:
        connection.putrequest("POST", "/embed")
        connection.putheader("content-length", "2000000")
        connection.endheaders()  # and none of it is sent
        assert connection.getresponse().status == 401


def test_without_a_key_a_large_body_is_in_nobodys_way(guarded: Live) -> None:
    texts = ["x" * 1_000] * 2_000
    with httpx.Client(base_url=guarded.url) as http:
        refused = http.post("/embed", json={"texts": texts})
        again = http.post("/embed", json={"texts": "x"}, headers={"authorization": "bearer right"})
    assert (refused.status_code, again.status_code) == (401, 200)
