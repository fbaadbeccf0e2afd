"""Stop a run that leads nowhere: its numbers are not finite, or its loss does not fall."""

import math
from collections.abc import Mapping, Sequence

from app.errors import LightMBERTError
from distill.tables.train import TrainTable

Numbers = Mapping[str, float | int]


class DivergedError(LightMBERTError):
    """A run's numbers are no longer finite."""

    code = "diverged"


class NotFallingError(LightMBERTError):
    """A run's loss is about what it was at the beginning."""

    code = "not_falling"


def check_finite(numbers: Numbers) -> None:
    """Refuse to go on from a number that is not finite, for no later one will be.

    Raises:
        DivergedError: names the step, the number and what to try.
    """
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise DivergedError(
                f"step {numbers['step']}: {name} is {number}. The last checkpoint is from before; "
                "try a lower learning_rate, more warmup_steps, or precision = 'fp32'"
            )


class Watch:
    """Compares a run's last losses with its first ones, as `[train.watch]` says."""

    def __init__(self, table: TrainTable, former: Sequence[Numbers]) -> None:
        """Begin with the records of the steps that were done before."""
        self._table = table
        self._losses = [(int(record["step"]), float(record["loss"])) for record in former]

    def see(self, numbers: Numbers) -> None:
        """Look at one more record.

        Raises:
            NotFallingError: from `from_step` on, the mean loss of the last `window_steps` is
                above `max_ratio` times that of the first.
        """
        watch = self._table.watch
        if watch is None:
            return
        step = int(numbers["step"])
        self._losses.append((step, float(numbers["loss"])))
        if step < watch.from_step:
            return
        first = _mean([loss for at, loss in self._losses if at <= watch.window_steps])
        last = _mean([loss for at, loss in self._losses if at > step - watch.window_steps])
        if last > watch.max_ratio * first:
            raise NotFallingError(
                f"step {step}: over the last {watch.window_steps} steps the loss is {last:.4g} on "
                f"average, over the first {watch.window_steps} it was {first:.4g}; watch.max_ratio "
                f"{watch.max_ratio} asks for {watch.max_ratio * first:.4g} or less. Try another "
                f"learning_rate (it is {self._table.learning_rate:g}), more warmup_steps (now "
                f"{self._table.warmup_steps}), another seed, larger batches by accumulation_steps "
                f"(now {self._table.accumulation_steps}), or see whether the teacher knows the "
                "languages of the text"
            )


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
