"""What happens at the edges: too much, malformed, overloaded, broken, gone, shutting down."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from serving import gated, serving

from app.errors import InferenceError, LightMBERTError


async def test_a_body_above_the_limit_is_refused_while_it_is_read(toy_model_dir: Path) -> None:
    async def endless_body():  # noqa: ANN202 - an async generator of bytes
        for sent in range(10):
            assert sent < 5, "the service went on reading"
            yield b" " * 100

    async with serving(toy_model_dir, max_body_bytes=300) as http:
        answer = await http.post("/embed", content=endless_body())
        assert answer.status_code == 413
        message = "the body is larger than 300 bytes"
        assert answer.json() == {"error": {"code": "body_too_large", "message": message}}
        assert http.value("requests_total", route="/embed", status="413") == 1
        assert http.value("errors_total", code="body_too_large") == 1


async def test_a_body_that_announces_too_much_is_not_read_at_all(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, max_body_bytes=300) as http:
        headers = {"content-length": "301"}
        assert (await http.post("/embed", content=b"{}", headers=headers)).status_code == 413


async def test_a_body_of_exactly_the_limit_is_read(toy_model_dir: Path) -> None:
    body = json.dumps({"texts": "hund"}).encode()
    async with serving(toy_model_dir, max_body_bytes=len(body)) as http:
        assert (await http.post("/embed", content=body)).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"texts", b'{"texts": "\xff"}', b'{"texts": "\\ud800"}']
)
async def test_a_body_that_is_not_json_is_a_400(toy_model_dir: Path, body: bytes) -> None:
    async with serving(toy_model_dir) as http:
        answer = await http.post("/embed", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "malformed_body"


async def test_a_body_that_is_no_object_is_a_422(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        assert (await http.post("/embed", json=["hund"])).status_code == 422


async def test_too_many_texts_are_refused(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, max_texts_per_request=2) as http:
        assert (await http.embed(["hund"] * 2)).status_code == 200
        answer = await http.embed(["hund"] * 3)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == "texts has 3 items; one request may hold 2"


async def test_a_full_queue_is_refused_at_once_with_the_time_to_come_back(
    toy_model_dir: Path,
) -> None:
    async with gated(toy_model_dir, max_queue_tokens=6) as (http, engine):
        running = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        queued = asyncio.create_task(http.embed(["katt", "tax"]))
        while http.value("queue_tokens") != 6:
            await asyncio.sleep(0)
        refused = await http.classify("hund", task="topic")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert int(refused.headers["retry-after-ms"]) >= 1
        assert http.value("requests_total", route="/classify", status="429") == 1
        engine.session.gate.release(2)
        assert [(await each).status_code for each in (running, queued)] == [200, 200]


async def test_a_request_above_the_whole_queue_is_told_to_send_less(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, max_queue_tokens=6) as http:
        answer = await http.embed(["hund katt", "tax"])
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "too_many_tokens"


async def test_a_model_that_fails_is_a_500_for_its_callers_and_works_again(
    toy_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gated(toy_model_dir) as (http, engine):
        engine.session.gate.release(3)  # a text that fails has a second try
        engine.session.failure = InferenceError("the model failed on a batch of 1x3 tokens")
        answer = await http.embed("secret")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "inference_failed"
        engine.session.failure = None
        assert (await http.embed("hund")).status_code == 200
    assert "batch failed" in caplog.text
    assert "secret" not in caplog.text


async def test_a_model_that_hangs_is_a_500_in_time(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir, run_timeout_s=0.05) as (http, _):
        answer = await http.embed("hund")
        assert answer.status_code == 500
        assert "did not finish" in answer.json()["error"]["message"]


async def test_undefined_numbers_are_an_error_and_no_answer(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir) as (http, engine):
        engine.session.gate.release(2)
        engine.session.failure = None
        engine.session._session = _NotANumber(engine.session._session)
        answer = await http.embed("hund")
        assert answer.status_code == 500
        assert "undefined numbers" in answer.json()["error"]["message"]


class _NotANumber:
    """A graph whose results are all undefined."""

    def __init__(self, session: object) -> None:
        self._session = session

    def run(self, names: list[str], feed: object) -> list[object]:
        return [array * float("nan") for array in self._session.run(names, feed)]


async def test_a_bug_is_a_500_that_tells_nothing(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        http.service.engine._forward._tokenizer = None
        answer = await http.embed("hund")
        assert answer.status_code == 500
        message = "an error inside the service; see its log"
        assert answer.json() == {"error": {"code": "internal", "message": message}}
        assert http.value("errors_total", code="internal") == 1
        assert http.value("requests_total", route="/embed", status="500") == 1
        assert http.value("in_flight_requests") == 0


async def test_an_error_without_a_status_is_a_bug(toy_model_dir: Path) -> None:
    class ForgottenError(LightMBERTError):
        code = "forgotten"

    def fail(*_: object) -> None:
        raise ForgottenError("no table knows it")

    async with serving(toy_model_dir) as http:
        http.service.engine._forward._tokenizer = SimpleNamespace(encode=fail)
        answer = await http.embed("hund")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal"


async def test_a_caller_who_hangs_up_has_its_queued_texts_dropped(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir) as (http, engine):
        running = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        gone = asyncio.Event()
        sent: list[object] = []
        leaving = asyncio.create_task(_raw_embed(http.app, ["katt", "tax"], gone, sent))
        while http.value("queue_texts") != 2:
            await asyncio.sleep(0)
        gone.set()
        await leaving
        assert http.value("queue_texts") == 0
        assert http.value("dropped_texts_total", reason="gone") == 2
        assert http.value("requests_total", route="/embed", status="499") == 1
        engine.session.gate.release()
        assert (await running).status_code == 200
    assert engine.session.begun.empty()


async def _raw_embed(
    app: object, texts: list[str], gone: asyncio.Event, sent: list[object]
) -> None:
    """A request whose caller hangs up when `gone` is set."""
    body = [{"type": "http.request", "body": json.dumps({"texts": texts}).encode()}]

    async def receive() -> dict[str, object]:
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": [], "query_string": b""}
    await app(scope, receive, send)


async def test_shutdown_finishes_what_had_begun_and_refuses_the_rest(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir) as (http, engine):
        running = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        stopping = asyncio.create_task(http.service.stop())
        while http.service.phase != "draining":
            await asyncio.sleep(0)
        refused = await http.embed("katt")
        assert refused.status_code == 503
        assert refused.json()["error"]["message"] == "the service is shutting down"
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/livez")).status_code == 200
        assert http.value("ready") == 0
        engine.session.gate.release()
        assert (await running).status_code == 200
        await stopping


async def test_shutdown_answers_even_those_it_cannot_wait_for(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir, drain_timeout_s=0.05, max_batch_tokens=3) as (http, engine):
        requests = [asyncio.create_task(http.embed(text)) for text in ("hund", "katt")]
        await engine.has_begun()
        await http.service.stop()
        assert [(await request).status_code for request in requests] == [503, 503]
