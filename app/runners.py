"""Runner threads: each takes a batch when it is free, runs it, and takes the next.

A run may raise, answer short or hang. Its callers, and nobody else, get an error:

- A text that the model cannot take fails its whole batch. The model passes its own test, and
  the batch is run again in halves, until that text is alone or the halvings are used up.
- A model that is sick fails its own test. It is opened anew, and the batch run again.
- A run that hangs cannot be stopped in Python. Its thread is left behind and replaced, and the
  model opened anew.

A model that is sick again and again makes the service unready, and in the end only a restart
of the process helps.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from app.errors import InferenceError, LightMBERTError, NotReadyError
from app.metrics import Metrics
from app.scheduler import Batch, ItemT, ResultT, Scheduler
from app.threads import CallThread

logger = logging.getLogger(__name__)

HOPELESS = "the model fails again and again; the service must be restarted"
NICENESS = 5
"""The event loop goes first: it answers, and refuses, while all CPUs are at work for others."""
FIRST_PAUSE_S = 0.05
"""Between two attempts to open the model; each further pause is twice as long."""

_ItemT = TypeVar("_ItemT", contravariant=True)
_ResultT = TypeVar("_ResultT", covariant=True)


class Model(Protocol[_ItemT, _ResultT]):
    """What runs batches. Called in the runners' threads, by several at once if they share it."""

    def run(self, items: Sequence[_ItemT], /) -> Sequence[_ResultT]:
        """One result per item, in order."""

    def heal(self, *, hung: bool) -> bool:
        """Open the model anew if it hung or fails its own test. True: that was necessary.

        Raises:
            Exception: it cannot be opened.
        """


