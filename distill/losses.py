"""From a batch to its losses: run teacher and student, and compare them as the recipe says.

Forward passes run under the recipe's precision; losses are always computed in float32.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import reduce
from operator import or_

import torch
from torch import Tensor, nn

from distill.anatomy import Encoder
from distill.batches import Batch, Tokens
from distill.matching import Match, Side, Views
from distill.objectives import without_autocast
from distill.taps import Observer, View, Wants
from distill.targets import KeptObserver, Targets

Autocast = Callable[[], AbstractContextManager[None]]


class Losses(nn.Module):
    """All entries of a recipe over one student and one teacher.

    Holds the student and the matches, whose parameters are trained and belong into checkpoints;
    the teacher is run, not held. Each encoder runs once over each side that a match reads.
    """

    def __init__(
        self, student: Encoder, teacher: Encoder, matches: Sequence[Match], autocast: Autocast
    ) -> None:
        super().__init__()
        self.student = student
        self.matches = nn.ModuleDict({match.kind: match for match in matches})
        self.weights = {
            f"{match.kind}.{name}": weight
            for match in matches
            for name, weight in match.weights.items()
        }
        """What each term counts for, by the names that `forward` gives."""
        self._autocast = autocast
        self._english_every = max(match.english_every for match in matches)
        self._teacher = (teacher,)  # a tuple, for a module would be held
        self._student_views = _Looking(
            student, [(match.student_reads, match.student_wants) for match in matches]
        )
        self._teacher_views = _Looking(
            teacher, [(match.teacher_reads, match.teacher_wants) for match in matches]
        )

    @property
    def teacher(self) -> Encoder:
        return self._teacher[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted terms by `kind.term`, scalars in float32."""
        # not inference_mode: its tensors cannot enter a graph, as a projected teacher's must
        with torch.no_grad(), self._autocast():
            teacher = self._teacher_views(batch, english=batch.teacher_english)
        with self._autocast():
            student = self._student_views(batch, english=self._english(batch))
        with without_autocast():
            return {
                f"{kind}.{name}": term
                for kind, match in self.matches.items()
                for name, term in match(student, teacher, batch).items()
            }

    def _english(self, batch: Batch) -> Tokens | None:
        """What the student reads of the English, as the one match that asks for it says."""
        if batch.english is None:
            return None
        return batch.english.every(self._english_every)

    def keep_targets(self, targets: Targets) -> None:
        """From now on ask the teacher only for embeddings that are not kept; matches see no more."""
        self._teacher_views.keep(targets)

    def trained(self) -> Iterator[nn.Parameter]:
        """Parameters of the matches, to be trained beside the student's."""
        return self.matches.parameters()


class _Looking:
    """One encoder's views of a batch, with only that hooked on a side which is wanted there."""

    def __init__(self, encoder: Encoder, reads: Iterable[tuple[frozenset[Side], Wants]]) -> None:
        wanted: dict[Side, list[Wants]] = {}
        for sides, wants in reads:
            for side in sides:
                wanted.setdefault(side, []).append(wants)
        self._observers: dict[Side, Callable[[Tokens], View]] = {
            side: Observer(encoder, reduce(or_, wants)) for side, wants in wanted.items()
        }

    def keep(self, targets: Targets) -> None:
        for side, observer in self._observers.items():
            self._observers[side] = KeptObserver(observer, targets)

    def __call__(self, batch: Batch, *, english: Tokens | None) -> Views:
        tokens: dict[Side, Tokens | None] = {"text": batch.text, "english": english}
        if batch.masked is not None:
            tokens["masked"] = Tokens(batch.masked.ids, batch.text.mask)
        views = {}
        for side, observer in self._observers.items():
            asked = tokens.get(side)
            assert asked is not None, f"the batch lacks its {side} side, which an objective reads"
            views[side] = observer(asked)
        return Views(**views)
