"""A model folder, opened on this machine; how fast it is here is measured afterwards.

Opening is reading, hashing and preparing, which the rest of a start may go on beside. What is
measured wants the machine to itself.
"""

from collections.abc import Sequence
from functools import partial

from app.forecast import Forecast
from app.runtime.artifact import Manifest, load_manifest, verify_file
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from app.settings import Settings
from app.student import Student
from app.tuning import Plan, threads_alone, tuned
from app.warmup import warmed_up


class OpenedModel:
    """What runs texts, one for each runner, and what it takes to open it again."""

    def __init__(self, settings: Settings) -> None:
        """Open the folder of the settings and test it against its golden outputs.

        Raises:
            ModelError: it is unusable on this machine.
        """
        self.settings = settings
        self._manifest = load_manifest(settings.model_dir)
        self.tokenizer = Tokenizer.load(
            verify_file(settings.model_dir, self._manifest.tokenizer),
            max_tokens=self._manifest.max_tokens,
        )
        self.students: Sequence[Student] = self._opened()

    @property
    def session(self) -> StudentSession:
        """The session in use now; after a fault it is another one."""
        return self.students[0].session

    def measure(self) -> Forecast:
        """Choose how many runs there are at a time, of how many threads; and what they take.

        Raises:
            ModelError: sessions for other plans cannot be opened.
        """
        plan = self._plan
        open_session = partial(_open, self.settings, self._manifest)
        self.settings = tuned(self.settings, open_session, self.tokenizer, opened=self.session)
        if self._plan != plan:
            self.students = ()  # so that it is not in memory twice
            self.students = self._opened()
        return warmed_up(
            self.session, self.tokenizer, max_batch_tokens=self.settings.max_batch_tokens
        )

    def widen(self) -> None:
        """Open what a text that is alone runs on, where that needs more threads.

        Raises:
            ModelError: it is unusable; the student it was opened for goes on without.
        """
        threads = threads_alone(self.settings, self.session)
        if threads > self.settings.intra_op_threads:
            plan = Plan(runners=1, intra_op_threads=threads)
            for student in set(self.students):
                student.widen(partial(_open, self.settings, self._manifest, plan))

    @property
    def _plan(self) -> Plan:
        return Plan(runners=self.settings.runners, intra_op_threads=self.settings.intra_op_threads)

    def _opened(self) -> Sequence[Student]:
        # Runs on one CUDA session wait for each other; on one CPU session they do not.
        sessions = self._plan.runners if self.settings.device == "cuda" else 1
        of_each = self._plan.model_copy(update={"runners": self._plan.runners // sessions})
        reopen = partial(_open, self.settings, self._manifest, of_each)
        return [Student(reopen, self.tokenizer) for _ in range(sessions)] * of_each.runners


def _open(settings: Settings, manifest: Manifest, plan: Plan) -> StudentSession:
    """No method: a student that knew who holds it would outlive its last request."""
    return StudentSession.load(
        settings.model_dir,
        manifest,
        device=settings.device,
        precision=settings.precision,
        intra_op_threads=plan.intra_op_threads,
        runners=plan.runners,
    )
