"""Classification heads: those of the model folder, which live in the graph itself, and fitted ones.

A head costs nothing beside the forward pass that feeds it: those in the graph are always
computed, and a fitted one is a product with the embedding. A request only says which to read,
and keeps what it began with, whatever is fitted or removed meanwhile.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.errors import UnknownTaskError
from app.head_file import (
    HEAD_FILE,
    FittedHead,
    ForeignHeadError,
    HeadError,
    UnreadableHeadError,
    check_fits,
)
from app.head_folder import read_head, tellable
from app.metrics import Metrics
from app.runtime.artifact import ClassificationTask, Manifest
from app.runtime.outputs import Floats, unit_vectors
from app.runtime.session import LOGITS, POOLED

MAX_HEADS = 64
"""Fitted heads of one model at a time."""
MAX_NAMES = 256
"""That they may have had while the process runs: each is a series in the metrics."""

logger = logging.getLogger(__name__)

_Stamp = frozenset[tuple[int, int, int]]
"""Of a head's files: another one if any was added, replaced, written to or made readable."""


class NoRoomError(HeadError):
    """As many heads as may be are in use."""


@dataclass(frozen=True, eq=False)
class Head:
    """One head, in the graph or fitted."""

    name: str
    task: ClassificationTask
    fitted: FittedHead | None = None

    def logits(self, rows: Sequence[Mapping[str, Floats]]) -> Floats:
        """What the graph gave for B texts -> (B, C)."""
        if self.fitted is None:
            return np.stack([row[LOGITS + self.name] for row in rows])
        pooled = np.stack([row[POOLED] for row in rows])  # (B, H)
        return self.fitted.logits(unit_vectors(pooled, self.fitted.file.fitted_on.dimension))


class Heads:
    """The heads of one model. `refresh` reads the folder again; everything else reads memory."""

    def __init__(
        self, manifest: Manifest, heads_dir: Path, metrics: Metrics, *, default: str | None
    ) -> None:
        """Heads of the graph alone, until `refresh`; `default` answers who names none."""
        self._manifest = manifest
        self._heads_dir = heads_dir
        self._metrics = metrics
        self._default = default
        self._shipped = {name: Head(name, task) for name, task in manifest.tasks.items()}
        self._fitted: dict[str, Head] = {}
        self._known = dict(self._shipped)
        self._refused: dict[str, HeadError] = {}
        self._stamps: dict[str, _Stamp] = {}
        self._names: set[str] = set()
        self._unreadable: str | None = None
        self._refreshing = threading.Lock()

    @property
    def tasks(self) -> dict[str, ClassificationTask]:
        """Of all heads, those of the graph first."""
        return {name: head.task for name, head in self._known.items()}

    @property
    def fitted(self) -> dict[str, FittedHead]:
        """Those in use."""
        return {name: head.fitted for name, head in self._fitted.items() if head.fitted}

    @property
    def refused(self) -> dict[str, HeadError]:
        """What lies in the folder and is not in use, or an older head of its name is, and why."""
        return dict(self._refused)

    def named(self, task: str | None) -> Head:
        """The head of that name; without one the default, or the only one there is.

        A fitted head makes no request ambiguous that was clear without it.

        Raises:
            UnknownTaskError: there is no such head, or several to choose from and no default.
        """
        known = self._known
        if task is None:
            alone = self._shipped or known
            task = next(iter(alone)) if len(alone) == 1 else self._default
        head = known.get(task) if task is not None else None
        if head is None:
            asked = None if task == self._default else task
            raise UnknownTaskError(task=asked, known=sorted(known))
        return head

    def refresh(self, *, all_again: bool = False) -> None:
        """Read what was fitted, replaced or removed since; with `all_again` what was not, too.

        What cannot be used is refused, and does not take the place of a head that can. Threads
        may call it at any time.
        """
        with self._refreshing:
            found = self._found()
            if found is None:
                return
            fitted, refused = dict(self._fitted), dict(self._refused)
            for name in (*fitted, *refused):
                if name not in found:
                    refused.pop(name, None)
                    if fitted.pop(name, None):
                        self._tell(name, "removed")
            for name, stamp in found.items():
                changed = self._stamps.get(name) != stamp
                mended = _may_have_mended(refused.get(name), fitted)
                if all_again or changed or mended:
                    self._read(name, fitted, refused)
            self._stamps = found
            self._fitted, self._refused = fitted, refused
            self._known = {**self._shipped, **fitted}

    def _read(self, name: str, fitted: dict[str, Head], refused: dict[str, HeadError]) -> None:
        try:
            head = read_head(self._heads_dir / name)
            check_fits(head.file, self._manifest)
            self._check_room(name, fitted)
        except HeadError as error:
            if str(refused.get(name)) != str(error):
                self._tell(name, "refused", error)
            error.__cause__ = error.__context__ = None  # with its traceback it holds whole frames,
            refused[name] = error.with_traceback(None)  # and through them a student that has left
            return
        refused.pop(name, None)
        before = fitted.get(name)
        fitted[name] = Head(name, head.file.task, head)
        self._names.add(name)
        if before is None or before.fitted is None or before.fitted.file != head.file:
            self._tell(name, "loaded")

    def _check_room(self, name: str, fitted: Mapping[str, Head]) -> None:
        if name not in fitted and len(fitted) >= MAX_HEADS:
            raise NoRoomError(f"{MAX_HEADS} fitted heads are in use, and no more may be")
        if name not in self._names and len(self._names) >= MAX_NAMES:
            raise HeadError(
                f"heads had {MAX_NAMES} names since the process started, and no more may be"
            )

    def _found(self) -> dict[str, _Stamp] | None:
        """Stamps of what lies in the folder; None where that cannot be told, and nothing changes."""
        try:
            found = dict(sorted(_stamps(self._heads_dir)))
        except FileNotFoundError:
            found = {}
        except OSError as error:
            if self._unreadable != str(error):
                self._unreadable = str(error)
                self._metrics.head_reads.labels("refused").inc()
                logger.error("the folder of heads cannot be read", extra={"reason": str(error)})
            return None
        self._unreadable = None
        return found

    def _tell(self, name: str, outcome: str, error: HeadError | None = None) -> None:
        """Log and count it, except that a head of another model is not refused for being one."""
        if isinstance(error, ForeignHeadError):
            return
        self._metrics.head_reads.labels(outcome).inc()
        level = logging.ERROR if error else logging.INFO
        logger.log(
            level,
            f"a head was {outcome}",
            extra={"head": name, "model": self._manifest.name}
            | ({"reason": str(error)} if error else {}),
        )


def _may_have_mended(error: HeadError | None, fitted: Mapping[str, Head]) -> bool:
    """Whether to look again though no file has changed."""
    has_room = isinstance(error, NoRoomError) and len(fitted) < MAX_HEADS
    return has_room or isinstance(error, UnreadableHeadError)


def _stamps(heads_dir: Path) -> Iterator[tuple[str, _Stamp]]:
    """Of each folder that holds a head. A name that begins with a dot is none."""
    with os.scandir(heads_dir) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                yield tellable(entry.name), _stamp(Path(entry.path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:  # to read it says why
                yield tellable(entry.name), frozenset()


def _stamp(folder: Path) -> _Stamp:
    found = [os.stat(folder / HEAD_FILE)]
    with suppress(OSError), os.scandir(folder) as files:  # one may go meanwhile
        found += [file.stat(follow_symlinks=False) for file in files]
    return frozenset((each.st_ino, each.st_ctime_ns, each.st_size) for each in found)
