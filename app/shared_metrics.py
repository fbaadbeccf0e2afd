"""The metrics of several worker processes as those of one service.

Each worker writes its numbers to files of its own in one folder, and whichever is asked adds all
of them up. The files carry the worker's number rather than its process id: a worker that is
started anew goes on counting where the last one ended, and no file is ever left over.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import prometheus_client.values
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.values import MultiProcessValue

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client itself is told where the files are."""

_joined: Path | None = None
"""The folder this process shares, if it does. The variable alone may be another program's."""

_LARGEST = ("process_start_time_seconds", "process_max_fds")


def join(index: int) -> None:
    """Make this process worker `index` of those that share `FOLDER`, before any metric is made."""
    global _joined  # as `ValueClass` is: there is one per process
    own = MultiProcessValue(lambda: index)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
    prometheus_client.values.ValueClass = own
    _joined = Path(os.environ[FOLDER])
    _pid_file(_joined, index).write_text(str(os.getpid()), encoding="ascii")


def joined() -> bool:
    """Whether this process is one of several workers."""
    return _joined is not None


def leave(folder: Path, index: int) -> None:
    """Forget what was true only while worker `index` lived. Its counts stay."""
    _pid_file(folder, index).unlink(missing_ok=True)
    mark_process_dead(index, str(folder))  # type: ignore[no-untyped-call]  # prometheus_client has no types here


def registry_of_all() -> CollectorRegistry | None:
    """What all workers have counted; None in a process that is not one of several."""
    if _joined is None:
        return None
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(_joined))  # type: ignore[no-untyped-call]  # as above
    registry.register(_Processes(_joined))
    return registry


class _Processes(Collector):
    """`process_*` of the supervisor and its workers: sums; the latest start, the largest limit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        supervisor = str(os.getppid())
        totals: dict[str, Metric] = {}
        for pid in (supervisor, *_living(self._folder)):
            for family in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                if (total := totals.setdefault(family.name, family)) is not family:
                    _add(total, family.samples[0].value)
        if (cpu := totals.get("process_cpu_seconds")) is not None:
            _add(cpu, _cpu_seconds_of_the_dead(supervisor))  # or a counter would run backwards
        return totals.values()


def _add(total: Metric, value: float) -> None:
    [so_far] = total.samples
    combined = max(so_far.value, value) if total.name in _LARGEST else so_far.value + value
    total.samples = [so_far._replace(value=combined)]


def _cpu_seconds_of_the_dead(parent: str) -> float:
    """CPU time of the children that a process has outlived."""
    try:
        stat = Path("/proc", parent, "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    user, system = stat.rpartition(")")[2].split()[13:15]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _living(folder: Path) -> Iterator[str]:
    for each in folder.glob("worker_*.pid"):
        with suppress(FileNotFoundError):  # it has just died
            yield each.read_text(encoding="ascii")


def _pid_file(folder: Path, index: int) -> Path:
    return folder / f"worker_{index}.pid"
