"""Whatever happens in whatever order, a request that was let in is answered once."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st
from simulation import CPU, Text, ours, simulate

from app.admission import Terms
from app.errors import InferenceError, LightMBERTError
from app.scheduler import Batch, Scheduler

ACTIONS = ("submit", "submit", "submit", "cancel", "take", "finish", "fail", "split", "pass")


class World:
    """One scheduler, everything that was asked of it, and how often each was answered."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.scheduler: Scheduler[Text, str] = ours(
            CPU, max_batch_tokens=60, identity=lambda text: text.name
        )
        self.asked: list[tuple[asyncio.Future[list[str]], list[str]]] = []
        self.running: list[Batch[Text, str]] = []
        self.answers = 0

    async def do(self, action: str) -> None:
        if action == "pass":
            await asyncio.sleep(self.draw.choice((0.0, 0.02)))
        elif action == "submit":
            self.submit()
        elif action == "cancel" and self.asked:
            self.draw.choice(self.asked)[0].cancel()
        elif action == "take" and (batch := self.scheduler._form()) is not None:
            self.running.append(batch)
        elif self.running and action in ("finish", "fail", "split"):
            batch = self.running.pop(self.draw.randrange(len(self.running)))
            getattr(self, action)(batch)

    def submit(self) -> None:
        names = [f"text{self.draw.randrange(30)}" for _ in range(self.draw.choice((1, 2, 40)))]
        timeout_s = self.draw.choice((None, None, 0.03))
        texts = [Text(name, 1 + int(name[4:])) for name in names]
        try:
            answer = self.scheduler.submit(texts, Terms(timeout_s=timeout_s))
        except LightMBERTError:  # refused as a whole
            return
        answer.add_done_callback(lambda _: self.count())
        self.asked.append((answer, [name.upper() for name in names]))

    def count(self) -> None:
        self.answers += 1

    def finish(self, batch: Batch[Text, str]) -> None:
        self.scheduler.finish(batch, [text.name.upper() for text in batch.items])

    def fail(self, batch: Batch[Text, str]) -> None:
        self.scheduler.fail(batch, InferenceError("broken"))

    def split(self, batch: Batch[Text, str]) -> None:
        self.running.extend(self.scheduler.split(batch))

    async def end(self, *, abort: bool) -> None:
        if abort:
            self.scheduler.abort("stopped")
        while (batch := self.scheduler._form()) is not None:
            self.running.append(batch)
        for batch in self.running:
            self.finish(batch)
        await asyncio.wait_for(self.scheduler.idle(), 1)


@given(
    actions=st.lists(st.sampled_from(ACTIONS), max_size=60),
    seed=st.integers(0, 2**32),
    abort=st.booleans(),
)
def test_every_request_gets_exactly_one_answer(actions: list[str], seed: int, abort: bool) -> None:
    async def scenario() -> None:
        world = World(seed)
        for action in actions:
            await world.do(action)
        await world.end(abort=abort)
        await asyncio.sleep(0)  # callbacks of the last answers
        assert world.answers == len(world.asked)
        for answer, expected in world.asked:
            if not answer.cancelled() and answer.exception() is None:
                assert answer.result() == expected
        lines = world.scheduler._lines
        assert (lines.texts, lines.tokens) == (0, 0)
        assert not lines._known
        assert not world.scheduler._requests

    simulate(scenario())
