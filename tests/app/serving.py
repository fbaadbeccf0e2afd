"""The application in this process, without a socket, and a model that waits to be told."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
from fastapi import FastAPI

from app.engine import Engine
from app.main import create_app
from app.metrics import Metrics
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer
from app.service import Service
from app.settings import Settings
from app.students import OpenEngine


class GatedSession(StudentSession):
    """The toy student; it says when a batch has begun and waits until the test lets it end."""

    begun: "queue.SimpleQueue[int]"
    gate: threading.Semaphore
    failure: Exception | None = None

    def run(self, encoded: Sequence[Encoded]) -> dict[str, np.ndarray]:
        self.begun.put(len(encoded))
        assert self.gate.acquire(timeout=5)
        if self.failure is not None:
            raise self.failure
        return super().run(encoded)

    def self_test(self, tokenizer: Tokenizer) -> None:
        """Passes: what the test makes fail is a run, not the student."""


class GatedEngine(Engine):
    """Warms up as any engine does, then has its session gated."""

    session: GatedSession

    def warm_up(self) -> None:
        super().warm_up()
        begun, gate = queue.SimpleQueue(), threading.Semaphore(0)

        def gated(session: StudentSession) -> StudentSession:
            session.__class__ = GatedSession
            session.begun, session.gate = begun, gate
            return session

        student = self._model.students[0]
        open_session = student._open_session
        student._open_session = lambda: gated(open_session())
        gated(student.session)

    async def has_begun(self) -> int:
        """Texts in the batch that has just begun."""
        return await asyncio.to_thread(self.session.begun.get, timeout=5)


class Client(httpx.AsyncClient):
    """A client that knows the application it talks to."""

    def __init__(self, app: FastAPI) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        super().__init__(transport=transport, base_url="http://service")
        self.app = app
        self.service = app.state.service

    async def embed(self, texts: object, **options: object) -> httpx.Response:
        return await self.post("/embed", json={"texts": texts, **options})

    async def classify(self, texts: object, **options: object) -> httpx.Response:
        return await self.post("/classify", json={"texts": texts, **options})

    def value(self, name: str, **labels: str) -> float | None:
        registry = self.service.metrics.registry
        return registry.get_sample_value(f"lightmbert_{name}", labels)


@asynccontextmanager
async def serving(
    model_dir: Path | Sequence[Path],
    *,
    open_engine: OpenEngine = Engine,
    loaded: bool = True,
    within_s: float = 10,
    **options: object,
) -> AsyncIterator[Client]:
    """A client of an application that is ready, unless `loaded` is off."""
    app = create_app(Service(Settings(model_dir=model_dir, **options), open_engine=open_engine))
    async with (
        asyncio.timeout(within_s),  # a hang is a failure, not a wait
        app.router.lifespan_context(app),
        Client(app) as client,
    ):
        if loaded:
            await client.service.settled.wait()
        yield client


def gating(name: str) -> OpenEngine:
    """Gates the student in the folder of that name."""

    def open_engine(settings: Settings, metrics: Metrics) -> Engine:
        kind = GatedEngine if settings.model_dir.name == name else Engine
        return kind(settings, metrics)

    return open_engine


@asynccontextmanager
async def gated(model_dir: Path, **options: object) -> AsyncIterator[tuple[Client, GatedEngine]]:
    """A client and an engine whose only runner waits for `engine.session.gate.release()`."""
    async with serving(model_dir, open_engine=GatedEngine, runners=1, **options) as client:
        engine = client.service.engine
        try:
            yield client, engine
        finally:
            engine.session.gate.release(100)


@asynccontextmanager
async def full(model_dir: Path, **options: object) -> AsyncIterator[Client]:
    """A client of a service that runs one text, has another waiting, and room for no more."""
    async with gated(model_dir, max_queue_tokens=3, **options) as (http, engine):
        running = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        waiting = asyncio.create_task(http.embed("katt"))
        while http.value("queue_tokens") != 3:
            await asyncio.sleep(0)
        yield http
        engine.session.gate.release(2)
        await asyncio.gather(running, waiting)


ADMIN_KEY = "to-change"
BEARING = {"authorization": f"Bearer {ADMIN_KEY}"}


class Admin:
    """Who may change what a service serves."""

    def __init__(self, http: Client) -> None:
        self._http = http

    async def load(self, folder: str) -> httpx.Response:
        return await self._call("POST", "", json={"folder": folder})

    async def unload(self, name: str) -> httpx.Response:
        return await self._call("DELETE", f"/{name}")

    async def models(self) -> dict[str, list[tuple[str, str, int]]]:
        """(name, revision, requests) of those that are served, and of those that are leaving."""
        shown = (await self._call("GET", "")).json()
        return {
            state: [(each["name"], each["revision"], each["requests"]) for each in shown[state]]
            for state in ("models", "leaving")
        }

    async def _call(self, method: str, path: str, **options: object) -> httpx.Response:
        url = f"/admin/models{path}"
        return await self._http.request(method, url, headers=BEARING, **options)
