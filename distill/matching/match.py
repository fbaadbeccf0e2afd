"""One entry of a recipe's objectives: what it looks at, and how it compares.

A match joins pure losses to two encoders. What it learns (projections) or remembers (queues) is
its own parameters and buffers, so a checkpoint holds them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NoReturn

from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.batches import Batch
from distill.config import RecipeError
from distill.tables.objectives import ObjectiveTable
from distill.taps import View, Wants

Side = Literal["text", "english", "masked"]
Owner = Literal["student", "teacher"]
OWNERS: tuple[Owner, ...] = ("student", "teacher")


@dataclass(frozen=True)
class Views:
    """What one encoder showed of one batch; None where no match reads that side."""

    text: View | None = None
    english: View | None = None
    masked: View | None = None


class Match(nn.Module):
    """Base of one recipe entry.

    Raises:
        RecipeError: all of the entry's weights are 0.
    """

    kind: ClassVar[str]
    student_reads: ClassVar[frozenset[Side]] = frozenset({"text"})
    teacher_reads: ClassVar[frozenset[Side]] = frozenset({"text"})
    parallel: ClassVar[bool] = False
    """Reads the English side, which only parallel text has."""
    masks_text: ClassVar[bool] = False
    """Reads the masked side, which is made only if asked for."""
    same_pieces: ClassVar[bool] = True
    """Both encoders read the same token ids, so their vocabularies must agree."""

    teacher_pooled: ClassVar[bool] = False
    """Looks at nothing of the teacher but its embedding of a text, `View.pooled`."""

    english_every: int = 1
    """The student reads the English of every so many-th pair."""

    student_wants: Wants
    teacher_wants: Wants
    weights: dict[str, float]
    """What each term counts for in the sum. A term that counts for nothing is not computed."""

    def __init__(self, weight: float, terms: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = {name: weight * of_term for name, of_term in terms.items() if of_term > 0}
        if not weight or not self.weights:
            raise RecipeError(f"objective {self.kind!r} has no weight above 0")
        self.student_wants = self.teacher_wants = Wants()

    @classmethod
    def asks_pieces(cls, table: ObjectiveTable) -> bool:
        """Whether both encoders must be loaded with their masked-language heads."""
        return False

    def forward(self, student: Views, teacher: Views, batch: Batch) -> dict[str, Tensor]:
        """Scalar terms by name, unweighted: those of `weights`."""
        raise NotImplementedError


def shown(view: View | None) -> View:
    """The view of a side that the match reads, and which therefore was made."""
    assert view is not None, "Losses runs each encoder over every side that a match reads"
    return view


class Refusals:
    """Checks of whether an objective fits two encoders; each names both sides' figures."""

    def __init__(self, kind: str, student: Anatomy, teacher: Anatomy) -> None:
        self._kind, self._student, self._teacher = kind, student, teacher

    def attention(self) -> None:
        for owner in OWNERS:
            if not self._facts(owner).attention_layers:
                self.because(f"compares attention, and the {owner} has no attention layer")

    def scores(self) -> None:
        """Scores of queries and keys, head by head, as they leave their projections."""
        self.attention()
        for owner in OWNERS:
            if self._facts(owner).rotary:
                self.because(
                    f"compares attention scores, and the {owner} turns queries and keys by their "
                    "positions afterwards; 'minilm' of version 2 compares what does not need them"
                )
        self.heads()

    def heads(self) -> None:
        if self._student.heads != self._teacher.heads:
            self.because(
                f"compares head by head: {self._student.heads} heads in the student, "
                f"{self._teacher.heads} in the teacher"
            )

    def width(self, remedy: str) -> None:
        if self._student.width != self._teacher.width:
            self.because(
                f"compares hidden states of width {self._student.width} in the student and "
                f"{self._teacher.width} in the teacher; {remedy}"
            )

    def pieces(self) -> None:
        for owner in OWNERS:
            if not self._facts(owner).has_pieces:
                self.because(f"compares pieces, and the {owner} has no masked-language head")

    def layer(self, layer: int) -> None:
        """A layer of the teacher that must be there and have attention."""
        layers = self._teacher.attention_layers
        if layer not in layers:
            found = ", ".join(map(str, layers))
            self.because(f"compares attention of layer {layer}; the teacher has it in {found}")

    def depth(self, layers: Iterable[int], owner: Owner) -> None:
        """Layers that must be there."""
        depth = self._facts(owner).depth
        if beyond := [layer for layer in layers if layer > depth]:
            self.because(f"names layer {beyond[0]} of the {owner}, which has {depth}")

    def uneven(self, heads: int) -> None:
        """A number of heads that must divide both widths."""
        for owner in OWNERS:
            if (width := self._facts(owner).width) % heads:
                self.because(f"asks for {heads} relation heads; the {owner} is {width} wide")

    def because(self, reason: str) -> NoReturn:
        raise RecipeError(f"objective {self._kind!r} {reason}")

    def _facts(self, owner: Owner) -> Anatomy:
        return self._student if owner == "student" else self._teacher
