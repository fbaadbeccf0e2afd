"""A server process of its own, and what it says natively: the reference for every client."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from served import served

STUDENT = "lightmbert-mini"

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
    """`lightmbert serve` of another interpreter's environment, ready; ended with the block."""
    with served([python, "-m", "app.cli"], autotune=False, **settings) as service:
        yield Live(service.url)
