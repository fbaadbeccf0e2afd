"""What is asked of every system: the same texts, in each system's own form."""

from functools import cache

from tokenizers import Tokenizer

from .closed import Load
from .corpus import Kind, texts
from .places import MINILM_SOURCE
from .systems import System

SINGLE_TEXTS = 1_024
"""More than callers at a time, so that no two of them ask the same."""
BATCH_BODIES = {32: 64, 512: 8}


def single_texts(system: System, *, callers: int) -> Load:
    """One short text a request, as search queries come."""
    return _load(system, "short", batch=1, bodies=SINGLE_TEXTS, callers=callers)


def client_batches(system: System, *, batch: int, callers: int) -> Load:
    """Many texts of mixed length a request, as an indexer sends them."""
    return _load(system, "mixed", batch=batch, bodies=BATCH_BODIES[batch], callers=callers)


def _load(system: System, kind: Kind, *, batch: int, bodies: int, callers: int) -> Load:
    found = texts(kind, batch * bodies)
    return Load(
        bodies=tuple(
            system.body(found[start : start + batch]) for start in range(0, len(found), batch)
        ),
        batch=batch,
        callers=callers,
        tokens_per_body=_tokens(kind, len(found)) / bodies,
    )


@cache
def _tokens(kind: Kind, count: int) -> int:
    """By MiniLM's tokenizer, special tokens included, for every system alike."""
    return sum(len(encoding) for encoding in minilm_tokenizer().encode_batch(texts(kind, count)))


@cache
def minilm_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(MINILM_SOURCE / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
