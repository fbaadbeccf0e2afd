"""From the student's width to the teacher's: nothing, or a linear layer trained along."""

from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.matching.match import Refusals
from distill.objectives import at_least_float32, full_precision
from distill.tables.objectives import Projection


class Learned(nn.Linear):
    """A linear layer in float32, whatever it is given."""

    @full_precision
    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H of the student) -> (..., H of the teacher)."""
        return super().forward(at_least_float32(hidden))


def projection(kind: Projection, refuse: Refusals, student: Anatomy, teacher: Anatomy) -> nn.Module:
    """The layer that hidden states of the student pass on their way to the loss.

    Raises:
        RecipeError: none is asked for, and the widths differ.
    """
    if kind == "none":
        refuse.width("set projection = 'learned'")
        return nn.Identity()
    return Learned(student.width, teacher.width)
