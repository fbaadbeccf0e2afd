"""What a tree of processes has used, read from the kernel: processor time and memory."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """Of a whole tree, in bytes. Proportional: pages shared by n processes count 1/n for each."""

    proportional: int
    peak_resident: int


def tree(root_pid: int) -> list[int]:
    """The process and everything it started that is still there."""
    found, waiting = [], [root_pid]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for children in PROC.glob(f"{pid}/task/*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except OSError:  # the thread ended meanwhile
                continue
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of all threads."""
    return sum(_cpu_seconds(PROC / str(pid) / "stat") for pid in pids)


def thread_cpu_seconds(pid: int) -> dict[int, float]:
    """User and system time of each thread of one process."""
    return {int(task.name): _cpu_seconds(task / "stat") for task in PROC.glob(f"{pid}/task/*")}


def _cpu_seconds(stat: Path) -> float:
    # The name in brackets may hold spaces; what follows does not.
    values = stat.read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / TICKS_PER_S


def memory(pids: list[int]) -> Memory:
    proportional = peak = 0
    for pid in pids:
        proportional += _kilobytes(PROC / str(pid) / "smaps_rollup", "Pss")
        peak += _kilobytes(PROC / str(pid) / "status", "VmHWM")
    return Memory(proportional * 1024, peak * 1024)


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _kilobytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"{path} has no line {name}")
