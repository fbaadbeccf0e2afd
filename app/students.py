"""The students of one process, by name: loaded together, found for each request, ended together.

A request holds the student it begins on until its answer is made, so that a student can be taken
out of service without anybody noticing.
"""

import logging
from collections.abc import Callable, Iterator

from app.admission import Terms
from app.engine import Engine
from app.errors import LightMBERTError, NotReadyError, OverloadedError, UnknownModelError
from app.head_file import ForeignHeadError
from app.metrics import Metrics
from app.runners import HOPELESS
from app.runtime.artifact import load_manifests
from app.settings import Settings

logger = logging.getLogger(__name__)

SICK = "the model keeps failing and is being opened anew"

LoadEngine = Callable[[Settings, Metrics], Engine]


class Served:
    """One engine at work, and how many requests hold it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.manifest.name
        self.requests = 0

    @property
    def ready(self) -> bool:
        return self.engine.ready

    def check(self) -> None:
        """Raise unless it takes new work.

        Raises:
            NotReadyError: it is sick.
        """
        if not self.engine.ready:
            raise NotReadyError(HOPELESS if self.engine.broken else SICK)

    def enter(self) -> None:
        """A request holds it from now on."""
        self.requests += 1

    def leave(self) -> None:
        """A request holds it no more."""
        self.requests -= 1


class Students:
    """Engines by name. The first is the default: the one of requests that name none."""

    def __init__(self, settings: Settings, metrics: Metrics, load_engine: LoadEngine) -> None:
        self._settings = settings
        self._metrics = metrics
        self._load_engine = load_engine
        self._served: dict[str, Served] = {}

    def __iter__(self) -> Iterator[Served]:
        """The default first."""
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    @property
    def ready(self) -> bool:
        """Whether at least one is well: what is sick must not keep the others from working."""
        return any(each.ready for each in self)

    @property
    def broken(self) -> bool:
        """Whether all are beyond repair, so that only a restart helps."""
        return bool(self._served) and all(each.engine.broken for each in self)

    @property
    def default(self) -> Served:
        return next(iter(self))

    def load(self) -> list[Engine]:
        """Open every folder of the settings, one after the other. Call it in a thread.

        How many runs there are at a time, and of how many threads, is measured with the first
        and goes for all.

        Raises:
            ModelError: a folder is unusable, or two have one name.
        """
        load_manifests(self._settings.model_dirs)
        settings = self._settings
        engines = []
        for folder in self._settings.model_dirs:
            engines.append(self._load_engine(settings.for_student(folder), self._metrics))
            tuned = engines[0].settings
            plan = {"runners": tuned.runners, "intra_op_threads": tuned.intra_op_threads}
            settings = settings.model_copy(update=plan)
        return engines

    async def start(self, engines: list[Engine], on_health: Callable[[], None]) -> None:
        """Put what was loaded to work.

        Args:
            engines: of different names.
            on_health: called when a student's health may have changed.
        """
        for engine in engines:
            await engine.start(on_health)
            engine.describe()
            engine.watch_heads()
            self._served[engine.manifest.name] = Served(engine)

    def named(self, model: str | None) -> Served:
        """The student of that name, or the default.

        Raises:
            UnknownModelError: there is none, naming those there are.
        """
        if model is None:
            return self.default
        served = self._served.get(model)
        if served is None:
            raise UnknownModelError(model=model, known=sorted(self._served))
        return served

    def check_load(self, terms: Terms) -> None:
        """Raise if, whichever student a request turns out to mean, it would be refused.

        Raises:
            OverloadedError, NotReadyError: of the student that has room soonest.
        """
        refusals: list[LightMBERTError] = []
        for served in self:
            try:
                served.check()
                served.engine.check_load(terms)
            except (OverloadedError, NotReadyError) as error:
                refusals.append(error)
            else:
                return
        raise min(refusals, key=lambda error: getattr(error, "retry_after_s", float("inf")))

    def refused_heads(self, served: Served) -> dict[str, str]:
        """Fitted heads that this student cannot use, and why; not those of another one here."""
        return {
            name: str(error)
            for name, error in served.engine.heads.refused.items()
            if not (isinstance(error, ForeignHeadError) and error.model in self._served)
        }

    async def stop(self) -> None:
        """End all at once; who still waits is told."""
        for served in self:
            await served.engine.stop(timeout_s=0)
