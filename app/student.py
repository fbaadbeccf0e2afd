"""The student as the runners see it: it runs batches, and is opened anew when it is sick.

Each of several runners has few threads, so a batch that has the machine to itself leaves the
others' CPUs idle. Such a batch may go to a second session of more threads, the wide one.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from app.runtime.outputs import Floats
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer

logger = logging.getLogger(__name__)

Row = dict[str, Floats]
"""Every output of the graph for one text: `pooled` (H,) and `logits_<task>` (C,)."""


class Student:
    """One session that passes its golden self-test, whichever session that is."""

    _counting: ClassVar = threading.Lock()
    _running: ClassVar = 0
    """Of all students in the process, because they share the CPUs."""

    def __init__(self, open_session: Callable[[], StudentSession], tokenizer: Tokenizer) -> None:
        """Open the session and test it.

        Raises:
            ModelError: the folder is unusable on this machine.
        """
        self._open_session = open_session
        self._tokenizer = tokenizer
        self._opening = threading.Lock()
        self._wide: StudentSession | None = None
        self.session = self._opened()

    def run(self, batch: Sequence[Encoded], /) -> list[Row]:
        """One forward pass.

        Raises:
            InferenceError: see `StudentSession.run`.
        """
        with Student._counting:
            Student._running += 1
            alone = len(batch) == Student._running == 1
            session = (alone and self._wide) or self.session
        try:
            outputs = session.run(batch)
        finally:
            with Student._counting:
                Student._running -= 1
        return [{name: array[row] for name, array in outputs.items()} for row in range(len(batch))]

    def widen(self, open_wide: Callable[[], StudentSession]) -> None:
        """Open a wide session beside the other.

        Raises:
            ModelError: it is unusable; nothing has changed.
        """
        wide = open_wide()
        wide.self_test(self._tokenizer)
        with self._opening:
            self._wide = wide

    def heal(self, *, hung: bool) -> bool:
        """Open a new session unless this one is well. True: a new one was opened.

        A session that hung is not asked: its threads may be what hangs.

        Raises:
            ModelError: the new session is unusable too; the old one stays.
        """
        with self._opening:
            if not hung and self._is_well():
                return False
            self._wide = None  # it may be what is sick, and the service can do without it
            self.session = self._opened()  # what still runs on the old one keeps it alive
            return True

    def _is_well(self) -> bool:
        try:
            for session in filter(None, (self.session, self._wide)):
                session.self_test(self._tokenizer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not well
            logger.error("self-test failed", extra={"error": f"{type(error).__name__}: {error}"})
            return False
        return True

    def _opened(self) -> StudentSession:
        session = self._open_session()
        session.self_test(self._tokenizer)
        return session
