"""Many rows through one engine: bounded chunks, several in flight, answers in the order of rows.

The caller reads and writes in its own thread while the engine works in another, so memory holds
the chunks in flight however long the input is, and an interrupt takes effect at once.
"""

import sys
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol

from anyio.from_thread import start_blocking_portal

from app.engine import Engine
from app.files import Row
from app.metrics import Metrics
from app.records import Record
from app.settings import Settings

PLACE_COLUMNS = ("file", "row", "status")
MAX_IN_FLIGHT = 4
"""Chunks: enough that runners find neighbours of like length, and work while rows are read."""
MAX_CHUNK_ROWS = 256
MAX_CHUNK_CHARACTERS = 4_194_304

Status = Literal["ok", "truncated", "blank", "too_long", "unreadable"]


@dataclass(frozen=True, eq=False, slots=True)
class Answers:
    """What the model says of some texts, in their order."""

    results: list[Record]
    truncated: frozenset[int]
    """Indices of texts of which only the beginning was read."""


class Question(Protocol):
    """What is asked about each text."""

    columns: ClassVar[tuple[str, ...]]
    """The keys of each result."""

    async def ask(self, engine: Engine, texts: list[str]) -> Answers: ...

    def described(self, engine: Engine) -> dict[str, Any]:
        """Everything of question and model that decides the answers, as JSON values."""


def _model(engine: Engine) -> dict[str, Any]:
    manifest = engine.manifest
    return {
        "model": manifest.name,
        "revision": manifest.revision,
        "variant": engine.session.variant.sha256,
    }


@dataclass(frozen=True)
class Classify:
    """The labels of one head, best first, as `POST /classify` gives them."""

    columns: ClassVar[tuple[str, ...]] = ("label", "score", "scores")

    task: str | None
    top_k: int | None

    async def ask(self, engine: Engine, texts: list[str]) -> Answers:
        answer = await engine.classify(texts, task=self.task, top_k=self.top_k, truncate=True)
        return Answers(answer.ranking.records(), frozenset(answer.usage.truncated))

    def described(self, engine: Engine) -> dict[str, Any]:
        fitted = engine.heads.named(self.task).fitted
        which = {"head": fitted.file.seal} if fitted else {}  # its name may mean another tomorrow
        return _model(engine) | {"question": "classify"} | asdict(self) | which


@dataclass(frozen=True)
class ZeroShot:
    """Labels of one's own, found by similarity, as `POST /classify` gives them."""

    columns: ClassVar[tuple[str, ...]] = Classify.columns

    labels: tuple[str, ...]
    template: str
    multi_label: bool
    top_k: int | None

    async def ask(self, engine: Engine, texts: list[str]) -> Answers:
        answer = await engine.zero_shot(
            texts,
            self.labels,
            template=self.template,
            multi_label=self.multi_label,
            top_k=self.top_k,
            truncate=True,
        )
        return Answers(answer.ranking.records(), frozenset(answer.usage.truncated))

    def described(self, engine: Engine) -> dict[str, Any]:
        return _model(engine) | {"question": "zero-shot"} | asdict(self)


@dataclass(frozen=True)
class Embed:
    """Unit vectors, as `POST /embed` gives them."""

    columns: ClassVar[tuple[str, ...]] = ("embedding",)

    dimensions: int | None

    async def ask(self, engine: Engine, texts: list[str]) -> Answers:
        answer = await engine.embed(texts, dimensions=self.dimensions, truncate=True)
        results = [{"embedding": vector} for vector in answer.vectors]
        return Answers(results, frozenset(answer.usage.truncated))

    def described(self, engine: Engine) -> dict[str, Any]:
        return _model(engine) | {"question": "embed"} | asdict(self)


@dataclass(frozen=True, eq=False, slots=True)
class Answered:
    row: Row
    status: Status
    result: Record | None
    """None where the text is blank, too long or cannot be read."""

    def record(self, columns: Sequence[str]) -> Record:
        """What is written of it: where it was, how it went, and `columns` of the result."""
        place = {"file": self.row.file, "row": self.row.number, "status": self.status}
        return place | (self.result or dict.fromkeys(columns))


def engine_alone(settings: Settings) -> Engine:
    """The student for one caller, whose chunks are bounded as they are read: none is to be refused.

    Raises:
        ModelError, InferenceError: it cannot be used.
    """
    return Engine.load(settings.model_copy(update={"max_queue_bytes": sys.maxsize}), Metrics())


def answer_all(
    rows: Iterable[Row], question: Question, engine: Engine, *, truncate: bool
) -> Generator[list[Answered]]:
    """Every row with its answer, in order. Close the iterator to stop the engine.

    Args:
        rows: read lazily, and never far ahead of the answers.
        question: what to ask about each text.
        engine: loaded and not started; it is started here, and stopped at the end.
        truncate: read the beginning of a text that is too long, rather than refuse it.

    Raises:
        InputError: the model has no answer to this question.
        InferenceError: the model failed.
    """
    room = engine.settings.max_queue_tokens // engine.manifest.max_tokens
    most_in_flight = max(1, min(MAX_IN_FLIGHT, room))
    most_rows = max(
        1, min(MAX_CHUNK_ROWS, engine.settings.max_texts_per_request, room // most_in_flight)
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_running(engine)):
        in_flight = deque[Future[list[Answered]]]()
        try:
            for chunk in _chunks(rows, most_rows=most_rows):
                in_flight.append(portal.start_task_soon(_answer, chunk, question, engine, truncate))
                if len(in_flight) == most_in_flight:
                    yield in_flight[0].result()
                    in_flight.popleft()
            while in_flight:
                yield in_flight[0].result()
                in_flight.popleft()
        finally:
            for unread in in_flight:
                unread.cancel()  # so that stopping waits for what runs, not for what is queued


@asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[None]:
    await engine.start()
    try:
        yield
    finally:
        await engine.stop()


def _chunks(rows: Iterable[Row], *, most_rows: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(row.text)
        if len(chunk) == most_rows or characters >= MAX_CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


async def _answer(
    chunk: list[Row], question: Question, engine: Engine, truncate: bool
) -> list[Answered]:
    """All rows of a chunk. Too long ones are run too: which they are is known only then."""
    texts = [row.text for row in chunk if row.text.strip()]  # what cannot be read has none
    answers = await question.ask(engine, texts) if texts else Answers([], frozenset())
    results = enumerate(answers.results)
    answered = []
    for row in chunk:
        index, result = next(results) if row.text.strip() else (None, None)
        status: Status = "blank" if row.problem is None else "unreadable"
        if result is not None:
            cut: Status = "truncated" if truncate else "too_long"
            status = cut if index in answers.truncated else "ok"
        answered.append(Answered(row, status, None if status == "too_long" else result))
    return answered
