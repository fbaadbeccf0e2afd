"""Where the microseconds of one request go: our service under load, watched by py-spy.

    python -m tests.bench.hot_path [--system "ours int8"] [--callers 16] [--seconds 15]

py-spy stops the service for an instant per sample, so requests/s here are lower than without it.
Figures are processor time: samples of threads that ran, over the rate and the requests.
"""

import argparse
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .closed import measure
from .environments import prepare
from .loads import single_texts
from .places import PROFILE_VENV
from .servers import Server, started
from .systems import FP32, SYSTEMS

RATE_HZ = 250
TOP = 30

# The first that a stack holds, from its innermost frame outwards, says what the time was for.
STAGES = (
    ("run the graph", ("onnxruntime/",)),
    ("pad", ("pad (", "_padded (")),
    ("tokenize", ("runtime/tokenizer.py",)),
    ("schedule", ("app/scheduler.py", "app/forecast.py", "app/queues.py")),
    ("runner thread", ("app/runners.py", "app/threads.py")),
    ("metrics", ("prometheus_client/", "app/metrics.py")),
    ("validate", ("pydantic/",)),
    ("serialize", ("app/api/answers.py", "app/postprocess.py")),
    ("engine", ("app/engine.py", "app/texts.py")),
    ("our routes", ("app/api/",)),
    ("fastapi", ("fastapi/", "starlette/")),
    ("http", ("uvicorn/", "httptools", "asyncio/", "uvloop")),
)


@dataclass(frozen=True)
class Stack:
    """A thread's frames, outermost first, and how often it was seen running them."""

    thread: str
    frames: tuple[str, ...]
    samples: int


def read_stacks(lines: Iterable[str]) -> list[Stack]:
    """py-spy's raw format: `thread;frame;frame 12` a line."""
    stacks = []
    for line in lines:
        trail, _, samples = line.rpartition(" ")
        thread, *frames = trail.split(";")
        name = re.sub(r"thread \((\w+)\)(?:: )?", "", thread).strip('" ') or "thread"
        name = re.sub(r"[-_]?\d+$", "", name)
        stacks.append(Stack(name, tuple(frames), int(samples)))
    return stacks


def stage_of(stack: Stack) -> str:
    for frame in reversed(stack.frames):
        for stage, marks in STAGES:
            if any(mark in frame for mark in marks):
                return stage
    return "other"


def by_stage(stacks: Sequence[Stack]) -> dict[str, Counter[str]]:
    """Thread -> stage -> samples."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for stack in stacks:
        found[stack.thread][stage_of(stack)] += stack.samples
    return found


def by_function(stacks: Sequence[Stack]) -> tuple[Counter[str], Counter[str]]:
    """Samples per function: in it alone, and in it with what it called."""
    alone: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for stack in stacks:
        names = [f"{stack.thread}: {_function(frame)}" for frame in stack.frames]
        alone[names[-1]] += stack.samples
        for name in set(names):
            whole[name] += stack.samples
    return alone, whole


def _function(frame: str) -> str:
    """Without the line number and the way to site-packages."""
    frame = re.sub(r":\d+\)$", ")", frame)
    return re.sub(r"\(.*site-packages/", "(", frame)


def _watch(server: Server, folder: Path, *, seconds: float, gil: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(str(PROFILE_VENV / "bin" / "py-spy"), "record", "--pid", str(server.pid)),
            *("--format", "raw", "--threads", "--rate", str(RATE_HZ)),
            *("--duration", str(round(seconds)), "--output", str(folder / "stacks")),
            *(("--gil",) if gil else ()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _sampled(server: Server, options: argparse.Namespace, *, gil: bool) -> None:
    load = single_texts(server.system, callers=options.callers)
    with TemporaryDirectory() as name:
        watcher = _watch(server, Path(name), seconds=options.seconds, gil=gil)
        try:
            cell = measure(server, load, seconds=options.seconds + 1)
        finally:
            watcher.wait(30)
        stacks = read_stacks((Path(name) / "stacks").read_text().splitlines())
    requests = cell.requests_per_s * options.seconds
    kind = "holding the interpreter's lock" if gil else "running"
    cpu_us = cell.cpu_s_per_million_tokens * load.tokens_per_body
    print(f"\n== threads {kind}: {cell.requests_per_s:.0f} requests/s, p50 {cell.p50_ms:.1f} ms,")
    print(f"   {cpu_us:.0f} us of processor time per request")
    _print_stages(stacks, requests)
    _print_functions(stacks, requests)


def _print_stages(stacks: Sequence[Stack], requests: float) -> None:
    print("\nmicroseconds per request, by thread and stage")
    for thread, stages in sorted(by_stage(stacks).items()):
        print(f"  {_us(stages.total(), requests):7.0f}  {thread}")
        for stage, samples in stages.most_common():
            print(f"    {_us(samples, requests):7.0f}  {stage}")


def _print_functions(stacks: Sequence[Stack], requests: float) -> None:
    alone, whole = by_function(stacks)
    for title, counts in (("in the function itself", alone), ("with what it calls", whole)):
        print(f"\nmicroseconds per request {title}")
        for name, samples in counts.most_common(TOP):
            print(f"  {_us(samples, requests):7.0f}  {name}")


def _us(samples: int, requests: float) -> float:
    return samples / RATE_HZ * 1e6 / requests


def _print_histograms(server: Server) -> None:
    """The service's own account of the same requests: means of its stage histograms."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    line = re.compile(r'lightmbert_(\w+)_(sum|count)(?:\{(?:stage="(\w+)")?[^}]*\})? (\S+)')
    for name, kind, stage, value in line.findall(server.get("/metrics").decode()):
        found[f"{name} {stage}".strip()][kind] = float(value)
    print("\nmeans of /metrics (seconds, texts or tokens)")
    for name, parts in sorted(found.items()):
        if parts.get("count"):
            print(f"  {parts['sum'] / parts['count']:12.6f}  {name}  (n {parts['count']:.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--system", default=FP32, choices=[n for n, s in SYSTEMS.items() if s.ours])
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=12)
    options = parser.parse_args()
    prepare()
    with started(SYSTEMS[options.system]) as server:
        server.wait_until_ready(["ready?"])
        for gil in (False, True):
            _sampled(server, options, gil=gil)
        _print_histograms(server)


if __name__ == "__main__":
    main()
