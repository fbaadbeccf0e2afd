"""How fast a variant answers on this machine: one batch at a time, nothing around it."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from app.errors import VariantError
from app.runtime.artifact import Manifest, Variant
from app.runtime.cpus import cpu_features
from app.runtime.providers import targets_for
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded

TOKENS = 16
BATCHES = (1, 32)
"""Texts of TOKENS tokens each."""
REPEATS = 20


@dataclass(frozen=True)
class Speed:
    """Median milliseconds of one forward pass, by number of texts; None where it cannot run."""

    variant: Variant
    milliseconds: dict[int, float] | None


def speeds(folder: Path, manifest: Manifest, *, threads: int) -> list[Speed]:
    """Of every variant that this machine's CPU serves; the others are listed without figures."""
    targets = targets_for("cpu", cpu_features())
    return [
        Speed(
            variant,
            _measured(folder, manifest, variant, threads) if variant.target in targets else None,
        )
        for variant in manifest.variants
    ]


def _measured(
    folder: Path, manifest: Manifest, variant: Variant, threads: int
) -> dict[int, float] | None:
    only = manifest.model_copy(update={"variants": (variant,)})
    try:
        session = StudentSession.load(
            folder, only, device="cpu", precision=variant.precision, intra_op_threads=threads
        )
    except VariantError:
        return None
    return {texts: _milliseconds(session, texts) for texts in BATCHES}


def _milliseconds(session: StudentSession, texts: int) -> float:
    batch = _batch(texts, min(TOKENS, session.manifest.max_tokens))
    taken = []
    for _ in range(REPEATS + 2):  # the first passes reserve memory
        began = time.perf_counter()
        session.run(batch)
        taken.append(time.perf_counter() - began)
    return median(taken[2:]) * 1e3


def _batch(texts: int, tokens: int) -> Sequence[Encoded]:
    ids = np.zeros(tokens, dtype=np.int64)  # which ids they are does not matter to speed
    return [Encoded(ids, ids, truncated=False, pad_id=0)] * texts


def cpu_name() -> str:
    """As the kernel tells it, or the architecture where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
