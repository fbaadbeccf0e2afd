import asyncio
import os
import sys
import threading
import weakref
from functools import partial

import pytest

from app.threads import CallThread


class Model:
    def answer(self) -> str:
        return threading.current_thread().name

    def fail(self) -> str:
        raise ValueError("no answer")


@pytest.fixture
def thread() -> CallThread:
    thread = CallThread("the caller's own")
    thread.start()
    return thread


async def test_calls_are_made_in_the_thread_and_their_results_come_back(thread: CallThread) -> None:
    assert await thread.call(Model().answer) == "the caller's own"
    with pytest.raises(ValueError, match="no answer"):
        await thread.call(Model().fail)
    thread.retire()
    await asyncio.to_thread(thread.join, timeout=5)
    assert not thread.is_alive()


async def test_a_call_begins_while_the_loop_goes_on(thread: CallThread) -> None:
    before, begun = sys.getswitchinterval(), 0
    sys.setswitchinterval(60)  # or the interpreter would take the lock from the loop by itself
    try:
        for _ in range(50):
            started: list[bool] = []
            call = thread.call(partial(started.append, True))
            for _ in range(100_000):  # what the loop does for other callers
                pass
            begun += len(started)
            await call
    finally:
        sys.setswitchinterval(before)
        thread.retire()
    assert begun > 0  # without a chance to, none does


async def test_it_holds_on_to_nothing_between_two_calls(thread: CallThread) -> None:
    model = Model()
    alive = weakref.ref(model)
    await thread.call(model.answer)
    del model
    async with asyncio.timeout(5):
        while alive() is not None:
            await asyncio.sleep(0)
    thread.retire()


def test_a_loop_that_was_closed_meanwhile_ends_the_thread(thread: CallThread) -> None:
    gate = threading.Event()
    begun = threading.Event()

    async def call_and_leave() -> None:
        thread.call(lambda: begun.set() or gate.wait(timeout=5))
        assert await asyncio.to_thread(begun.wait, timeout=5)

    asyncio.run(call_and_leave())
    gate.set()
    thread.join(timeout=5)
    assert not thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness on Linux only")
async def test_a_thread_stands_back_by_as_much_as_it_is_told() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    thread = CallThread("polite", niceness=3)
    thread.start()
    assert await thread.call(niceness) == min(19, niceness() + 3)
    thread.retire()
