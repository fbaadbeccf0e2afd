"""What memory a policy of ONNX Runtime's allocator holds after many shapes, and what it costs.

    python -m tests.bench.arena [--model models/lightmbert-mini] [--seconds 6] [--rounds 2]

Each policy runs in a process of its own, because memory that was once taken tells on what comes
after. Two threads run batches of ever new shapes, up to the token budget of the service; the
last quarter of a run shows whether memory still grows. The last line is one JSON object.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import onnxruntime

from app.runtime.artifact import load_manifest
from app.runtime.cpus import cpu_features
from app.runtime.providers import choose_variant, session_options

ROOT = Path(__file__).resolve().parents[2]
STUDENT = ROOT / "models" / "lightmbert-mini"
MAX_BATCH_TOKENS = 256
LONGEST_SHARE = 0.05
"""Of texts that are as long as the student allows; the others are short, as callers send them."""
THREADS = 2
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Policy:
    arena: bool
    pattern: bool = False
    shrink: bool = False
    environment: dict[str, str] = field(default_factory=dict)


POLICIES = {
    "arena": Policy(arena=True),
    "arena, patterns": Policy(arena=True, pattern=True),
    "arena, shrunk after each run": Policy(arena=True, shrink=True),
    "malloc": Policy(arena=False),
    "malloc, 1 heap": Policy(arena=False, environment={"MALLOC_ARENA_MAX": "1"}),
    "malloc, keeps 32 MiB": Policy(
        arena=False,
        environment={"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "33554432"},
    ),
    "arena, 1 heap": Policy(arena=True, environment={"MALLOC_ARENA_MAX": "1"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=STUDENT)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--policy", choices=POLICIES, help="run this one here and print its figures"
    )
    chosen = parser.parse_args()
    if chosen.policy is not None:
        print(json.dumps(soak(POLICIES[chosen.policy], chosen.model, chosen.seconds)))
        return
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in POLICIES}
    for _ in range(chosen.rounds):  # in turn, so that a busy moment of the machine is shared
        for name, policy in POLICIES.items():
            figures[name].append(_in_own_process(name, policy, chosen))
    _print_table({name: _medians(rounds) for name, rounds in figures.items()})


def soak(policy: Policy, model: Path, seconds: float) -> dict[str, float]:
    """Run shapes for `seconds` and say what it cost: MB resident, texts/s, CPU ms per text."""
    session = _open(policy, model)
    loaded_mb, started_at, cpu_at = _resident_mb(), perf_counter(), process_time()
    texts = [0] * THREADS
    threads = [
        threading.Thread(target=_work, args=(session, policy, texts, index, started_at + seconds))
        for index in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    threads[0].join(timeout=0.75 * seconds)
    late_mb = _resident_mb()
    for thread in threads:
        thread.join()
    return {
        "loaded_mb": loaded_mb,
        "resident_mb": _resident_mb(),
        "last_quarter_mb": _resident_mb() - late_mb,
        "texts_per_s": sum(texts) / (perf_counter() - started_at),
        "cpu_ms_per_text": 1_000 * (process_time() - cpu_at) / sum(texts),
    }


def _open(policy: Policy, model: Path) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    variant = choose_variant(
        load_manifest(model).variants, device="cpu", precision="auto", features=cpu_features()
    )
    graph = model / variant.file
    options = session_options(
        graph, device="cpu", intra_op_threads=1, arena=policy.arena, spins=False
    )
    options.enable_mem_pattern = policy.pattern
    return onnxruntime.InferenceSession(
        graph.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def _work(session: Any, policy: Policy, texts: list[int], index: int, end: float) -> None:  # noqa: ANN401 - onnxruntime is untyped
    draw = random.Random(index)
    run_options = onnxruntime.RunOptions()
    if policy.shrink:
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    names = [entry.name for entry in session.get_inputs()]
    while perf_counter() < end:
        length = 256 if draw.random() < LONGEST_SHARE else draw.randint(4, 64)
        shape = (draw.randint(1, MAX_BATCH_TOKENS // length), length)
        feed = {name: np.ones(shape, dtype=np.int64) for name in names}
        session.run(None, feed, run_options)
        texts[index] += shape[0]


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * PAGE_BYTES / 1e6


def _in_own_process(name: str, policy: Policy, chosen: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.arena", "--policy", name]
    command += ["--model", str(chosen.model), "--seconds", str(chosen.seconds)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | policy.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def _print_table(figures: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(figures.values())))
    print("| policy | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, row in figures.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.2f}" for column in columns) + " |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
