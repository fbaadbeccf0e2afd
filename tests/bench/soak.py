"""The service for many minutes near its capacity: does it grow, does it fail, does it slow down?

    python -m tests.bench.soak [--system "ours int8"] [--minutes 20] [--share 0.8]

Mixed lengths at a fixed arrival rate, a share of the highest just before at which nobody was lost
and p99 was half of what callers wait at most: what a closed loop reaches is more than an open one
bears. A row per minute; the last line is JSON.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from statistics import linear_regression, median

from .closed import Load, measure
from .corpus import texts
from .environments import prepare
from .overload import Arrivals, arrivals, search
from .servers import Server, started
from .systems import INT8, SYSTEMS, System

TEXTS = 1_024
CAPACITY_S = 5.0
SEARCH_S = 5.0
P99_MS = 250.0
"""Half of the time that callers say an answer is of use for. The knee of `overload`, 50 ms, is set by
the longest texts alone on a slow machine."""
MINUTE_S = 60.0


@dataclass(frozen=True)
class Minute:
    """What one minute left behind."""

    answered: int
    """Requests since the beginning."""
    resident_mb: float
    arrivals: Arrivals


def mixed_texts(system: System) -> Load:
    """One text a request, some of them long."""
    bodies = tuple(system.body([text]) for text in texts("mixed", TEXTS))
    return Load(bodies=bodies, batch=1, callers=64, tokens_per_body=1.0)


def soak(server: Server, load: Load, *, rate: float, minutes: int) -> list[Minute]:
    found: list[Minute] = []
    answered = 0
    for number in range(minutes):
        came = arrivals(server, load, rate=rate, seconds=MINUTE_S)
        answered += came.accepted
        found.append(Minute(answered, server.memory().proportional / 1e6, came))
        lost = came.refused + came.other + came.unsent + came.unanswered
        print(
            f"{number + 1:3d} min {answered:8d} answered {lost:5d} lost "
            f"p50 {came.p50_ms:6.1f} p99 {came.p99_ms:7.1f} ms {found[-1].resident_mb:7.1f} MB",
            flush=True,
        )
    return found


def mb_per_10_000(minutes: list[Minute]) -> float:
    """Growth of resident memory over requests, by least squares, without the first tenth."""
    kept = minutes[len(minutes) // 10 :]
    slope = linear_regression([m.answered for m in kept], [m.resident_mb for m in kept]).slope
    return slope * 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description="The service for many minutes.")
    parser.add_argument("--system", choices=list(SYSTEMS), default=INT8)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.8)
    options = parser.parse_args()
    prepare()
    with started(SYSTEMS[options.system]) as server:
        server.wait_until_ready(texts("short", 2))
        server.resume()
        load = mixed_texts(server.system)
        capacity = measure(server, load, seconds=CAPACITY_S).requests_per_s
        borne = search(
            lambda rate: arrivals(server, load, rate=rate, seconds=SEARCH_S),
            low=0.0,
            high=capacity * 1.1,
            p99_ms=P99_MS,
        )
        if borne is None:
            raise SystemExit("even few requests waited too long")
        rate = options.share * borne.rate_per_s
        print(
            f"{options.system}: {capacity:.0f} requests/s in a closed loop, "
            f"{borne.rate_per_s:.0f} borne; asking for {rate:.0f}",
            flush=True,
        )
        minutes = soak(server, load, rate=rate, minutes=options.minutes)
    summary = {
        "system": options.system,
        "closed_per_s": capacity,
        "borne_per_s": borne.rate_per_s,
        "rate_per_s": rate,
        "mb_per_10_000_requests": mb_per_10_000(minutes),
        "p99_ms_median": median(m.arrivals.p99_ms for m in minutes),
        "minutes": [asdict(m) for m in minutes],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
