"""Callers who keep calling while the service is told to end."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

import pytest
from test_workers import running, wait_until

pytestmark = pytest.mark.slow
BODY = json.dumps({"texts": "hund"}).encode()
REQUEST = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_hardly_a_request_is_lost(toy_model_dir: Path, tmp_path: Path, workers: str) -> None:
    outcomes: Counter[str] = Counter()
    with running(toy_model_dir, tmp_path, WORKERS=workers) as service:
        wait_until(lambda: service.status("/readyz") == 200)
        port = int(service.url.rpartition(":")[2])
        calling = [asyncio.create_task(call_on(port, outcomes)) for _ in range(16)]
        while outcomes["200"] < 500:
            await asyncio.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await asyncio.gather(*calling)
        status, _ = await asyncio.to_thread(service.end)
    assert status == 0
    assert outcomes["503"] > 0
    # HTTP cannot rule it out: a request and the end of its connection may cross on the way.
    assert outcomes["lost"] <= 1


async def call_on(port: int, outcomes: "Counter[str]") -> None:
    """One caller after another, at once, until nobody listens any more."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            outcomes["lost"] += 1
            continue
        try:
            last = False
            while not last:
                status, last = await call(reader, writer)
                outcomes[status] += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            outcomes["lost"] += 1
        finally:
            writer.close()


async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, bool]:
    """The status, and whether it was the connection's last answer."""
    writer.write(REQUEST)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = head.partition("content-length: ")[2].partition("\r\n")[0]
    await reader.readexactly(int(length))
    return head.split()[1], "connection: close" in head
