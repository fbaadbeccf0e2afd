"""The life of one process: loading, ready, draining; or failed, and then it says why."""

import asyncio
import logging
import threading
from concurrent.futures import Future
from contextlib import suppress
from time import perf_counter
from typing import Literal

from app.admission import Terms
from app.engine import Engine
from app.errors import LightMBERTError, NotReadyError, error_types
from app.exchange import LEAVING, Exchange
from app.memory import give_back
from app.metrics import Metrics
from app.runners import HOPELESS
from app.settings import Settings
from app.students import SICK, OpenEngine, Served, Students

logger = logging.getLogger(__name__)

_WIDEN_AFTER_S = 1.0

Phase = Literal["loading", "ready", "leaving", "draining", "failed"]
"""leaving: no longer ready in the eyes of probes, but still at work for `drain_delay_s`."""


class Service:
    """Holds the students once they are loaded, and counts the requests that are under way."""

    def __init__(self, settings: Settings, *, open_engine: OpenEngine = Engine) -> None:
        self.settings = settings
        self.metrics = Metrics(error_codes=[kind.code for kind in error_types()])
        self.phase: Phase = "loading"
        self.settled = asyncio.Event()
        """Set when loading has ended, well or badly."""
        self.leaving = asyncio.Event()
        """Set when the process should end: it was told to, or no model can be used."""
        self.students = Students(settings, self.metrics, open_engine, on_health=self._show_health)
        self.exchange = Exchange(settings, self.students, leaving=self.leaving)
        self._opening: Future[Engine] | None = None
        self._opened_at = 0.0
        self._failure = ""
        self._stopped = False
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def engine(self) -> Engine:
        """The engine of the default student, for new work.

        Raises:
            NotReadyError: there is none yet, or none any more.
        """
        return self.student(None).engine

    def student(self, model: str | None) -> Served:
        """The student of that name, or the default, for new work.

        Raises:
            UnknownModelError: there is none of that name.
            NotReadyError: it does not work now, or nothing does.
        """
        served = self.at_work().named(model)
        served.check()
        return served

    def at_work(self) -> Students:
        """The students, sick or well, while there is work to be done.

        Raises:
            NotReadyError: they are loading, or the service is shutting down.
        """
        if self.phase not in ("ready", "leaving"):
            raise NotReadyError(self.state)
        return self.students

    def check_load(self, terms: Terms) -> None:
        """Refuse a request before it is read, if no student would let in one like those that wait.

        Raises:
            OverloadedError, NotReadyError.
        """
        self.at_work().check_load(terms)

    @property
    def ready(self) -> bool:
        return self.phase == "ready" and self.students.ready

    @property
    def alive(self) -> bool:
        """False when only a restart helps."""
        return self.phase != "failed"

    @property
    def state(self) -> str:
        """The phase in words, for callers and probes."""
        if self.phase == "failed":
            return self._failure
        if self.phase == "ready":
            return self._health
        return "the model is loading" if self.phase == "loading" else LEAVING

    @property
    def _health(self) -> str:
        if not self.students.ready:
            return SICK
        sick = [each.name for each in self.students if not each.ready]
        return f"ready, but not {' and '.join(sick)}" if sick else "ready"

    def open(self) -> None:
        """Begin to open the default student, in a thread; `load` sees how that ends."""
        self._opened_at = perf_counter()
        self._opening = opening = Future[Engine]()

        def work() -> None:
            try:
                opening.set_result(self.students.open_default())
            except Exception as error:  # noqa: BLE001 - `load` tells
                opening.set_exception(error)

        try:  # a daemon: who interrupts a start does not wait for it
            threading.Thread(target=work, name="lightmbert-opening", daemon=True).start()
        except RuntimeError as error:  # no more threads
            opening.set_exception(error)

    async def load(self) -> None:
        """Load the students in a thread, so that probes are answered meanwhile."""
        if self._opening is None:
            self.open()
        try:
            for engine in await asyncio.to_thread(self._load_all):
                await self.students.put(engine)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must not live on unready
            told = str(error) if isinstance(error, LightMBERTError) else repr(error)
            self._fail(f"the model could not be loaded: {told}")
        else:
            if self.phase == "loading":  # not stopped meanwhile
                self.phase = "ready"
                self._show_health()
            self._log_ready(perf_counter() - self._opened_at)
        finally:
            self.settled.set()
        await asyncio.to_thread(give_back)
        await self._widen()

    def _load_all(self) -> list[Engine]:
        opening, self._opening = self._opening, None  # or it would hold the engine for ever
        assert opening is not None
        return self.students.load_all(opening.result())

    def _log_ready(self, seconds: float) -> None:
        """An event per student; `seconds` are those since opening began, imports beside it included."""
        for served in self.students:
            settings = served.engine.settings
            logger.info(
                "ready",
                extra={
                    "seconds": round(seconds, 3),
                    "model": served.name,
                    "revision": served.revision,
                    "variant": served.engine.session.variant.file,
                    "settings": settings.model_dump(mode="json", by_alias=True),
                },
            )

    async def _widen(self) -> None:
        """Not at once: who waited for the service to be ready comes first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WIDEN_AFTER_S):
                await self.leaving.wait()
        for served in list(self.students):
            at_work = served in self.students  # it may be exchanged while another is widened
            if at_work and self.ready and not self.leaving.is_set():
                await asyncio.to_thread(served.engine.widen)
                await asyncio.to_thread(give_back)

    def enter(self) -> None:
        """A request has begun."""
        self._in_flight += 1
        self._quiet.clear()
        self.metrics.in_flight_requests.inc()

    def leave(self) -> None:
        """A request has been answered, or its caller is gone."""
        self._in_flight -= 1
        self.metrics.in_flight_requests.dec()
        if not self._in_flight:
            self._quiet.set()

    async def stop(self) -> None:
        """Stop being ready, and after `drain_delay_s` refuse new work.

        What had begun may finish within `drain_timeout_s`; the rest is answered by an error.
        Further calls do nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        self.leaving.set()
        self.metrics.ready.set(0)
        if self.phase == "ready":
            self.phase = "leaving"
            await asyncio.sleep(self.settings.drain_delay_s)
        if self.phase != "failed":
            self.phase = "draining"
            logger.info("draining", extra={"requests": self._in_flight})
        await self.settled.wait()
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            logger.error("drain timed out", extra={"requests": self._in_flight})
        await self.exchange.stop(timeout_s=self.settings.drain_timeout_s)
        await self.students.stop()

    def _show_health(self) -> None:
        if self.students.broken and self.phase != "failed":
            self._fail(HOPELESS)
        self.metrics.ready.set(self.ready)

    def _fail(self, reason: str) -> None:
        self.phase = "failed"
        self._failure = reason
        self.leaving.set()
        logger.critical("the service must end", extra={"reason": reason})
