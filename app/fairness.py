"""Whose turn it is: two classes of requests share the runners by weight, in seconds of running.

Each class has a clock that runs by the seconds it used, divided by its weight, and the class
whose clock is behind goes next. So a class that asks for less than its share never waits for
more than what runs already, and one that asks for more still gets its share.
"""

from collections.abc import Mapping, Sequence

from app.metrics import PRIORITIES, Priority

WEIGHTS: Mapping[Priority, float] = {"interactive": 4.0, "bulk": 1.0}
"""Under pressure from both, interactive requests get four fifths of the time."""


class Turns:
    """Virtual clocks, one per class."""

    def __init__(self) -> None:
        self._used: dict[Priority, float] = dict.fromkeys(PRIORITIES, 0.0)
        self._now = 0.0

    def join(self, priority: Priority) -> None:
        """A class that had nothing waiting has something again: its time off is no credit."""
        self._used[priority] = max(self._used[priority], self._now)

    def next(self, waiting: Sequence[Priority]) -> Priority:
        """The class that goes next; of equals the first of `waiting`."""
        chosen = min(waiting, key=self._used.__getitem__)
        self._now = max(self._now, self._used[chosen])
        return chosen

    def charge(self, priority: Priority, seconds: float) -> None:
        """Note seconds used; a negative number gives back what a prediction took too much."""
        self._used[priority] += seconds / WEIGHTS[priority]
