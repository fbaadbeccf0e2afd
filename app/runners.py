"""Runner threads: each takes a batch when it is free, runs it, and takes the next.

A run may fail, answer short or hang; its callers get an error and the runner goes on. A hung
thread cannot be stopped in Python, so it is left behind and replaced. When too many hang, the
model or the device is broken: everyone is told, and the process asks to be restarted.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Generic

from app.errors import InferenceError, LightMBERTError, NotReadyError
from app.metrics import Metrics
from app.scheduler import Batch, ItemT, ResultT, Scheduler

logger = logging.getLogger(__name__)

Run = Callable[[Sequence[ItemT]], Sequence[ResultT]]


class Runners(Generic[ItemT, ResultT]):
    """`count` threads that call `run` on batches from one scheduler."""

    def __init__(
        self,
        scheduler: Scheduler[ItemT, ResultT],
        run: Run[ItemT, ResultT],
        metrics: Metrics,
        *,
        count: int,
        run_timeout_s: float,
    ) -> None:
        self.broken = False
        """Whether runs hang beyond repair, so that only a restart helps."""
        self._scheduler = scheduler
        self._run = run
        self._metrics = metrics
        self._count = count
        self._run_timeout_s = run_timeout_s
        self._threads: list[_Thread[ItemT, ResultT]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take batches. Call it on the event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._count)]

    async def stop(self) -> None:
        """Stop taking batches; a thread that still runs one ends with it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        thread = self._new_thread()
        try:
            while True:
                batch = await self._scheduler.take()
                if not await self._answer(batch, thread):
                    thread.retire()
                    thread = self._new_thread()
        except Exception as error:  # noqa: BLE001 - without its runner the queue would wait for ever
            self._give_up(f"a runner ended: {type(error).__name__}")
        finally:
            thread.retire()

    async def _answer(
        self, batch: Batch[ItemT, ResultT], thread: "_Thread[ItemT, ResultT]"
    ) -> bool:
        """Run one batch; every caller in it gets a result or an error. False: it hangs."""
        started_at = perf_counter()
        try:
            async with asyncio.timeout(self._run_timeout_s):
                results = await thread.call(batch.items)
            if len(results) != len(batch.seats):
                raise InferenceError(
                    f"the model gave {len(results)} rows for {len(batch.seats)} texts"
                )
        except TimeoutError:
            message = f"the model did not finish a batch within {self._run_timeout_s} s"
            self._fail(batch, InferenceError(message))
            return False
        except asyncio.CancelledError:
            self._scheduler.fail(batch, NotReadyError("the service stopped before this was run"))
            raise
        except LightMBERTError as error:
            self._fail(batch, error)
        except Exception as error:  # noqa: BLE001 - it belongs to the callers, not to the runner
            self._fail(batch, InferenceError(f"the model failed: {type(error).__name__}"))
        else:
            self._record(batch, perf_counter() - started_at)
            self._scheduler.finish(batch, results)
        return True

    def _new_thread(self) -> "_Thread[ItemT, ResultT]":
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        hung = len(self._threads) - (self._count - 1)
        if hung > self._count:
            self._give_up(f"{hung} runs hang")
        thread = _Thread(self._run)
        thread.start()
        self._threads.append(thread)
        return thread

    def _give_up(self, reason: str) -> None:
        if not self.broken:
            self.broken = True
            logger.critical("only a restart helps", extra={"reason": reason})
            self._scheduler.abort("the model hangs; the service must be restarted")

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
        self._metrics.stage_duration_seconds.labels("run").observe(seconds)
        self._metrics.batch_texts.observe(len(batch.seats))
        self._metrics.batch_tokens.observe(batch.padded_tokens)
        self._metrics.tokens.labels("real").inc(batch.tokens)
        self._metrics.tokens.labels("padded").inc(batch.padded_tokens)


class _Thread(threading.Thread, Generic[ItemT, ResultT]):
    """A daemon, so that a run that never ends cannot keep the process alive."""

    def __init__(self, run: Run[ItemT, ResultT]) -> None:
        super().__init__(name="lightmbert-runner", daemon=True)
        self._run = run
        self._calls: queue.SimpleQueue[
            tuple[Sequence[ItemT], asyncio.Future[Sequence[ResultT]]] | None
        ] = queue.SimpleQueue()

    def call(self, items: Sequence[ItemT]) -> asyncio.Future[Sequence[ResultT]]:
        future: asyncio.Future[Sequence[ResultT]] = asyncio.get_running_loop().create_future()
        self._calls.put((items, future))
        return future

    def retire(self) -> None:
        """End after the current call, if any."""
        self._calls.put(None)

    def run(self) -> None:
        while (call := self._calls.get()) is not None:
            items, future = call
            try:
                outcome: Sequence[ResultT] | Exception = self._run(items)
            except Exception as error:  # noqa: BLE001 - handed to the waiting coroutine
                outcome = error
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, outcome)
            except RuntimeError:  # the loop was closed while this hung
                return


def _settle(
    future: asyncio.Future[Sequence[ResultT]], outcome: Sequence[ResultT] | Exception
) -> None:
    if future.done():  # nobody waits any more
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
