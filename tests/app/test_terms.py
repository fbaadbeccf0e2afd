"""Deadlines and priorities over HTTP, refusals before the body is read, and the cache."""

import asyncio
from pathlib import Path

import pytest
from serving import gated, serving

PRIORITY, TIMEOUT = "x-lightmbert-priority", "x-request-timeout-ms"


@pytest.mark.parametrize(
    ("header", "value", "message"),
    [
        (PRIORITY, "urgent", "x-lightmbert-priority is 'urgent'; known: interactive, bulk"),
        (TIMEOUT, "soon", "x-request-timeout-ms is 'soon'; it may be 1 to 2000"),
        (TIMEOUT, "0", "x-request-timeout-ms is '0'; it may be 1 to 2000"),
        (TIMEOUT, "2001", "x-request-timeout-ms is '2001'; it may be 1 to 2000"),
        (TIMEOUT, "-5", "x-request-timeout-ms is '-5'; it may be 1 to 2000"),
    ],
)
async def test_terms_that_are_none_are_refused_by_name(
    toy_model_dir: Path, header: str, value: str, message: str
) -> None:
    async with serving(toy_model_dir, max_timeout_s=2.0) as http:
        answer = await http.post("/embed", json={"texts": "hund"}, headers={header: value})
        assert answer.status_code == 422
        expected = {"code": "invalid_input", "message": message, "param": header}
        assert answer.json()["error"] == expected


async def test_terms_that_can_be_met_change_nothing(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        headers = {PRIORITY: "bulk", TIMEOUT: "5000"}
        body = {"texts": "hund", "task": "topic"}
        answer = await http.post("/classify", json=body, headers=headers)
        assert answer.status_code == 200


async def test_a_deadline_that_passes_is_a_504(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir) as (http, engine):
        running = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        # What runs is predicted to be done at once, and never is.
        late = await http.post("/embed", json={"texts": "katt"}, headers={TIMEOUT: "150"})
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        assert late.json()["error"]["message"].endswith("within the 150 ms that you set")
        assert http.value("requests_total", route="/embed", status="504") == 1
        assert http.value("dropped_texts_total", reason="expired") == 1
        engine.session.gate.release()
        assert (await running).status_code == 200


async def test_an_overloaded_service_refuses_before_it_reads_the_body(toy_model_dir: Path) -> None:
    async def unread():  # noqa: ANN202 - an async generator of bytes
        raise AssertionError("the body was read")
        yield b""

    async with gated(toy_model_dir, max_wait_s=1.0) as (http, engine):
        running = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        engine._forecast.seconds_per_token = 10.0
        engine._scheduler._lines._work_s.clear()
        queued = asyncio.create_task(http.embed("katt"))
        while http.value("queue_texts") != 1:
            await asyncio.sleep(0)
        refused = await http.post(
            "/embed", content=unread(), headers={PRIORITY: "interactive", "content-length": "20"}
        )
        assert refused.status_code == 429
        assert "the limit is 1 s" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert int(refused.headers["retry-after-ms"]) > 1_000
        small = await http.post("/embed", json={"texts": "hund"})
        assert small.status_code == 429
        body = {"texts": ["tax"] * 40}
        bulk = asyncio.create_task(http.post("/embed", json=body, headers={PRIORITY: "bulk"}))
        while http.value("queue_texts") != 2:  # of a line of its own, which is empty
            await asyncio.sleep(0)
        engine.session.gate.release(3)
        assert [(await each).status_code for each in (running, queued, bulk)] == [200] * 3


async def test_texts_that_wait_are_bounded_in_bytes(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir, max_queue_bytes=100) as (http, engine):
        running = asyncio.create_task(http.embed("hund"))
        await engine.has_begun()
        refused = await http.embed("katt")
        assert refused.status_code == 429
        assert (
            "of 100 bytes are waiting; there is no room for" in refused.json()["error"]["message"]
        )
        assert int(refused.headers["retry-after-ms"]) >= 100
        engine.session.gate.release(2)
        assert (await running).status_code == 200
        assert (await http.embed("katt")).status_code == 200


async def test_a_request_has_one_class_from_its_first_check_to_its_answer(
    toy_model_dir: Path,
) -> None:
    long = "hund" + " " * 3_000  # three tokens; by its characters it might be many
    async with gated(toy_model_dir, bulk_texts=10, bulk_tokens=50) as (http, engine):
        for texts in (["hund"] * 9, [long] * 9, ["hund"] * 10):
            waiting = asyncio.create_task(http.embed(texts))
            await engine.has_begun()
            scheduler = engine._scheduler
            [request] = scheduler._requests
            held = {each for each, size in scheduler._admission._held_bytes.items() if size}
            assert request.priority == ("interactive" if texts == ["hund"] * 9 else "bulk")
            assert held == {request.priority}
            engine.session.gate.release()
            assert (await waiting).status_code == 200


async def test_a_text_asked_again_is_not_run_again(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir, cache_bytes=100_000) as (http, engine):
        engine.session.gate.release(2)
        first = await http.embed(["hund", "katt"])
        again = await http.embed("katt")  # nothing is left to let it run
        assert again.json()["embeddings"] == first.json()["embeddings"][1:]
        assert again.json()["usage"] == {"texts": 1, "tokens": 3, "truncated": []}
        assert (await http.classify("hund", task="topic")).status_code == 200
        assert http.value("cache_texts_total", outcome="hit") == 2
        assert http.value("cache_texts_total", outcome="miss") == 2
        assert http.value("cache_bytes") > 0
        long = await http.embed(["hund", "katt " * 20])  # one is known, the other is not
        assert long.status_code == 422
        assert long.json()["error"]["param"] == "texts[1]"
        mixed = await http.embed(["tax", "hund"])
        assert mixed.json()["embeddings"][1] == first.json()["embeddings"][0]
