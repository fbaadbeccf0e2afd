"""Whatever goes wrong, and whoever leaves: every accepted request gets exactly one answer."""

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_student import MAX_TOKENS

from app.admission import Limits
from app.errors import InferenceError, NotReadyError
from app.forecast import Forecast
from app.metrics import Metrics
from app.runners import Runners
from app.runtime.artifact import load_manifest
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer
from app.scheduler import Scheduler
from app.student import Row, Student

FAULTS = ("raises", "out of memory", "short", "not a number", "hangs")
WORDS = ("hund", "katt", "tax", "hund katt", "katt tax hund")
RUN_TIMEOUT_S = 0.15


class FaultyGraph:
    """The toy student's graph, in which runs go wrong as they are told to."""

    def __init__(self, graph: Any, faults: list[str | None], released: threading.Event) -> None:  # noqa: ANN401 - onnxruntime is untyped
        self._graph = graph
        self._faults = faults
        self._released = released

    def __getattr__(self, name: str) -> object:
        return getattr(self._graph, name)

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        fault = self._faults.pop() if self._faults else None
        if fault == "raises":
            raise RuntimeError("device lost")
        if fault == "out of memory":
            raise MemoryError
        if fault == "hangs":
            assert self._released.wait(timeout=10)
        outputs = self._graph.run(names, feed)
        if fault == "short":
            return [array[:-1] for array in outputs]
        return [array * np.nan for array in outputs] if fault == "not a number" else outputs


class World:
    """The real scheduler, runners, student and graph, and faults among the runs."""

    def __init__(self, folder: Path, faults: list[str | None], *, runners: int) -> None:
        self.released = threading.Event()
        self.tokenizer = Tokenizer.load(folder / "tokenizer.json", max_tokens=MAX_TOKENS)
        manifest = load_manifest(folder)
        sick: list[str | None] = []

        def open_session() -> StudentSession:
            session = StudentSession.load(
                folder, manifest, device="cpu", precision="auto", intra_op_threads=1
            )
            session._session = FaultyGraph(session._session, sick, self.released)
            return session

        student = Student(open_session, self.tokenizer)
        sick += faults  # from here on; it is well when the service starts
        metrics = Metrics()
        self.scheduler = Scheduler[Encoded, Row](
            metrics,
            Forecast(seconds_per_token=1e-4, overhead_s=1e-2),
            Limits(queue_tokens=10_000, queue_bytes=10_000),
            max_batch_tokens=12,
        )
        self.runners = Runners(
            self.scheduler,
            [student] * runners,
            metrics,
            run_timeout_s=RUN_TIMEOUT_S,
            max_faults=6,
        )
        self.queued = partial(metrics.registry.get_sample_value, "lightmbert_queue_texts")

    def submit(self, texts: list[str]) -> "asyncio.Future[list[Row]]":
        return self.scheduler.submit(self.tokenizer.encode(texts, truncate=False))


async def play(world: World, requests: list[list[str]], leaving: set[int]) -> None:
    world.runners.start()
    answers = [world.submit(texts) for texts in requests]
    given_to: list[int] = [0] * len(answers)
    for index, answer in enumerate(answers):
        answer.add_done_callback(lambda _, i=index: given_to.__setitem__(i, given_to[i] + 1))
    for index in leaving & set(range(len(answers))):
        await asyncio.sleep(0)
        answers[index].cancel()
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert given_to == [1] * len(answers)
    for texts, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, list):
            assert [row["pooled"].tolist() for row in outcome] == [meaning(t) for t in texts]
        else:
            assert isinstance(outcome, InferenceError | NotReadyError | asyncio.CancelledError)
    await world.scheduler.idle()
    assert world.queued() == 0
    world.released.set()
    if not world.runners.broken:
        await still_works(world)
    await world.runners.stop()


async def still_works(world: World) -> None:
    """The faults that are left strike somebody, and then texts are answered again."""
    for _ in range(40):
        outcome = (await asyncio.gather(world.submit(["hund"]), return_exceptions=True))[0]
        if isinstance(outcome, list) or world.runners.broken:
            return
    raise AssertionError("the runners did not survive")


def meaning(text: str) -> list[float]:
    words = ["hund", "katt", "tax", ""]
    counts = [float(text.split().count(word)) for word in words]
    length = np.float32(len(text.split()) + 2)
    return [float(np.float32(count) / length) for count in counts]


@settings(max_examples=25)
@given(
    faults=st.lists(st.none() | st.sampled_from(FAULTS), max_size=12),
    requests=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), min_size=1, max_size=12
    ),
    leaving=st.sets(st.integers(0, 11), max_size=4),
    runners=st.integers(1, 3),
)
def test_every_request_gets_exactly_one_answer_whatever_fails_and_whoever_leaves(
    toy_model_dir: Path,
    faults: list[str | None],
    requests: list[list[str]],
    leaving: set[int],
    runners: int,
) -> None:
    async def run() -> None:
        world = World(toy_model_dir, list(faults), runners=runners)
        try:
            async with asyncio.timeout(10):  # a hang is a failure, not a wait
                await play(world, requests, leaving)
        finally:
            world.released.set()

    asyncio.run(run())
