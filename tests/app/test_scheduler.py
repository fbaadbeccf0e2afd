import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admission import Limits
from app.errors import InferenceError, NotReadyError, OverloadedError, TooManyTokensError
from app.forecast import Forecast
from app.metrics import Metrics
from app.scheduler import Batch, Scheduler


@dataclass(frozen=True)
class Item:
    name: str
    tokens: int


def items(*tokens: int, name: str = "item") -> list[Item]:
    return [Item(f"{name}{index}", count) for index, count in enumerate(tokens)]


def a_scheduler(
    *, max_queue_tokens: int = 1_000, tokens_per_s: float = 100.0, **options: object
) -> Scheduler[Item, str]:
    """Runs are dear to start and padding is cheap, so that lengths mix."""
    forecast = Forecast(seconds_per_token=1 / tokens_per_s, overhead_s=20 / tokens_per_s)
    limits = Limits(queue_tokens=max_queue_tokens, queue_bytes=1_000)
    return Scheduler(Metrics(), forecast, limits, **({"max_batch_tokens": 100} | options))


def value(scheduler: Scheduler[Item, str], name: str, **labels: str) -> float | None:
    return scheduler._metrics.registry.get_sample_value(f"lightmbert_{name}", labels)


async def take(scheduler: Scheduler[Item, str]) -> Batch[Item, str]:
    async with asyncio.timeout(5):  # a hang is a failure, not a wait
        return await scheduler.take()


def names(batch: Batch[Item, str]) -> list[str]:
    return [item.name for item in batch.items]


def shout(batch: Batch[Item, str]) -> list[str]:
    return [item.name.upper() for item in batch.items]


async def run_all(scheduler: Scheduler[Item, str], count: int) -> list[Sequence[Item]]:
    """Run batches until `count` items have been run."""
    batches: list[Sequence[Item]] = []
    while sum(map(len, batches)) < count:
        batch = await take(scheduler)
        batches.append(batch.items)
        scheduler.finish(batch, shout(batch))
    return batches


async def test_a_runner_that_waits_gets_the_first_item_at_once() -> None:
    scheduler = a_scheduler()
    waiting = asyncio.create_task(scheduler.take())
    await asyncio.sleep(0)
    scheduler.submit(items(3))
    assert names(await waiting) == ["item0"]


async def test_a_batch_is_formed_when_a_runner_is_free_and_not_before() -> None:
    scheduler = a_scheduler()
    scheduler.submit(items(3, name="first"))
    running = await take(scheduler)
    scheduler.submit(items(3, name="second"))
    scheduler.submit(items(3, name="third"))
    scheduler.finish(running, shout(running))
    assert names(await take(scheduler)) == ["second0", "third0"]


async def test_a_batch_stays_within_the_budget_of_padded_tokens() -> None:
    scheduler = a_scheduler(max_batch_tokens=12)
    scheduler.submit(items(4, 4, 4, 4))
    assert [len((await take(scheduler)).items) for _ in range(2)] == [3, 1]


async def test_a_text_above_the_budget_runs_alone() -> None:
    scheduler = a_scheduler(max_batch_tokens=10)
    scheduler.submit(items(50, 2, 2))
    assert names(await take(scheduler)) == ["item0"]
    assert names(await take(scheduler)) == ["item1", "item2"]


async def test_texts_of_like_length_run_together_and_the_oldest_always_first() -> None:
    scheduler = a_scheduler(max_batch_tokens=120)
    scheduler.submit(items(5, 60, 6, 59, 5))
    assert names(await take(scheduler)) == ["item0", "item4", "item2"]
    assert names(await take(scheduler)) == ["item1", "item3"]


async def test_results_come_in_the_callers_order_whatever_ran_first() -> None:
    scheduler = a_scheduler(max_batch_tokens=10)
    answer = scheduler.submit(items(2, 9, 2, 9))
    batches = [await take(scheduler) for _ in range(3)]
    for batch in reversed(batches):
        scheduler.finish(batch, shout(batch))
    assert answer.result() == ["ITEM0", "ITEM1", "ITEM2", "ITEM3"]


async def test_a_request_is_admitted_whole_or_not_at_all() -> None:
    scheduler = a_scheduler(max_queue_tokens=10)
    scheduler.submit(items(6, name="early"))
    with pytest.raises(OverloadedError, match="6 of 10 tokens; there is no room for 5 more"):
        scheduler.submit(items(2, 3, name="late"))
    assert value(scheduler, "queue_tokens") == 6
    assert value(scheduler, "queue_texts") == 1
    scheduler.submit(items(2, 2, name="small"))
    assert names(await take(scheduler)) == ["early0", "small0", "small1"]


async def test_there_is_room_again_when_a_runner_has_taken_a_batch() -> None:
    scheduler = a_scheduler(max_queue_tokens=10)
    scheduler.submit(items(10))
    await take(scheduler)
    scheduler.submit(items(10))
    assert value(scheduler, "queue_tokens") == 10


async def test_a_request_that_could_never_fit_is_not_told_to_come_back() -> None:
    with pytest.raises(TooManyTokensError, match="11 tokens; one request may hold 10"):
        a_scheduler(max_queue_tokens=10).submit(items(5, 6))


