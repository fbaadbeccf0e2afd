"""A thread that the event loop calls and can leave behind."""

import asyncio
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class CallThread(threading.Thread):
    """Makes one call after the other. A daemon: a call that never ends keeps no process alive."""

    def __init__(self, name: str, *, niceness: int = 0) -> None:
        """`niceness`: how far it stands back where threads compete for CPUs; Linux only."""
        super().__init__(name=name, daemon=True)
        self._niceness = niceness
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()

    def call(self, work: Callable[[], ResultT]) -> "asyncio.Future[ResultT]":
        """What `work` returns or raises. Call it on the event loop."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._calls.put((work, future))
        # On Linux some 50 us, in which the thread wakes and gets the interpreter's lock. Else it
        # would wait for it until the loop has nothing left to do for others.
        time.sleep(0)
        return future

    def retire(self) -> None:
        """End after the current call, if any."""
        self._calls.put(None)

    def run(self) -> None:
        if self._niceness and sys.platform == "linux":
            thread = threading.get_native_id()
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + self._niceness
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
        while (call := self._calls.get()) is not None:
            work, future = call
            try:
                result, error = work(), None
            except Exception as raised:  # noqa: BLE001 - handed to the waiting coroutine
                result, error = None, raised
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop was closed while this hung
                return
            # Or what the last call held, an abandoned model say, would live until the next one.
            del call, work, future, result, error


_Call = tuple[Callable[[], Any], "asyncio.Future[Any]"]


def _settle(future: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
    if future.done():  # nobody waits any more
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
