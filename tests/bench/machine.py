"""This machine, for people to read; and how busy others keep it while we measure."""

import os
import resource
import time
from pathlib import Path

from .processes import TICKS_PER_S
from .servers import Server

INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")


def description() -> str:
    """How many processors, and the instruction sets that matter."""
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            break
    known = ", ".join(name for name in INSTRUCTIONS if name in flags)
    return f"{len(os.sched_getaffinity(0))} CPUs ({known or 'baseline'})"


def busy_seconds() -> float:
    """Of all processors together, since the machine started; stolen time counts as busy."""
    values = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, values[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def _own_seconds() -> float:
    """Of this process and of the children it has waited for, such as wrk."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Observer:
    """How many processors others keep busy while one server is measured."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began_at = time.perf_counter()
        self._before = self._others_s()

    def foreign_cpus(self) -> float:
        """Since this was made: neither the server's nor the load generator's."""
        taken_s = time.perf_counter() - self._began_at
        return max(0.0, self._others_s() - self._before) / taken_s

    def _others_s(self) -> float:
        return busy_seconds() - self._server.cpu_seconds() - _own_seconds()
