"""Where the microseconds of one request go: our service under load, by thread and by function.

    python -m tests.bench.hot_path [--system "ours int8"] [--callers 16] [--seconds 8]

First the kernel's account of each thread, with nobody watching. Then py-spy samples who holds
the interpreter's lock; its shares are scaled to the loop thread's time by the kernel, because
py-spy counts seconds and not processor time.
"""

import argparse
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from .closed import measure
from .environments import prepare
from .loads import single_texts
from .places import PROFILE_VENV
from .processes import thread_cpu_seconds
from .servers import Server, started
from .stacks import Stack, by_function, by_stage, read_stacks, thread_name
from .systems import FP32, SYSTEMS

PY_SPY = str(PROFILE_VENV / "bin" / "py-spy")
RATE_HZ = 400
TOP = 28
LOOP = "MainThread"
# Every request passes through them: they tell nothing.
OUTER = ("app/cli.py", "app/serve", "app/main.py", "typer/", "runpy", "uvicorn/server", "_compat")


def by_thread(server: Server, options: argparse.Namespace) -> dict[str, float]:
    """Microseconds of processor time per request, by the name of the thread; nobody watches."""
    load = single_texts(server.system, callers=options.callers)
    server.ask(load.bodies[0])
    names = _thread_names(server)
    before = thread_cpu_seconds(server.pid)
    cell = measure(server, load, seconds=options.seconds)
    requests = cell.requests_per_s * options.seconds
    spent: dict[str, float] = defaultdict(float)
    for thread, seconds in thread_cpu_seconds(server.pid).items():
        name = names.get(thread, "without Python (ONNX Runtime, tokenizers)")
        spent[name] += (seconds - before.get(thread, 0.0)) / requests * 1e6
    print(f"{server.system.name}, {options.callers} callers: {cell.requests_per_s:.0f} requests/s,")
    print(f"p50 {cell.p50_ms:.1f} ms, p99 {cell.p99_ms:.1f} ms")
    return spent


def watched(server: Server, options: argparse.Namespace) -> list[Stack]:
    """Stacks of whoever held the interpreter's lock."""
    load = single_texts(server.system, callers=options.callers)
    with TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        command = [PY_SPY, "record", "--gil", "--threads", "--pid", str(server.pid)]
        limits = ["--rate", str(RATE_HZ), "--duration", str(round(options.seconds))]
        watcher = subprocess.Popen(
            [*command, *limits, "--format", "raw", "--output", str(stacks)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            measure(server, load, seconds=options.seconds + 1)
            _, problems = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
        if not stacks.exists():
            raise RuntimeError(f"py-spy saw nothing: {problems.decode()[-300:]}")
        return read_stacks(stacks.read_text().splitlines())


def _thread_names(server: Server) -> dict[int, str]:
    command = [PY_SPY, "dump", "--json", "--pid", str(server.pid)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {each["os_thread_id"]: thread_name(each["thread_name"]) for each in json.loads(told)}


def show(spent: dict[str, float], stacks: Sequence[Stack]) -> None:
    print(f"\n{sum(spent.values()):6.0f} us of processor time per request, by thread")
    for name, microseconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{microseconds:8.0f}  {name}")
    in_loop = [stack for stack in stacks if stack.thread == LOOP]
    samples = sum(stack.samples for stack in in_loop)
    scale = spent[LOOP] / max(1, samples)
    print(f"\nof the loop thread's {spent[LOOP]:.0f} us ({samples} samples), by stage")
    _list(by_stage(in_loop), scale)
    alone, whole = by_function(in_loop)
    print("\nby function, in itself")
    _list(alone, scale)
    print("\nby function, with what it calls")
    _list(Counter({k: v for k, v in whole.items() if not any(o in k for o in OUTER)}), scale)


def _list(counts: Counter[str], scale: float) -> None:
    for name, samples in counts.most_common(TOP):
        print(f"{samples * scale:8.0f}  {name}")


def show_histograms(server: Server) -> None:
    """The service's own account of the same requests: the means of its histograms."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    line = re.compile(r"lightmbert_(\w+)_(sum|count)(\{[^}]*\})? (\S+)")
    for name, kind, labels, value in line.findall(server.get("/metrics").decode()):
        found[name + labels][kind] = float(value)
    print("\nmeans of /metrics (seconds, texts or tokens)")
    for name, parts in sorted(found.items()):
        if parts.get("count"):
            print(f"  {parts['sum'] / parts['count']:12.6f}  {name}  (n {parts['count']:.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the microseconds of one request go.")
    parser.add_argument("--system", default=FP32, choices=[n for n, s in SYSTEMS.items() if s.ours])
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    prepare()
    with started(SYSTEMS[options.system]) as server:
        server.wait_until_ready(["ready?"])
        spent = by_thread(server, options)
        show(spent, watched(server, options))
        show_histograms(server)


if __name__ == "__main__":
    main()
