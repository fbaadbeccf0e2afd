"""The students of one process, by name: loaded together, found for each request, ended together.

A request holds the student it begins on until its answer is made, so that a student can be taken
out of service without anybody noticing.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from app.admission import Terms
from app.engine import Engine
from app.errors import LightMBERTError, NotReadyError, OverloadedError, UnknownModelError
from app.head_file import ForeignHeadError
from app.memory import give_back
from app.metrics import Metrics
from app.runners import HOPELESS
from app.runtime.artifact import load_manifests
from app.settings import Settings

logger = logging.getLogger(__name__)

SICK = "the model keeps failing and is being opened anew"

OpenEngine = Callable[[Settings, Metrics], Engine]
"""Opens a model folder; the engine has yet to be warmed up."""


class Served:
    """One engine at work, and how many requests hold it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.manifest.name
        self.revision = engine.manifest.revision
        self.requests = 0
        self._unused: asyncio.Event | None = None

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
        if self._unused is not None and not self.requests:
            self._unused.set()

    async def end(self) -> None:
        """Stop the engine and let go of it, when no request holds it; none may begin to any more."""
        await self._last_leaves()
        await self.engine.stop()
        del self.engine  # what still knows of this must not keep sessions in memory

    async def _last_leaves(self) -> None:
        self._unused = asyncio.Event()
        if self.requests:
            await self._unused.wait()


class Students:
    """Engines by name. The first is the default: the one of requests that name none."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        open_engine: OpenEngine,
        *,
        on_health: Callable[[], None],
    ) -> None:
        """`on_health` is called whenever `ready` or `broken` may have changed."""
        self._settings = settings
        self._metrics = metrics
        self._open_engine = open_engine
        self._on_health = on_health
        self._served: Mapping[str, Served] = {}
        """Replaced rather than changed: whoever goes through it may be overtaken."""
        self._retiring: dict[Served, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Served]:
        """The default first."""
        return iter(self._served.values())

    @property
    def retiring(self) -> list[Served]:
        """Those that were taken out and are still held by a request."""
        return list(self._retiring)

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

    def open_default(self) -> Engine:
        """Open the first folder of the settings, for `load_all`. Call it in a thread.

        Raises:
            ModelError: it is unusable, another has no manifest, or two have one name.
        """
        load_manifests(self._settings.model_dirs)
        return self._open(self._settings.model_dirs[0])

    def load_all(self, default: Engine) -> list[Engine]:
        """Warm up the default, then load the other folders one by one. Call it in a thread.

        Raises:
            ModelError: a folder is unusable.
        """
        others = self._settings.model_dirs[1:]
        return [self._warmed_up(default), *(self.load(folder) for folder in others)]

    def load(self, folder: Path) -> Engine:
        """Open one folder and warm it up, to be `put` to work. Call it in a thread.

        Raises:
            ModelError: it is unusable.
        """
        return self._warmed_up(self._open(folder))

    def _open(self, folder: Path) -> Engine:
        return self._open_engine(self._settings.for_student(folder), self._metrics)

    def _warmed_up(self, engine: Engine) -> Engine:
        """How many runs there are at a time, of how many threads, goes for all that follow."""
        engine.warm_up()
        plan = engine.settings.model_dump(include={"runners", "intra_op_threads"})
        self._settings = self._settings.model_copy(update=plan)
        return engine

    async def put(self, engine: Engine) -> Served | None:
        """Put an engine to work, in one step, in place of that of its name: which is returned."""
        name = engine.manifest.name
        replaced = self._served.get(name)
        if replaced is not None:
            self._metrics.forget_model(name)
        await engine.start(self._on_health)
        engine.describe()
        engine.watch_heads()
        self._served = {**self._served, name: Served(engine)}
        self._on_health()
        return replaced

    def take_out(self, served: Served) -> None:
        """Let no further request find it."""
        self._served = {name: each for name, each in self._served.items() if each is not served}
        self._metrics.forget_model(served.name)
        self._on_health()

    def retire(self, served: Served) -> None:
        """End what was replaced or taken out when the last request that holds it is answered."""
        self._retiring[served] = asyncio.create_task(self._retire(served))

    async def _retire(self, served: Served) -> None:
        await served.end()
        del self._retiring[served]
        await asyncio.to_thread(give_back)
        logger.info("freed", extra={"model": served.name, "revision": served.revision})

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
        """Raise if no student would let in a request like those that wait for it.

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

    def refused_heads(self, engine: Engine) -> dict[str, str]:
        """Fitted heads that this student cannot use, and why; not those of another one here."""
        return {
            name: str(error)
            for name, error in engine.heads.refused.items()
            if not (isinstance(error, ForeignHeadError) and error.model in self._served)
        }

    async def stop(self) -> None:
        """End all at once; who still waits is told."""
        for task in self._retiring.values():
            task.cancel()
        for served in (*self._served.values(), *self._retiring):
            await served.engine.stop(timeout_s=0)