class Runners(Generic[ItemT, ResultT]):
    """A thread per entry of `models`, which may be one model several times."""

    def __init__(
        self,
        scheduler: Scheduler[ItemT, ResultT],
        models: Sequence[Model[ItemT, ResultT]],
        metrics: Metrics,
        *,
        run_timeout_s: float,
        max_faults: int,
        on_health: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing runs before `start`.

        `run_timeout_s` is for one batch, repairs and further attempts included. A model that is
        sick `max_faults` times in a row is given up. `on_health` is called whenever `ready` or
        `broken` may have changed.
        """
        self.broken = False
        """Whether the model is beyond repair, so that only a restart helps."""
        self._scheduler = scheduler
        self._models = models
        self._metrics = metrics
        self._run_timeout_s = run_timeout_s
        self._max_faults = max_faults
        self._on_health = on_health
        self._faults = 0
        self._healing = 0
        self._threads: list[CallThread] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """False while a model that was sick before, and has run nothing since, is being healed."""
        return not self.broken and not (self._healing and self._faults)

    def start(self) -> None:
        """Begin to take batches. Call it on the event loop."""
        self._tasks = [asyncio.create_task(self._work(model)) for model in self._models]

    async def stop(self) -> None:
        """Stop taking batches; a thread that still runs one ends with it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []  # their cancellation holds this, and so the models

    async def _work(self, model: Model[ItemT, ResultT]) -> None:
        thread = self._new_thread()
        try:
            while not self.broken:
                batch = await self._scheduler.take()
                hangs = not await self._answer(batch, model, thread)
                while hangs:
                    thread.retire()
                    thread = self._new_thread()
                    hangs = not await self._heal_in_time(model, thread)
        except Exception as error:  # noqa: BLE001 - without its runner the queue would wait for ever
            self._give_up(f"a runner ended: {type(error).__name__}: {error}")
        finally:
            thread.retire()

    async def _answer(
        self, batch: Batch[ItemT, ResultT], model: Model[ItemT, ResultT], thread: CallThread
    ) -> bool:
        """Run one batch; every caller in it gets a result or an error. False: it hangs."""
        parts = [batch]
        error = LightMBERTError("a batch was left without an answer")
        try:
            async with asyncio.timeout(self._run_timeout_s):
                await self._run_parts(parts, model, thread)
        except TimeoutError:
            error = InferenceError(
                f"the model did not finish a batch within {self._run_timeout_s} s"
            )
            return False
        except asyncio.CancelledError:
            error = NotReadyError("the service stopped before this was run")
            raise
        except LightMBERTError as raised:
            error = raised
            raise
        finally:
            for part in parts:
                self._fail(part, error)
        return True

    async def _run_parts(
        self,
        parts: list[Batch[ItemT, ResultT]],
        model: Model[ItemT, ResultT],
        thread: CallThread,
    ) -> None:
        """Answer the only batch in `parts`, by parts of it where it fails as a whole.

        What is left in `parts` has no answer yet.
        """
        # Enough to find one bad text and try it twice alone; as many as it takes once another
        # part has run, because then it is the texts and not the model.
        halvings: float = len(parts[0].seats).bit_length()
        healed = False
        while parts:
            error = await self._run(parts[-1], model, thread)
            if error is None:
                halvings = math.inf
            else:
                if not healed:
                    await self._heal(model, thread, hung=False)
                    healed = True
                if halvings and (len(parts[-1].seats) > 1 or halvings < math.inf):
                    halvings -= 1
                    parts.extend(self._scheduler.split(parts.pop()))
                    continue
                self._fail(parts[-1], error)
            parts.pop()

    async def _run(
        self, part: Batch[ItemT, ResultT], model: Model[ItemT, ResultT], thread: CallThread
    ) -> LightMBERTError | None:
        """Hand out the results of one run; or return why there are none."""
        started_at = perf_counter()
        try:
            results = await thread.call(partial(model.run, part.items))
        except LightMBERTError as error:
            return error
        except Exception as error:  # noqa: BLE001 - it belongs to the callers, not to the runner
            return InferenceError(f"the model failed: {type(error).__name__}")
        if len(results) != len(part.seats):
            return InferenceError(f"the model gave {len(results)} rows for {len(part.seats)} texts")
        self._faults = 0
        run_s = perf_counter() - started_at
        self._record(part, run_s)
        self._scheduler.finish(part, results, run_s=run_s)
        return None

    async def _heal_in_time(self, model: Model[ItemT, ResultT], thread: CallThread) -> bool:
        """Open a model that hung anew. False: that hangs as well."""
        try:
            async with asyncio.timeout(self._run_timeout_s):
                await self._heal(model, thread, hung=True)
        except TimeoutError:
            self._count_fault(f"the model could not be opened within {self._run_timeout_s} s")
            return False
        return True

    async def _heal(self, model: Model[ItemT, ResultT], thread: CallThread, *, hung: bool) -> None:
        """Return when the model is well, be it that it was never sick.

        Raises:
            NotReadyError: all attempts are used up.
        """
        self._healing += 1
        self._on_health()
        pause_s = FIRST_PAUSE_S
        try:
            while not await self._attempt(model, thread, hung=hung):
                await asyncio.sleep(pause_s)
                pause_s *= 2
        finally:
            self._healing -= 1
            self._on_health()

    async def _attempt(
        self, model: Model[ItemT, ResultT], thread: CallThread, *, hung: bool
    ) -> bool:
        try:
            opened_anew = await thread.call(partial(model.heal, hung=hung))
        except Exception as error:  # noqa: BLE001 - why it cannot be opened makes no difference
            self._count_fault(f"{type(error).__name__}: {error}")
            return False
        if opened_anew:
            self._count_fault("a run hung" if hung else "its own test failed")
        return True

    def _count_fault(self, reason: str) -> None:
        self._faults += 1
        self._metrics.model_faults.inc()
        logger.error("the model is sick", extra={"faults": self._faults, "reason": reason})
        if self._faults >= self._max_faults:
            self._give_up(f"{self._faults} faults in a row; the last: {reason}")
            raise NotReadyError(HOPELESS)

    def _new_thread(self) -> CallThread:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        hung = len(self._threads) - (len(self._models) - 1)
        if hung > len(self._models):
            self._give_up(f"{hung} runs hang")
        thread = CallThread("lightmbert-runner", niceness=NICENESS)
        thread.start()
        self._threads.append(thread)
        return thread

    def _give_up(self, reason: str) -> None:
        if not self.broken:
            self.broken = True
            logger.critical("only a restart helps", extra={"reason": reason})
            self._scheduler.abort(HOPELESS)
            self._on_health()

    def _fail(self, batch: Batch[ItemT, ResultT], error: LightMBERTError) -> None:
        cause = "" if error.__cause__ is None else str(error.__cause__)
        logger.error(
            "batch failed",
            extra={
                "texts": len(batch.seats),
                "tokens": batch.tokens,
                "error": str(error),
                "cause": cause,
            },
        )
        self._scheduler.fail(batch, error)

    def _record(self, batch: Batch[ItemT, ResultT], seconds: float) -> None:
        self._metrics.stage_seconds["run"].observe(seconds)
        self._metrics.batch_texts.observe(len(batch.seats))
        self._metrics.batch_tokens.observe(batch.padded_tokens)
        self._metrics.real_tokens.inc(batch.tokens)
        self._metrics.padded_tokens.inc(batch.padded_tokens)
