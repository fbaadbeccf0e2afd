"""Fixed arrival rates: how many requests a second before callers wait, and what happens beyond."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .closed import Load
from .places import PYTHON, ROOT
from .servers import Server, ServerError

KNEE_P99_MS = 50.0
STEPS = 5
MOST_RAISES = 4
OVERLOAD = 3.0


@dataclass(frozen=True)
class Arrivals:
    """What came of a fixed rate; fields as in `open_loop.summary`."""

    rate_per_s: float
    goodput_per_s: float
    accepted: int
    refused: int
    other: int
    unsent: int
    unanswered: int
    p50_ms: float
    p99_ms: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    lag_p99_ms: float

    def kept_up(self, p99_ms: float = KNEE_P99_MS) -> bool:
        """Whether everyone was answered, and in time."""
        lost = self.refused + self.other + self.unsent + self.unanswered
        return lost == 0 and 0 < self.p99_ms < p99_ms


@dataclass(frozen=True)
class Overload:
    """One system at its knee, and at a multiple of what it can do."""

    capacity_per_s: float
    knee: Arrivals | None
    """None: not even the lowest rate tried kept p99 below the bar."""
    beyond: Arrivals


def measure_overload(server: Server, load: Load, *, capacity: float, seconds: float) -> Overload:
    """Find the knee below `capacity`, then ask for `OVERLOAD` times `capacity`."""

    def at(rate: float) -> Arrivals:
        return arrivals(server, load, rate=rate, seconds=seconds)

    knee = search(at, low=0.0, high=capacity * 1.1)
    capacity = max(capacity, knee.rate_per_s if knee else 0.0)
    beyond = at(OVERLOAD * capacity)
    server.settle()  # callers are gone; a service that does not notice works on for nobody
    return Overload(capacity, knee, beyond)


def search(
    at: Callable[[float], Arrivals], *, low: float, high: float, p99_ms: float = KNEE_P99_MS
) -> Arrivals | None:
    """The best rate at which everyone was answered in time.

    `high` is raised while it is not too high, then the interval is halved `STEPS` times.
    """
    best = None
    for _ in range(MOST_RAISES):
        found = at(high)
        if not found.kept_up(p99_ms):
            break
        best, low, high = found, high, high * 1.5
    for _ in range(STEPS):
        found = at((low + high) / 2)
        if found.kept_up(p99_ms):
            best, low = found, found.rate_per_s
        else:
            high = found.rate_per_s
    return best


def arrivals(server: Server, load: Load, *, rate: float, seconds: float) -> Arrivals:
    with TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        bodies.write_bytes(b"\n".join(load.bodies) + b"\n")
        command = [
            *(str(PYTHON), "-m", "tests.bench.open_loop"),
            *(str(server.system.port), server.system.path, str(bodies)),
            *("--rate", str(rate), "--seconds", str(seconds)),
            *(f"--header={line}" for line in server.system.patience),
        ]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ServerError(f"the open loop failed: {result.stderr[-500:]}")
    return Arrivals(rate_per_s=rate, **json.loads(result.stdout.splitlines()[-1]))
