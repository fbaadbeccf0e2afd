"""`lightmbert bench`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.group import CommandError, examples
from app.commands.options import Device, Json, ModelDir, print_json, settings_from
from app.errors import LightMBERTError

if TYPE_CHECKING:
    from app.closed_loop import Cell, Load
    from app.settings import Settings

BENCH_EXAMPLES = examples(
    "lightmbert bench",
    "lightmbert bench --url http://127.0.0.1:8000 --callers 1,8 --words 8,64",
    "lightmbert bench --texts 32 --json | jq '.cells[].texts_per_s'",
)
NOT_A_COMPARISON = (
    "One system asked by callers on its own processors: compare settings by it, not systems, "
    "which are compared by tests/bench (make bench)."
)
"""Told with every figure, so that none is taken for what it is not."""


@dataclass(frozen=True)
class Measured:
    """What is measured, and how."""

    what: dict[str, Any]
    ask: Callable[["Load"], "Cell"]


def bench(
    url: Annotated[
        str | None,
        typer.Option(help="A running service; without it the model runs in this process, no HTTP."),
    ] = None,
    callers: Annotated[
        str, typer.Option(help="How many ask at a time, one after another.")
    ] = "1,4,16",
    words: Annotated[str, typer.Option(help="Lengths of texts, one after another.")] = "8,32,128",
    texts: Annotated[int, typer.Option(min=1, help="Texts in one request.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each length and number.")] = 3.0,
    json: Json = False,
    model_dir: ModelDir = None,
    device: Device = None,
) -> None:
    """Measure throughput and latency of /embed.

    By length of text and number of callers, each of whom asks again when it is answered. Texts are
    words of several languages, hardly any text comes twice, and what is too long is cut.
    LIGHTMBERT_API_KEY is sent along.
    """
    lengths, numbers = _numbers("--words", words), _numbers("--callers", callers)
    if url is not None and (model_dir, device) != (None, None):
        raise CommandError("--url says where the model runs; leave out --model-dir and --device")
    settings = settings_from(model_dir=model_dir, device=device)
    from app.closed_loop import Load

    with _service(url, settings) if url is not None else _engine(settings) as measured:
        if not json:
            typer.echo(f"{NOT_A_COMPARISON}\n\n{_HEAD}")
        cells = []
        for length in lengths:
            for number in numbers:
                cells.append(measured.ask(Load(length, number, texts, seconds)))
                if not json:
                    typer.echo(_line(cells[-1]))
    if json:
        about = {
            "kind": "closed loop",
            "note": NOT_A_COMPARISON,
            "texts": texts,
            "seconds": seconds,
        }
        print_json(about | measured.what | {"cells": [asdict(each) for each in cells]})
    if any(cell.requests_per_s == 0 for cell in cells):
        raise LightMBERTError("some requests were never answered; see the column failed")


@contextmanager
def _service(url: str, settings: "Settings") -> Iterator[Measured]:
    from app.closed_loop import Service

    key = settings.api_key.get_secret_value() if settings.api_key else None
    service = Service(url, api_key=key)
    info = service.info
    yield Measured({"url": url, "model": info["model"]["name"], **info["runtime"]}, service.ask)


@contextmanager
def _engine(settings: "Settings") -> Iterator[Measured]:
    from functools import partial

    from anyio.from_thread import start_blocking_portal

    from app.closed_loop import ask_engine
    from app.engine import Engine
    from app.metrics import Metrics
    from app.runtime.cpus import cpu_name

    engine = Engine.load(settings, Metrics())

    async def tokens_of(texts: list[str]) -> int:
        return (await engine.embed(texts, truncate=True)).usage.tokens

    what = {
        "model": engine.manifest.name,
        "precision": engine.session.variant.precision,
        "cpu": cpu_name(),
        "runners": engine.settings.runners,
        "intra_op_threads": engine.settings.intra_op_threads,
    }
    with start_blocking_portal() as portal:
        portal.call(engine.start)
        try:
            yield Measured(what, lambda load: portal.call(partial(ask_engine, load, tokens_of)))
        finally:
            portal.call(engine.stop)


def _numbers(option: str, given: str) -> list[int]:
    """As in "1,4,16"."""
    try:
        numbers = [int(each) for each in given.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise CommandError(f"{option} takes whole numbers from 1, such as 1,4,16, not {given!r}")
    return numbers


_HEAD = "words  tokens  callers  requests/s   texts/s    p50 ms    p95 ms    p99 ms  failed"


def _line(cell: "Cell") -> str:
    return (
        f"{cell.words:5}  {cell.tokens:6.0f}  {cell.callers:7}  {cell.requests_per_s:10,.0f}"
        f"{cell.texts_per_s:10,.0f}{cell.p50_ms:10.1f}{cell.p95_ms:10.1f}{cell.p99_ms:10.1f}{cell.failed:8}"
    )
