"""The life of one process: loading, ready, draining; or failed, and then it says why."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Literal

from app.engine import Engine
from app.errors import LightMBERTError, NotReadyError
from app.memory import give_back
from app.metrics import Metrics
from app.runners import HOPELESS
from app.settings import Settings

logger = logging.getLogger(__name__)

_WIDEN_AFTER_S = 1.0

Phase = Literal["loading", "ready", "leaving", "draining", "failed"]
"""leaving: no longer ready in the eyes of probes, but still at work for `drain_delay_s`."""
LoadEngine = Callable[[Settings, Metrics], Engine]


class Service:
    """Holds the engine once it is loaded, and counts the requests that are under way."""

    def __init__(self, settings: Settings, metrics: Metrics, load_engine: LoadEngine) -> None:
        self.settings = settings
        self.metrics = metrics
        self.phase: Phase = "loading"
        self.settled = asyncio.Event()
        """Set when loading has ended, well or badly."""
        self.leaving = asyncio.Event()
        """Set when the process should end: it was told to, or the model cannot be used."""
        self._load_engine = load_engine
        self._engine: Engine | None = None
        self._failure = ""
        self._stopped = False
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def engine(self) -> Engine:
        """The engine, for new work.

        Raises:
            NotReadyError: there is none yet, or none any more.
        """
        at_work = self.phase in ("ready", "leaving")
        if self._engine is None or not (at_work and self._engine.ready):
            raise NotReadyError(self.state)
        return self._engine

    @property
    def ready(self) -> bool:
        well = self._engine is not None and self._engine.ready
        return self.phase == "ready" and well

    @property
    def alive(self) -> bool:
        """False when only a restart helps."""
        return self.phase != "failed"

    @property
    def state(self) -> str:
        """The phase in words, for callers and probes."""
        if self.phase == "ready" and not self.ready:
            return "the model keeps failing and is being opened anew"
        if self.phase == "failed":
            return self._failure
        return {"loading": "the model is loading", "ready": "the service is ready"}.get(
            self.phase, "the service is shutting down"
        )

    async def load(self) -> None:
        """Load the engine in a thread, so that probes are answered meanwhile."""
        started_at = perf_counter()
        try:
            engine = await asyncio.to_thread(self._load_engine, self.settings, self.metrics)
            await engine.start(self._show_health)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must not live on unready
            told = str(error) if isinstance(error, LightMBERTError) else repr(error)
            self._fail(f"the model could not be loaded: {told}")
        else:
            self._engine = engine
            if self.phase == "loading":  # not stopped meanwhile
                self.phase = "ready"
                self._show_health()
            logger.info(
                "ready",
                extra={
                    "seconds": round(perf_counter() - started_at, 3),
                    "model": engine.manifest.name,
                    "revision": engine.manifest.revision,
                    "variant": engine.session.variant.file,
                    "settings": engine.settings.model_dump(mode="json"),
                },
            )
        finally:
            self.settled.set()
        await asyncio.to_thread(give_back)
        await self._widen()

    async def _widen(self) -> None:
        """Not at once: who waited for the service to be ready comes first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_WIDEN_AFTER_S):
                await self.leaving.wait()
        if self.ready and not self.leaving.is_set() and self._engine is not None:
            await asyncio.to_thread(self._engine.widen)
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
        if self._engine is not None:
            await self._engine.stop(timeout_s=0)

    def _show_health(self) -> None:
        if self._engine is not None and self._engine.broken and self.phase != "failed":
            self._fail(HOPELESS)
        self.metrics.ready.set(self.ready)

    def _fail(self, reason: str) -> None:
        self.phase = "failed"
        self._failure = reason
        self.leaving.set()
        logger.critical("the service must end", extra={"reason": reason})
