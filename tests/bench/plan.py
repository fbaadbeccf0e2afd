"""What is measured: the closed-loop cells, and what each asks of a system."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .closed import Cell, Load, measure, measure_count
from .loads import client_batches, single_texts
from .servers import Server
from .systems import System


@dataclass(frozen=True)
class Asked:
    """One closed-loop cell."""

    title: str
    load_of: Callable[[System], Load]
    requests_per_s: float | None = None
    """If given, so many requests are sent for each second of the measurement, and waited for."""

    def measure(self, server: Server, *, seconds: float) -> Cell:
        load = self.load_of(server.system)
        if self.requests_per_s is None:
            return measure(server, load, seconds=seconds)
        requests = max(load.callers, round(self.requests_per_s * seconds))
        return measure_count(server, load, requests=requests)


def _singles(callers: int) -> Asked:
    return Asked(f"1 text, c = {callers}", partial(single_texts, callers=callers))


def _batches(batch: int, callers: int, *, requests_per_s: float) -> Asked:
    load_of = partial(client_batches, batch=batch, callers=callers)
    return Asked(f"{batch} texts, c = {callers}", load_of, requests_per_s)


CLOSED = {
    **{f"c{callers}": _singles(callers) for callers in (1, 16, 64, 256)},
    "b32": _batches(32, 4, requests_per_s=4),
    "b512": _batches(512, 2, requests_per_s=0.5),
}
CELLS = (*CLOSED, "limit", "overload")
