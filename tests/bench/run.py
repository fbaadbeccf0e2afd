"""Our service, its peers and the limit, measured in turn, in one run.

    python -m tests.bench.run [--quick] [--rounds 3] [--seconds 4] [--only c16,limit,...]

Prints progress, the table of promises, the absolute figures, and a last line of JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from . import machine
from .agree import agreement
from .closed import measure
from .environments import SetupError, prepare
from .loads import single_texts
from .overload import measure_overload
from .places import MINILM_OURS, PYTHON, ROOT
from .plan import CELLS, CLOSED
from .report import absolutes, heading, promises
from .results import Results
from .servers import Server, ServerError, started
from .systems import FP32, INFINITY, INT8, SAME_WEIGHTS, SYSTEMS

QUICK = ("c1", "c16", "c64", "b32", "limit")
LIMITED = (FP32, INT8)


class Bench:
    """All systems, started and paused, and what was found so far."""

    def __init__(
        self, servers: Sequence[Server], found: Results, options: argparse.Namespace
    ) -> None:
        self._servers = {server.system.name: server for server in servers}
        self._found = found
        self._options = options
        self._graphs = {
            name: served_graph(server) for name, server in self._servers.items() if name in LIMITED
        }

    def round(self, number: int) -> None:
        """Every cell once, the systems in turn within each."""
        only = self._options.only
        for cell in (name for name in CLOSED if name in only):
            for server in self._servers.values():
                self._closed(server, cell)
            self._tell(number, cell)
        if "limit" in only:
            for name in (n for n in LIMITED if n in self._servers):
                self._limit(name)
            self._tell(number, "limit")
        if "overload" in only:
            for name in self._overloaded(number):
                self._overload(self._servers[name])
                self._tell(number, f"overload {name}")

    def _overloaded(self, number: int) -> list[str]:
        """The peer only at the end: it works on for callers who left, and must be waited for."""
        last = number == self._options.rounds
        chosen = (FP32, INT8, INFINITY) if last else (FP32, INT8)
        return [name for name in chosen if name in self._servers]

    def weigh(self) -> None:
        """Memory after all that was asked."""
        for name, server in self._servers.items():
            self._found.memory[name] = server.memory()

    def _closed(self, server: Server, cell: str) -> None:
        with server.running():
            observer = machine.Observer(server)
            measured = CLOSED[cell].measure(server, seconds=self._options.seconds)
            self._found.foreign_cpus.append(observer.foreign_cpus())
        self._found.cells[server.system.name][cell].append(measured)

    def _limit(self, name: str) -> None:
        """With the very graph that the system serves."""
        known = self._found.limit_shapes.get(name)
        if known is None:  # every shape for a moment, the best one as long as everything else
            answer = self._limit_of(name, "--seconds", str(min(1.0, self._options.seconds / 4)))
            self._found.limit_shapes[name] = known = answer["best"]
        answer = self._limit_of(name, "--seconds", str(self._options.seconds), "--fixed", known)
        self._found.limits[name].append(answer["texts_per_s"])
        self._found.limit_cpu_s_per_million_tokens[name] = answer["cpu_s_per_million_tokens"]

    def _limit_of(self, name: str, *how: str) -> dict[str, Any]:
        folder, graph = MINILM_OURS, self._graphs[name]
        command = [str(PYTHON), "-m", "tests.bench.limit", str(folder / graph)]
        result = subprocess.run(
            [*command, str(folder / "tokenizer.json"), *how],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise ServerError(f"the limit failed: {result.stderr[-500:]}")
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answer

    def _overload(self, server: Server) -> None:
        load = single_texts(server.system, callers=64)
        with server.running():
            seconds = self._options.seconds
            capacity = measure(server, load, seconds=seconds).requests_per_s
            found = measure_overload(server, load, capacity=capacity, seconds=seconds)
        self._found.overload[server.system.name].append(found)

    def _tell(self, number: int, cell: str) -> None:
        passed_s = time.perf_counter() - self._options.began_at
        print(f"[{passed_s:4.0f} s] round {number}: {cell}", file=sys.stderr, flush=True)


def served_graph(server: Server) -> str:
    """The file that our service chose for this machine."""
    with server.running():
        info = json.loads(server.get("/info"))
    return str(info["runtime"]["file"])


def start_all(found: Results, stack: ExitStack, names: Sequence[str]) -> list[Server]:
    """Start one after another, so that each start is timed on an idle machine; leave them paused."""
    servers = []
    for name in names:
        server = stack.enter_context(started(SYSTEMS[name]))
        load = single_texts(server.system, callers=16)
        found.starts_s[name].append(server.wait_until_ready(["ready?"]))
        measure(server, load, seconds=1)  # to be warm
        server.pause()
        servers.append(server)
        print(f"{name} ready after {found.starts_s[name][0]:.1f} s", file=sys.stderr, flush=True)
    return servers


def run(options: argparse.Namespace, found: Results) -> None:
    """Measure all that `options` name, into `found`."""
    prepare()
    with ExitStack() as stack:
        servers = start_all(found, stack, options.systems)
        alike = [server for server in servers if server.system.name in SAME_WEIGHTS]
        found.agreement = agreement(alike) if FP32 in options.systems else {}
        bench = Bench(servers, found, options)
        for number in range(1, options.rounds + 1):
            bench.round(number)
        bench.weigh()


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our service, its peers and the limit, in turn.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument(
        "--quick", action="store_true", help=f"one round of 1 s: {', '.join(QUICK)}"
    )
    parser.add_argument("--only", type=_names(CELLS), default=CELLS, help=", ".join(CELLS))
    parser.add_argument(
        "--systems", type=_names(SYSTEMS), default=tuple(SYSTEMS), help=", ".join(SYSTEMS)
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
        options.only = tuple(cell for cell in options.only if cell in QUICK)
    options.began_at = time.perf_counter()
    return options


def _names(known: Sequence[str] | dict[str, object]) -> object:
    def names(written: str) -> tuple[str, ...]:
        given = tuple(name.strip() for name in written.split(","))
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return given

    return names


def main() -> None:
    options = parsed()
    found = Results(machine.description(), options.rounds, options.seconds)
    problem: Exception | None = None
    try:
        run(options, found)
    except (SetupError, ServerError) as error:
        problem = error  # what was found until then is still told
    print(heading(found), end="\n\n")
    print(promises(found), end="\n\n")
    print(absolutes(found), end="\n\n")
    print(json.dumps(found.as_json()))
    if problem is not None:
        sys.exit(f"bench: {problem}")


if __name__ == "__main__":
    main()