async def test_the_time_to_come_back_is_what_the_excess_takes_at_the_known_rate() -> None:
    scheduler = a_scheduler(max_queue_tokens=100, tokens_per_s=20.0)
    scheduler.submit(items(90))
    with pytest.raises(OverloadedError) as refused:
        scheduler.submit(items(50))
    assert refused.value.retry_after_s == pytest.approx(40 / 20)


async def test_the_time_to_come_back_follows_what_batches_show() -> None:
    scheduler = a_scheduler(max_queue_tokens=100, tokens_per_s=1.0)
    for _ in range(30):  # a hundred tokens in no time, again and again
        scheduler.submit(items(100))
        batch = await take(scheduler)
        scheduler.finish(batch, shout(batch))
    scheduler.submit(items(100))
    with pytest.raises(OverloadedError) as refused:
        scheduler.submit(items(1))
    assert refused.value.retry_after_s < 0.5  # by the first guess it would be 1.2


async def test_a_caller_who_leaves_is_not_run_and_makes_room() -> None:
    scheduler = a_scheduler(max_queue_tokens=10)
    left = scheduler.submit(items(4, 4, name="left"))
    left.cancel()
    await asyncio.sleep(0)
    assert value(scheduler, "queue_tokens") == 0
    assert value(scheduler, "dropped_texts_total", reason="gone") == 2
    scheduler.submit(items(4, name="stays"))
    assert names(await take(scheduler)) == ["stays0"]


async def test_a_caller_who_left_this_very_moment_is_not_run_either() -> None:
    scheduler = a_scheduler()
    scheduler.submit(items(4, name="left")).cancel()
    scheduler.submit(items(4, name="stays"))
    assert names(await take(scheduler)) == ["stays0"]
    assert value(scheduler, "dropped_texts_total", reason="gone") == 1


async def test_what_a_leaving_caller_had_running_is_finished_and_the_rest_dropped() -> None:
    scheduler = a_scheduler(max_batch_tokens=8)
    left = scheduler.submit(items(8, 8, 8))
    batch = await take(scheduler)
    left.cancel()
    scheduler.finish(batch, shout(batch))
    await asyncio.sleep(0)
    assert value(scheduler, "dropped_texts_total", reason="gone") == 2
    await asyncio.wait_for(scheduler.idle(), 1)


async def test_a_failed_batch_fails_each_of_its_callers_and_no_other() -> None:
    scheduler = a_scheduler(max_batch_tokens=8)
    one, two, other = (scheduler.submit(items(*counts)) for counts in ([4, 9], [4], [3]))
    scheduler.fail(await take(scheduler), InferenceError("broken"))
    for answer in (one, two):
        assert isinstance(answer.exception(), InferenceError)
    assert value(scheduler, "queue_texts") == 1  # the rest of the first caller's went with it
    await run_all(scheduler, 1)
    assert other.result() == ["ITEM0"]


async def test_too_few_results_are_no_answer() -> None:
    scheduler = a_scheduler()
    scheduler.submit(items(4, 4))
    with pytest.raises(ValueError, match="shorter"):
        scheduler.finish(await take(scheduler), ["ITEM0"])


async def test_a_closed_scheduler_refuses_new_items_and_runs_the_old() -> None:
    scheduler = a_scheduler()
    answer = scheduler.submit(items(4))
    scheduler.close("shutting down")
    with pytest.raises(NotReadyError, match="shutting down"):
        scheduler.submit(items(4))
    idle = asyncio.create_task(scheduler.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    await run_all(scheduler, 1)
    await asyncio.wait_for(idle, 1)
    assert answer.result() == ["ITEM0"]


async def test_abort_answers_those_who_wait_and_those_who_run() -> None:
    scheduler = a_scheduler(max_batch_tokens=4)
    running, queued = scheduler.submit(items(4)), scheduler.submit(items(4))
    batch = await take(scheduler)
    scheduler.abort("stopped")
    for answer in (running, queued):
        assert str(answer.exception()) == "stopped"
    assert value(scheduler, "queue_tokens") == 0
    scheduler.finish(batch, shout(batch))  # a late result disturbs nobody
    await asyncio.wait_for(scheduler.idle(), 1)


@given(
    requests=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=8),
    budget=st.integers(1, 120),
)
def test_every_item_runs_exactly_once_within_the_budget(
    requests: list[list[int]], budget: int
) -> None:
    async def scenario() -> None:
        scheduler = a_scheduler(max_batch_tokens=budget, max_queue_tokens=10_000)
        answers = [
            scheduler.submit(items(*tokens, name=f"caller{caller}-"))
            for caller, tokens in enumerate(requests)
        ]
        batches = await run_all(scheduler, sum(map(len, requests)))
        for batch in batches:
            longest = max(item.tokens for item in batch)
            assert len(batch) == 1 or longest * len(batch) <= budget
        ran = [item.name for batch in batches for item in batch]
        assert len(ran) == len(set(ran))
        for caller, answer in enumerate(answers):
            expected = [f"CALLER{caller}-{index}" for index in range(len(requests[caller]))]
            assert answer.result() == expected
        assert value(scheduler, "queue_tokens") == 0

    asyncio.run(scenario())
