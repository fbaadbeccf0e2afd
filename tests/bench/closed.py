"""Closed loop: a fixed number of callers, each of whom asks again when it is answered.

wrk does the asking, because it costs a fraction of what is measured. Its latencies leave out
what callers would have asked while they waited (coordinated omission): they compare systems at
equal concurrency, and say nothing about a fixed arrival rate; `open_loop` does. Requests that
take about as long as a measurement are counted instead, by threads of our own.
"""

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from .figures import percentile
from .places import HERE
from .servers import Server, ServerError

TIMEOUT_S = 60
BROKEN = 0
"""Instead of a status, where none came."""


@dataclass(frozen=True)
class Load:
    """What is asked: bodies of `batch` texts each, from `callers` at a time."""

    bodies: tuple[bytes, ...]
    batch: int
    callers: int
    tokens_per_body: float


@dataclass(frozen=True)
class Cell:
    """What one system did under one load."""

    requests_per_s: float
    texts_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_s_per_million_tokens: float
    not_answered: int
    """Answers that were no 200, and connections that broke."""


def measure(server: Server, load: Load, *, seconds: float) -> Cell:
    """Ask for about `seconds`, after one answer that is not counted.

    Raises:
        ServerError: wrk failed.
    """
    server.ask(load.bodies[0], timeout_s=TIMEOUT_S)
    return _measured(server, load, lambda: _wrk(server, load, seconds=seconds))


def measure_count(server: Server, load: Load, *, requests: int) -> Cell:
    """Ask `requests` times. Each takes so long that a first one more would hardly matter."""
    return _measured(server, load, lambda: _counted(server, load, requests=requests))


def _measured(server: Server, load: Load, ask: Callable[[], dict[str, Any]]) -> Cell:
    cpu_before = server.cpu_seconds()
    summary = ask()
    return cell_of(summary, load, cpu_s=server.cpu_seconds() - cpu_before)


def cell_of(summary: dict[str, Any], load: Load, *, cpu_s: float) -> Cell:
    """The figures of a summary as `cycle.lua` writes it."""
    per_s = summary["requests"] / (summary["duration_us"] / 1e6)
    tokens = max(1.0, summary["requests"] * load.tokens_per_body)
    return Cell(
        requests_per_s=per_s,
        texts_per_s=per_s * load.batch,
        p50_ms=summary["p50_us"] / 1e3,
        p95_ms=summary["p95_us"] / 1e3,
        p99_ms=summary["p99_us"] / 1e3,
        cpu_s_per_million_tokens=cpu_s / tokens * 1e6,
        not_answered=summary["not_2xx"] + summary["broken"],
    )


def _wrk(server: Server, load: Load, *, seconds: float) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        bodies.write_bytes(b"\n".join(load.bodies) + b"\n")
        command = [
            *("wrk", "--threads", "1", "--connections", str(load.callers)),
            *("--duration", f"{max(1, round(seconds))}s", "--timeout", f"{TIMEOUT_S}s"),
            *("--script", str(HERE / "cycle.lua"), f"http://127.0.0.1:{server.system.port}"),
            *("--", server.system.path, str(bodies)),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse(result.stdout, result.stderr)


def parse(output: str, problems: str = "") -> dict[str, Any]:
    """The summary that `cycle.lua` writes as wrk's last line.

    Raises:
        ServerError: there is none.
    """
    lines = output.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        raise ServerError(f"wrk gave no summary: {output[-300:]} {problems[-300:]}")
    summary: dict[str, Any] = json.loads(lines[-1])
    return summary


def _counted(server: Server, load: Load, *, requests: int) -> dict[str, Any]:
    def ask(body: bytes) -> tuple[int, float]:
        asked_at = perf_counter()
        try:
            status, _ = server.ask(body, timeout_s=TIMEOUT_S)
        except OSError:  # too slow, or gone
            status = BROKEN
        return status, (perf_counter() - asked_at) * 1e6

    began_at = perf_counter()
    with ThreadPoolExecutor(load.callers) as callers:
        answers = list(callers.map(ask, islice(cycle(load.bodies), requests)))
    duration_us = (perf_counter() - began_at) * 1e6
    taken_us = [microseconds for _, microseconds in answers]
    statuses = [status for status, _ in answers]
    if broken := statuses.count(BROKEN):
        server.settle()  # it may still work on what was given up
    return {
        "requests": statuses.count(200),
        "duration_us": duration_us,
        **{f"p{share}_us": percentile(taken_us, share) for share in (50, 95, 99)},
        "not_2xx": requests - statuses.count(200) - broken,
        "broken": broken,
    }
