"""Some callers, each of whom asks again as soon as it is answered: how much, and how fast.

What callers would have asked while they waited is left out, and they use the processors that
they measure: figures for comparing settings on one machine, not one system with another.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import chain
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from app.errors import LightMBERTError

TIMEOUT_S = 60
_WARM_UP_S = 0.3

_VOCABULARY = """
bus late morning rain river stone market price bread teacher doctor law winter game friend
asubuhi mvua soko bei mkate mwalimu rafiki Regen Fluss Markt Preis Brot Lehrer Arzt Freund
lluvia piedra mercado precio pan maestro amigo pluie rivière marché pain médecin loi hiver
дождь река камень рынок цена хлеб учитель друг вода город مطر نهر سوق سعر خبز معلم صديق
"""
_WORDS = _VOCABULARY.split()


class ServiceError(LightMBERTError):
    """A service cannot be measured."""

    code = "not_measurable"


@dataclass(frozen=True)
class Asked:
    """One request, as its caller saw it."""

    seconds: float
    tokens: int | None
    """None where it failed."""


@dataclass(frozen=True)
class Cell:
    """What callers got for texts of one length."""

    words: int
    tokens: float
    """Of a text, special ones included, on average."""
    callers: int
    requests_per_s: float
    texts_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    """Requests that were refused or not answered; they are in no other figure."""


@dataclass(frozen=True)
class Load:
    words: int
    callers: int
    texts: int
    """In one request."""
    seconds: float


def bodies(load: Load, caller: int) -> Iterator[list[str]]:
    """One caller's texts, request after request: always the same, and hardly any of them twice."""
    draw = random.Random(f"{load.words} {caller}")
    while True:
        yield [" ".join(draw.choices(_WORDS, k=load.words)) for _ in range(load.texts)]


def cell(load: Load, asked: Sequence[Asked], seconds: float) -> Cell:
    """The figures of what was asked within `seconds`."""
    tokens = [each.tokens for each in asked if each.tokens is not None]
    taken = sorted(each.seconds for each in asked if each.tokens is not None)
    return Cell(
        words=load.words,
        tokens=sum(tokens) / max(1, len(tokens) * load.texts),
        callers=load.callers,
        requests_per_s=len(taken) / seconds,
        texts_per_s=len(taken) * load.texts / seconds,
        p50_ms=_percentile(taken, 0.50),
        p95_ms=_percentile(taken, 0.95),
        p99_ms=_percentile(taken, 0.99),
        failed=len(asked) - len(taken),
    )


async def ask_engine(load: Load, ask: Callable[[list[str]], Awaitable[int]]) -> Cell:
    """Callers in this process; `ask` gives the tokens of a request, or raises `LightMBERTError`."""

    async def call_until(end: float, caller: int) -> list[Asked]:
        asked, texts = [], bodies(load, caller)
        while (began := perf_counter()) < end:
            tokens: int | None = None
            try:
                tokens = await ask(next(texts))
            except LightMBERTError:
                await asyncio.sleep(0)  # a refusal may come at once
            asked.append(Asked(perf_counter() - began, tokens))
        return asked

    async def call_for(seconds: float) -> tuple[list[Asked], float]:
        began = perf_counter()
        callers = (call_until(began + seconds, caller) for caller in range(load.callers))
        each = await asyncio.gather(*callers)
        return list(chain(*each)), perf_counter() - began

    await call_for(_WARM_UP_S)
    return cell(load, *await call_for(load.seconds))


class Service:
    """One over HTTP, asked for embeddings."""

    def __init__(self, url: str, *, api_key: str | None) -> None:
        """Look whom `url` leads to.

        Raises:
            ServiceError: nobody answers there, or somebody else.
        """
        self._url = urlsplit(url if "://" in url else f"http://{url}")
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self.info = self._looked_up(url)

    def ask(self, load: Load) -> Cell:
        """Callers on as many connections, each in a thread."""

        def call_for(seconds: float) -> tuple[list[Asked], float]:
            began = perf_counter()
            with ThreadPoolExecutor(load.callers) as threads:
                call = partial(self._call_until, load, began + seconds)
                asked = list(chain(*threads.map(call, range(load.callers))))
            return asked, perf_counter() - began

        call_for(_WARM_UP_S)
        return cell(load, *call_for(load.seconds))

    def _call_until(self, load: Load, end: float, caller: int) -> list[Asked]:
        asked, texts = [], bodies(load, caller)
        with closing(self._connection()) as connection:
            while (began := perf_counter()) < end:
                body = orjson.dumps({"texts": next(texts), "truncate": True, "encoding": "base64"})
                tokens: int | None = None
                try:
                    connection.request("POST", f"{self._url.path}/embed", body, self._headers)
                    answer = connection.getresponse()
                    told = answer.read()
                    if answer.status == HTTPStatus.OK:
                        tokens = orjson.loads(told)["usage"]["tokens"]
                except (OSError, HTTPException):
                    connection.close()  # the next request opens it anew
                asked.append(Asked(perf_counter() - began, tokens))
        return asked

    def _looked_up(self, url: str) -> dict[str, Any]:
        """What the service says of itself."""
        with closing(self._connection()) as connection:
            try:
                connection.request("GET", f"{self._url.path}/info", headers=self._headers)
                told = connection.getresponse().read()
            except (OSError, HTTPException) as error:
                raise ServiceError(f"{url} does not answer: {error}; is it served?") from None
        try:
            info: dict[str, Any] = orjson.loads(told)
            info["runtime"]["provider"], info["model"]["name"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise ServiceError(f"{url} is no LightMBERT service that is ready") from None
        return info

    def _connection(self) -> HTTPConnection:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        return kind(self._url.netloc, timeout=TIMEOUT_S)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest that `share` of the values do not exceed, in milliseconds; 0 of nothing."""
    if not ordered:
        return 0.0
    return float(np.quantile(ordered, share, method="inverted_cdf")) * 1e3
