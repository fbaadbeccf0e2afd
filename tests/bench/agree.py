"""Before anything is timed: do all systems give the same vectors for the same texts?"""

import json
import math
from collections.abc import Sequence

from .corpus import texts
from .servers import Server, ServerError
from .systems import FP32, INT8

TEXTS = 48
MIN_COSINE = {INT8: 0.95}
"""Below fp32's, for what is quantized."""
MIN_COSINE_FP32 = 0.999


def agreement(servers: Sequence[Server]) -> dict[str, float]:
    """System -> its lowest cosine to our fp32 vectors, over texts of all lengths.

    Raises:
        ServerError: a system's vectors are not the same model's.
    """
    asked = texts("mixed", TEXTS)
    vectors = {server.system.name: _vectors(server, asked) for server in servers}
    found = {name: min(map(_cosine, vectors[FP32], rows)) for name, rows in vectors.items()}
    for name, cosine in found.items():
        if cosine < (limit := MIN_COSINE.get(name, MIN_COSINE_FP32)):
            raise ServerError(f"{name}: cosine {cosine:.5f} to {FP32}; at least {limit} is asked")
    return found


def _vectors(server: Server, asked: Sequence[str]) -> list[list[float]]:
    with server.running():
        status, answer = server.ask(server.system.body(asked))
    if status != 200:
        raise ServerError(f"{server.system.name} answered {status}: {answer[:200]!r}")
    return server.system.vectors_of(json.loads(answer))


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
