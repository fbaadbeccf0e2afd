"""The systems that are measured: how each is started, asked, and understood."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .places import BENCH, INFINITY_VENV, MINILM_OURS, MINILM_PEERS, PYTHON, STUDENT

Vectors = list[list[float]]


@dataclass(frozen=True)
class System:
    """One service, and how to talk to it."""

    name: str
    command: tuple[str, ...]
    port: int
    path: str
    texts_key: str
    vectors_of: Callable[[Any], Vectors]
    """From its parsed answer, in the order of the texts."""
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further keys of every body."""
    patience: tuple[str, ...] = ()
    """Header lines by which a caller says how long an answer is of use, where there are any."""
    ours: bool = False

    def body(self, texts: Sequence[str]) -> bytes:
        """A request's body, as the system's own clients send it."""
        return json.dumps({self.texts_key: list(texts), **self.extra}).encode()


def _ours(name: str, port: int, folder: Path, precision: str) -> System:
    return System(
        name=name,
        command=(str(PYTHON), "-m", "app.cli", "serve"),
        port=port,
        path="/embed",
        texts_key="texts",
        vectors_of=lambda answer: answer["embeddings"],
        environment={
            "LIGHTMBERT_MODEL_DIR": str(folder),
            "LIGHTMBERT_PRECISION": precision,
            "LIGHTMBERT_PORT": str(port),
            "LIGHTMBERT_LOG_LEVEL": "warning",
        },
        patience=("x-request-timeout-ms: 500",),
        ours=True,
    )


def _infinity(port: int) -> System:
    engine = ("--engine", "optimum", "--device", "cpu", "--no-bettertransformer")
    # By default it takes the first token, which is not what this model was trained for.
    options = (*engine, "--pooling-method", "mean")
    served = ("--model-id", str(MINILM_PEERS), "--served-model-name", "minilm")
    return System(
        name="infinity",
        command=(
            str(INFINITY_VENV / "bin" / "infinity_emb"),
            *("v2", *served, *options, "--port", str(port), "--host", "127.0.0.1"),
        ),
        port=port,
        path="/embeddings",
        texts_key="input",
        extra={"model": "minilm"},
        vectors_of=lambda answer: [row["embedding"] for row in answer["data"]],
        environment={
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(BENCH / "hf"),
            "INFINITY_ANONYMOUS_USAGE_STATS": "0",
            "INFINITY_LOG_LEVEL": "error",
        },
    )


def _naive(port: int) -> System:
    return System(
        name="naive",
        command=(
            *(str(PYTHON), "-m", "uvicorn", "tests.bench.naive_app:app"),
            *("--port", str(port), "--no-access-log", "--log-level", "warning"),
        ),
        port=port,
        path="/embed",
        texts_key="texts",
        vectors_of=lambda answer: answer["embeddings"],
        environment={"NAIVE_MODEL": str(MINILM_PEERS), "HF_HUB_OFFLINE": "1"},
    )


FP32, INT8, INFINITY, NAIVE, MINI = "ours fp32", "ours int8", "infinity", "naive", "student int8"
SAME_WEIGHTS = (FP32, INT8, INFINITY, NAIVE)

SYSTEMS = {
    system.name: system
    for system in (
        _ours(FP32, 18_101, MINILM_OURS, "fp32"),
        _infinity(18_102),
        _ours(INT8, 18_103, MINILM_OURS, "int8"),
        _naive(18_104),
        _ours(MINI, 18_105, STUDENT, "auto"),
    )
}
"""In the order in which they take turns: a peer between two of ours."""
