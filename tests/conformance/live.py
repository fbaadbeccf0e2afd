"""A server process of its own, and what it says natively: the reference for every client."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STUDENT = "lightmbert-mini"
START_S = 60.0

TEXTS = [
    "The bus is late.",
    "Basi limechelewa.",
    "公交车晚点了。",
    "Der Arzt verschrieb ihr ein Antibiotikum.",
]


@dataclass(frozen=True)
class Live:
    """A server that is ready."""

    url: str

    def embed(self, texts: list[str], **options: object) -> np.ndarray:
        """(B, D) float32, from the native route."""
        return np.array(self.post("/embed", texts=texts, **options)["embeddings"], np.float32)

    def classify(self, texts: list[Any], **options: object) -> list[dict[str, Any]]:
        """A result for each text, from the native route."""
        results: list[dict[str, Any]] = self.post("/classify", texts=texts, **options)["results"]
        return results

    def post(self, path: str, **body: object) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}{path}", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def count(self, metric: str) -> float:
        """The sum of a metric's samples whose line begins so."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))


def assert_same(found: object, expected: np.ndarray) -> None:
    """Equal vectors, but for the rounding of float32 in another company or another spelling."""
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=0, atol=1e-6)


@contextmanager
def serving(python: str, **settings: object) -> Iterator[Live]:
    """`lightmbert serve` on a free port, ready; ended with the block."""
    variables = {f"LIGHTMBERT_{name.upper()}": str(value) for name, value in settings.items()}
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(
            [python, "-m", "app.cli", "serve", "--port", "0"],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "LIGHTMBERT_AUTOTUNE": "false"} | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield Live(_ready(process, Path(log.name)))
        finally:
            process.terminate()


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The URL once it answers; a process has no other way to say so than its log and its port."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        told = log.read_text()
        assert process.poll() is None, f"the server ended with {process.returncode}: {told}"
        found = re.search(r"http://127\.0\.0\.1:\d+", told)
        if found and _is_ready(found[0]):
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"not ready within {START_S} s: {told}")


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
