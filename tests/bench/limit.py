"""The ceiling on this machine: ONNX Runtime alone, on texts already tokenized and sorted.

    python -m tests.bench.limit GRAPH TOKENIZER --seconds 2 [--fixed RxTxB]

Sorted texts of like length run together, so almost nothing is padding; R threads call one session
of T threads with batches of B texts. No server can be faster with the same graph. The last line
is JSON.
"""

import argparse
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .corpus import texts
from .loads import SINGLE_TEXTS

Feed = dict[str, NDArray[np.int64]]

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Rate:
    """What one shape did."""

    texts_per_s: float
    cpu_s_per_million_tokens: float


@dataclass(frozen=True)
class Shape:
    """How ONNX Runtime is driven."""

    runners: int
    threads: int
    batch: int

    @classmethod
    def parse(cls, written: str) -> "Shape":
        """`2x1x8`: runners, threads, batch."""
        runners, threads, batch = map(int, written.split("x"))
        return cls(runners, threads, batch)

    def __str__(self) -> str:
        return f"{self.runners}x{self.threads}x{self.batch}"


def feeds(tokenizer: Tokenizer, batch: int, names: set[str]) -> list[Feed]:
    """The short texts as graph inputs, shortest first, `batch` texts each."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = sorted(
        (each.ids for each in tokenizer.encode_batch(texts("short", SINGLE_TEXTS))), key=len
    )
    return [_feed(rows[start : start + batch], names) for start in range(0, len(rows), batch)]


def _feed(rows: Sequence[Sequence[int]], names: set[str]) -> Feed:
    shape = (len(rows), max(map(len, rows)))
    feed = {name: np.zeros(shape, np.int64) for name in names}
    for index, row in enumerate(rows):
        feed["input_ids"][index, : len(row)] = row
        feed["attention_mask"][index, : len(row)] = 1
    return feed


def rate(graph: Path, tokenizer: Tokenizer, shape: Shape, *, seconds: float) -> Rate:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = shape.threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    # As the service opens it: of this graph the extended optimizations make a slower one.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        graph.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    work = feeds(tokenizer, shape.batch, {entry.name for entry in session.get_inputs()})
    np.random.default_rng(0).shuffle(work)  # every runner sees every length at any time
    done, tokens = [0] * shape.runners, [0] * shape.runners
    stop_at = time.perf_counter() + seconds

    def run(runner: int) -> None:
        for feed in cycle(work[runner :: shape.runners]):
            if time.perf_counter() >= stop_at:
                return
            session.run(None, feed)
            done[runner] += len(feed["input_ids"])
            tokens[runner] += int(feed["attention_mask"].sum())

    runners = [threading.Thread(target=run, args=(index,)) for index in range(shape.runners)]
    started_at, cpu_before = time.perf_counter(), time.process_time()
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    cpu_s = time.process_time() - cpu_before
    return Rate(sum(done) / (time.perf_counter() - started_at), cpu_s / sum(tokens) * 1e6)


def shapes(cpus: int) -> list[Shape]:
    """Every way to share the CPUs out, with every batch size."""
    shares = {(cpus // threads, threads) for threads in (1, 2, 4, cpus) if threads <= cpus}
    return [Shape(r, t, batch) for r, t in sorted(shares) for batch in BATCHES]


def main() -> None:
    parser = argparse.ArgumentParser(description="ONNX Runtime alone.")
    parser.add_argument("graph", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--fixed", type=Shape.parse, help="measure this shape only")
    parser.add_argument("--cpus", type=int, default=2)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    found = {
        shape: rate(options.graph, tokenizer, shape, seconds=options.seconds)
        for shape in ([options.fixed] if options.fixed else shapes(options.cpus))
    }
    best = max(found, key=lambda shape: found[shape].texts_per_s)
    rates = {str(shape): each.texts_per_s for shape, each in found.items()}
    print(json.dumps({"best": str(best), "all": rates, **asdict(found[best])}))


if __name__ == "__main__":
    main()
