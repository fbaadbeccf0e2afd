"""Open loop: requests leave at fixed times, whether or not earlier ones were answered.

    python -m tests.bench.open_loop PORT PATH BODIES --rate 200 --seconds 3

Latency counts from the time a request was due, so a stall counts for everyone who would have
asked meanwhile. A process of its own; its last line is JSON.
"""

import argparse
import asyncio
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import uvloop

from .figures import percentile

MAX_CONNECTIONS = 900
"""Below the usual limit of open files; a request beyond it is told as not sent."""
TICK_S = 0.001
"""Of the loop's clock. A shorter sleep is none, and who waits awake takes the CPU from whom is
measured: rather a request leaves late by less than that, which counts."""
PATIENCE_S = 10.0
"""How long the last answers are waited for."""


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, caller: "Caller") -> None:
        self._caller = caller
        self._transport: asyncio.Transport | None = None
        self._answer = bytearray()
        self._due_at = self._sent_at = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape alone

    def ask(self, request: bytes, due_at: float) -> None:
        assert self._transport is not None, "asked before it was connected"
        self._answer.clear()
        self._due_at, self._sent_at, self.busy = due_at, perf_counter(), True
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if found and len(body) >= _content_length(bytes(head)):
            self.busy = False
            self._caller.answered(self, int(head[9:12]), self._due_at, self._sent_at)

    def connection_lost(self, error: Exception | None) -> None:
        self._caller.lost(self)


class Caller:
    """Sends at fixed times over as many connections as it takes, and keeps the times."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._requests = requests
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._asking: set[asyncio.Task[None]] = set()
        self.waiting = 0
        self.latencies_s: dict[int, list[float]] = {}
        self.refusals_s: list[float] = []
        """From sending, not from due: the service cannot refuse what has not been sent."""
        self.lags_s: list[float] = []
        self.unsent = 0
        self.broken = 0

    async def run(self, *, rate: float, seconds: float) -> float:
        """Send `rate` a second; return how many seconds passed until the last one was sent."""
        began_at = perf_counter()
        for number in range(round(rate * seconds)):
            due_at = began_at + number / rate
            # Also when late: who sends without a pause reads no answers, and blames the service.
            await asyncio.sleep(0)
            while (early_s := due_at - perf_counter()) > 0:
                await asyncio.sleep(max(early_s, TICK_S))
            self._send(self._requests[number % len(self._requests)], due_at)
        sent_s = perf_counter() - began_at
        give_up_at = perf_counter() + PATIENCE_S
        while self.waiting and perf_counter() < give_up_at:
            await asyncio.sleep(0.01)
        return sent_s

    def _send(self, request: bytes, due_at: float) -> None:
        self.lags_s.append(perf_counter() - due_at)
        if self._idle:
            self.waiting += 1
            self._idle.pop().ask(request, due_at)
        elif self._open < MAX_CONNECTIONS:
            self.waiting += 1
            self._open += 1
            task = asyncio.create_task(self._connect_and_ask(request, due_at))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        else:
            self.unsent += 1

    async def _connect_and_ask(self, request: bytes, due_at: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            self.broken += 1
            self.waiting -= 1
            self._open -= 1
        else:
            connection.ask(request, due_at)

    async def close(self) -> None:
        """Hang up."""
        for connection in self._idle:
            connection.close()
        while self._open:
            await asyncio.sleep(0)

    def answered(self, connection: Connection, status: int, due_at: float, sent_at: float) -> None:
        now = perf_counter()
        self.latencies_s.setdefault(status, []).append(now - due_at)
        if status == 429:
            self.refusals_s.append(now - sent_at)
        self.waiting -= 1
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        self._open -= 1
        if connection.busy:
            self.broken += 1
            self.waiting -= 1
        elif connection in self._idle:
            self._idle.remove(connection)


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


def summary(caller: Caller, *, seconds: float, good_within_s: float) -> dict[str, Any]:
    """What came back. Goodput counts answers with 200 within `good_within_s` of their due time."""
    accepted = sorted(caller.latencies_s.get(200, []))
    good = sum(latency <= good_within_s for latency in accepted)
    return {
        "goodput_per_s": good / seconds,
        "accepted": len(accepted),
        "refused": len(caller.refusals_s),
        "other": sum(len(v) for k, v in caller.latencies_s.items() if k not in (200, 429)),
        "unsent": caller.unsent,
        "unanswered": caller.waiting + caller.broken,
        "p50_ms": percentile(accepted, 50) * 1e3,
        "p99_ms": percentile(accepted, 99) * 1e3,
        "refusal_p50_ms": percentile(caller.refusals_s, 50) * 1e3,
        "refusal_p99_ms": percentile(caller.refusals_s, 99) * 1e3,
        "lag_p99_ms": percentile(caller.lags_s, 99) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Requests at fixed times.")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--good-within-s", type=float, default=1.0)
    parser.add_argument("--header", action="append", default=[], help="a further line of the head")
    options = parser.parse_args()
    lines = ("host: bench", "content-type: application/json", *options.header)
    head = "".join(f"{line}\r\n" for line in (f"POST {options.path} HTTP/1.1", *lines))
    requests = [
        f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        for body in options.bodies.read_bytes().splitlines()
    ]
    caller = Caller(options.port, requests)
    seconds = uvloop.run(caller.run(rate=options.rate, seconds=options.seconds))
    print(json.dumps(summary(caller, seconds=seconds, good_within_s=options.good_within_s)))


if __name__ == "__main__":
    main()
