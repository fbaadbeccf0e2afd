"""What a teacher says of a text, kept on disk: one embedding a text, and nothing per token.

A kept embedding is found by its content: a hash of the teacher's weights, its tokenizer, the
precision it ran at, and the token ids it read. So a cache may be shared by runs, and can be
neither stale nor another teacher's. Token features are not kept: they would take some 4 kB per
token, terabytes for a corpus.

Embeddings are kept as float16, and are given as float16 gives them also when they were just
computed, so that a run goes on from a checkpoint as if it had not been stopped.
"""

import fcntl
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.errors import LightMBERTError
from distill.anatomy import Encoder
from distill.batches import Tokens
from distill.tables.train import TrainTable
from distill.taps import View
from distill.teacher import tokenizer_file

TARGETS_FILE = "targets.sqlite"
"""Not the pickles of common cache libraries: bytes of numbers, which can do no harm."""
LOCK_FILE = "targets.lock"
ASKED_AT_ONCE = 500
"""Keys in one query; sqlite takes 999 in its oldest builds."""
WAIT_S = 60.0
"""For another process that is writing."""


class TargetsError(LightMBERTError):
    """Kept targets cannot be read or written."""

    code = "bad_targets"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Open one after another: sqlite waits for writers, but not for who changes the journal's mode."""
    with (folder / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Targets:
    """Pooled embeddings of one teacher, found by the token ids it read."""

    def __init__(self, folder: Path, teacher_hash: bytes) -> None:
        """Open or make the cache in a folder.

        Raises:
            TargetsError: the folder holds something else, or cannot be written.
        """
        self._path = folder / TARGETS_FILE
        self._teacher_hash = teacher_hash
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                self._database = sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None)
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS pooled (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"
                    " WITHOUT ROWID"
                )
        except (OSError, sqlite3.Error) as error:
            raise TargetsError(f"{self._path} cannot be opened: {error}") from error

    def __len__(self) -> int:
        count: int = self._database.execute("SELECT COUNT(*) FROM pooled").fetchone()[0]
        return count

    def pooled(self, tokens: Tokens, compute: Callable[[Tokens], Tensor]) -> Tensor:
        """The teacher's embeddings of texts, (B, H) float32; what is not kept yet is computed.

        Raises:
            TargetsError: the cache cannot be read or written, such as when the disk is full.
        """
        keys = self._keys(tokens)
        try:
            kept = self._kept(keys)
            missing = [row for row, key in enumerate(keys) if key not in kept]
            if missing:
                rows = torch.tensor(missing, device=tokens.ids.device)
                vectors = compute(Tokens(tokens.ids[rows], tokens.mask[rows])).half().cpu().numpy()
                new = {keys[row]: v.tobytes() for row, v in zip(missing, vectors, strict=True)}
                self._keep(new)
                kept |= new
        except sqlite3.Error as error:
            raise TargetsError(f"{self._path}: {error}") from error
        found = np.stack([np.frombuffer(kept[key], dtype=np.float16) for key in keys])
        return torch.from_numpy(found).float().to(tokens.ids.device)

    def _keys(self, tokens: Tokens) -> list[bytes]:
        return [
            hashlib.sha256(self._teacher_hash + ids[mask].astype(np.int64).tobytes()).digest()
            for ids, mask in zip(tokens.ids.cpu().numpy(), tokens.mask.cpu().numpy(), strict=True)
        ]

    def _kept(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for some in (keys[at : at + ASKED_AT_ONCE] for at in range(0, len(keys), ASKED_AT_ONCE)):
            marks = ",".join("?" * len(some))
            query = f"SELECT key, vector FROM pooled WHERE key IN ({marks})"
            found |= dict(self._database.execute(query, some))
        return found

    def _keep(self, vectors: dict[bytes, bytes]) -> None:
        # One transaction a batch. Of two processes that computed one text the first is kept.
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(
                "INSERT OR IGNORE INTO pooled VALUES (?, ?)", vectors.items()
            )
        except sqlite3.Error:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


@dataclass(frozen=True)
class KeptObserver:
    """Stands where an Observer stood, and runs it only over texts whose embeddings lack."""

    observer: Callable[[Tokens], View]
    targets: Targets

    def __call__(self, tokens: Tokens) -> View:
        pooled = self.targets.pooled(tokens, lambda lacking: self.observer(lacking).pooled)
        nothing = pooled.new_empty(0)  # whoever looks at tokens all the same fails at once
        return View(tokens.mask, nothing, pooled, hidden={}, attention={}, piece_logits=None)


def open_targets(folder: Path, teacher: Encoder, table: TrainTable) -> Targets:
    """The cache for this teacher as this recipe runs it."""
    digest = hashlib.sha256(f"{table.precision} {table.max_tokens}".encode())
    digest.update(tokenizer_file(table.teacher).read_bytes())
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Targets(folder, digest.digest())
