"""The policy in simulated time, alone and against the simple alternatives."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from simulation import CPU, GPU, Fifo, Machine, Policy, Sealed, Text, ours, run, simulate

from app.admission import SURE, Terms
from app.errors import DeadlineExceededError, InferenceError, OverloadedError
from app.forecast import Run
from app.scheduler import Scheduler


@dataclass(frozen=True)
class Outcome:
    waits_s: list[float]
    tokens_per_s: float

    def quantile_ms(self, share: float) -> float:
        return sorted(self.waits_s)[int(share * (len(self.waits_s) - 1))] * 1_000


def mixed_texts(count: int, seed: int) -> list[Text]:
    """Mostly short, some very long, as callers send them."""
    draw = random.Random(seed)
    lengths = [min(500, max(4, int(draw.lognormvariate(3.2, 0.9)))) for _ in range(count)]
    return [Text(f"text{index}", tokens) for index, tokens in enumerate(lengths)]


def outcome(
    new_policy: Callable[[], Policy], machine: Machine, *, load: float, count: int = 3_000
) -> Outcome:
    """Single texts at random times, of which this machine could run 1 / `load` times as many."""
    texts = mixed_texts(count, seed=7)
    tokens = sum(text.tokens for text in texts)
    span_s = tokens * machine.seconds_per_token / load
    draw = random.Random(11)
    arrivals = sorted(draw.uniform(0, span_s) for _ in texts)

    async def scenario() -> Outcome:
        loop, policy, waits = asyncio.get_running_loop(), new_policy(), list[float]()
        runner = asyncio.create_task(run(policy, machine))

        async def call(text: Text, at_s: float) -> None:
            await asyncio.sleep(at_s)
            assert await policy.submit([text]) == [text.name]
            waits.append(loop.time() - at_s)

        await asyncio.gather(*(call(text, at) for text, at in zip(texts, arrivals, strict=True)))
        runner.cancel()
        return Outcome(waits, tokens / loop.time())

    return simulate(scenario())


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_late_binding_by_length_beats_sealing_early_and_first_come(machine: Machine) -> None:
    budget = 1_024 if machine is CPU else 16_384
    policies: dict[str, Callable[[], Policy]] = {
        "late, by length": lambda: ours(machine, max_batch_tokens=budget),
        "late, first come": lambda: Fifo(max_batch_tokens=budget),
        "sealed early": lambda: Sealed(max_batch_tokens=budget),
    }
    for load in (0.5, 0.8, 1.5):
        found = {
            name: outcome(policy, machine, load=load if machine is CPU else load / 8)
            for name, policy in policies.items()
        }
        for name, each in found.items():
            print(  # noqa: T201 - the table is for people: pytest -s
                f"{load:>4} {name:<17} p50 {each.quantile_ms(0.5):>9.2f} ms  "
                f"p99 {each.quantile_ms(0.99):>9.2f} ms  {each.tokens_per_s:>9.0f} tokens/s"
            )
        late, fifo, sealed = found.values()
        # Until the machine is full all keep up; then less padding is more throughput.
        assert late.tokens_per_s >= 0.99 * max(fifo.tokens_per_s, sealed.tokens_per_s)
        assert late.quantile_ms(0.5) <= 1.01 * sealed.quantile_ms(0.5)


async def _settle(scheduler: Scheduler[Text, str], machine: Machine) -> None:
    asyncio.get_running_loop().create_task(run(scheduler, machine))


def test_a_large_call_delays_a_single_query_by_no_more_than_one_batch() -> None:
    async def scenario() -> list[float]:
        loop, scheduler = asyncio.get_running_loop(), ours(CPU)
        runner = asyncio.create_task(run(scheduler, CPU))
        large = scheduler.submit(mixed_texts(2_048, seed=1))
        waits = []
        for number in range(50):
            await asyncio.sleep(0.013)
            asked_at = loop.time()
            await scheduler.submit([Text(f"query{number}", 20)])
            waits.append(loop.time() - asked_at)
        assert not large.done()
        runner.cancel()
        return waits

    longest_run = CPU.seconds([Text("full", 1_024)])
    own_run = CPU.seconds([Text("own", 20)])
    assert max(simulate(scenario())) <= longest_run + own_run


def test_bulk_gets_its_share_under_interactive_pressure() -> None:
    async def scenario() -> float:
        loop, scheduler = asyncio.get_running_loop(), ours(CPU)
        runner = asyncio.create_task(run(scheduler, CPU))
        texts = [Text(f"bulk{index}", 60) for index in range(100)]
        alone_s = len(texts) * 60 * CPU.seconds_per_token
        large = scheduler.submit(texts, Terms(priority="bulk"))

        async def press(number: int) -> None:
            while True:  # lengths far apart, so that bulk cannot ride along
                await scheduler.submit([Text(f"query{number}", 300)])

        pressing = [asyncio.create_task(press(number)) for number in range(20)]
        await large
        for task in (*pressing, runner):
            task.cancel()
        return loop.time() / alone_s

    assert 3 < simulate(scenario()) < 7  # a fifth of the time


def test_a_small_bulk_call_does_not_wait_for_a_large_one() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU)
        runner = asyncio.create_task(run(scheduler, CPU))
        large = scheduler.submit([Text(f"large{index}", 50) for index in range(2_048)])
        await asyncio.sleep(0.1)
        small = scheduler.submit([Text(f"small{index}", 50) for index in range(40)])
        began_at = asyncio.get_running_loop().time()
        await small
        assert not large.done()
        alone_s = 40 * 50 * CPU.seconds_per_token
        assert asyncio.get_running_loop().time() - began_at < 3 * alone_s
        runner.cancel()

    simulate(scenario())


def test_later_bulk_calls_do_not_overtake_a_large_one() -> None:
    async def scenario() -> list[str]:
        scheduler = ours(CPU, max_batch_tokens=100)
        terms = Terms(priority="bulk")
        scheduler.submit([Text(f"large{index}", 100) for index in range(50)], terms)
        for _ in range(10):
            await scheduler.take()
        for number in range(20):
            scheduler.submit([Text(f"small{number}", 100)] * 2, terms)
        return [(await scheduler.take()).items[0].name[:5] for _ in range(22)]

    assert simulate(scenario()).count("large") >= 1


def test_the_other_line_counts_in_a_wait_by_its_share() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU, max_batch_tokens=100)
        for number in range(20):  # 5.5 ms each
            scheduler.submit([Text(f"query{number}", 100)])
        scheduler.submit([Text(f"bulk{index}", 100) for index in range(1_000)])
        assert scheduler._wait_s("interactive") == pytest.approx(0.110 * 1.25)

    simulate(scenario())


def test_a_text_that_failed_runs_anew_for_the_next_caller() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU, identity=same)
        scheduler.submit([Text("same", 10)])
        scheduler.fail(await scheduler.take(), InferenceError("broken"))
        scheduler.submit([Text("same", 10)])
        assert scheduler._form() is not None

    simulate(scenario())


def test_a_class_that_was_idle_has_saved_nothing() -> None:
    async def scenario() -> list[str]:
        scheduler = ours(CPU, max_batch_tokens=100)
        interactive, bulk = Terms(priority="interactive"), Terms(priority="bulk")
        for number in range(50):  # interactive alone, for long
            scheduler.submit([Text(f"early{number}", 100)], interactive)
            batch = await scheduler.take()
            await asyncio.sleep(CPU.seconds(batch.items))
            scheduler.finish(batch, ["done"])
        for number in range(20):
            scheduler.submit([Text(f"bulk{number}", 100)], bulk)
            scheduler.submit([Text(f"query{number}", 100)], interactive)
        return [(await scheduler.take()).items[0].name[:4] for _ in range(10)]

    assert simulate(scenario()).count("bulk") == 2


def test_a_batch_is_kept_within_the_slack_of_who_is_in_a_hurry() -> None:
    async def scenario() -> tuple[int, int]:
        scheduler = ours(CPU, max_batch_tokens=10_000)
        texts = [Text(f"text{index}", 100) for index in range(30)]
        for text in texts:
            scheduler.submit([text])
        in_time = await scheduler.take()  # 50 ms are left, and each text takes 5
        await asyncio.sleep(1.0)
        too_late = await scheduler.take()
        return len(in_time.items), len(too_late.items)

    assert simulate(scenario()) == (9, 21)


def test_padding_dearer_than_a_run_is_not_bought() -> None:
    async def scenario() -> list[int]:
        scheduler = ours(CPU)  # a run costs as much as 10 tokens
        scheduler.submit([Text(f"text{tokens}", tokens) for tokens in (20, 29, 36, 300)])
        return [len((await scheduler.take()).items) for _ in range(3)]

    assert simulate(scenario()) == [2, 1, 1]


def test_a_deadline_that_passes_is_an_error_and_its_texts_are_not_run() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU)
        scheduler.submit([Text("running", 100)])
        running = await scheduler.take()
        late = scheduler.submit([Text("late", 10), Text("too", 10)], Terms(timeout_s=0.2))
        await asyncio.sleep(0.3)
        with pytest.raises(DeadlineExceededError, match="within the 200 ms"):
            late.result()
        scheduler.finish(running, ["RUNNING"])
        await asyncio.wait_for(scheduler.idle(), 1)
        dropped = scheduler._metrics.dropped_texts.labels("expired")
        assert dropped._value.get() == 2

    simulate(scenario())


def test_time_spent_before_counts_and_the_callers_own_deadline_is_named() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU)
        scheduler.submit([Text("running", 100)])
        await scheduler.take()
        terms = Terms(timeout_s=0.2)
        late = scheduler.submit([Text("late", 10)], terms, spent_s=0.05)
        await asyncio.sleep(0.16)
        with pytest.raises(DeadlineExceededError, match="within the 200 ms"):
            late.result()
        with pytest.raises(DeadlineExceededError, match="within the 200 ms"):
            scheduler.submit([Text("over", 10)], terms, spent_s=0.2)
        waiting = [Text(f"text{index}", 100) for index in range(15)]  # 5.1 ms each
        scheduler.submit(waiting, Terms("interactive"))
        scheduler.submit([Text("more", 10)], terms)
        with pytest.raises(OverloadedError, match=r"wait for 0\.22\d s; the limit is 0\.1 s"):
            scheduler.submit([Text("more", 10)], terms, spent_s=0.15)

    simulate(scenario())


def test_a_wait_beyond_the_limit_is_refused_at_once_with_the_excess() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU, max_batch_tokens=100)
        for number in range(100):  # 5.5 ms each
            scheduler.submit([Text(f"text{number}", 100)])
        scheduler.check(Terms(max_wait_s=0.6))
        with pytest.raises(
            OverloadedError, match=r"wait for 0\.550 s; the limit is 0\.5 s"
        ) as error:
            scheduler.submit([Text("more", 100)], Terms(max_wait_s=0.5))
        assert error.value.retry_after_s == pytest.approx(0.05)
        with pytest.raises(OverloadedError):
            scheduler.check(Terms("interactive", timeout_s=0.5))
        with pytest.raises(OverloadedError):  # its own run counts against its own deadline
            scheduler.submit([Text("more", 100)], Terms(timeout_s=0.554 / SURE))
        with pytest.raises(OverloadedError):  # before it is read, that of one like those that wait
            scheduler.check(Terms("interactive", timeout_s=0.554 / SURE))
        scheduler.check(Terms("interactive", timeout_s=0.556 / SURE))
        scheduler.submit([Text("more", 100)], Terms(timeout_s=0.556 / SURE))
        scheduler.check(Terms(max_wait_s=0.1))  # it might be bulk, and there is none of that

    simulate(scenario())


def slowed(scheduler: Scheduler[Text, str], longest: int, texts: int, times: float) -> None:
    """Let the forecast see runs of this shape that take so many times what the law says."""
    for _ in range(60):
        law_s = scheduler._forecast.law_s(longest * texts)
        scheduler._forecast.learn(Run(longest, texts, times * law_s))


def test_an_idle_service_lets_in_what_it_predicts_to_be_late_and_learns() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU)
        slowed(scheduler, 32, 16, times=10.0)  # another program had the processor then
        texts, terms = [Text(f"text{index}", 32) for index in range(20)], Terms(timeout_s=0.1)
        drift = scheduler._forecast.drift
        answer = scheduler.submit(texts, terms)
        with pytest.raises(OverloadedError):  # now something waits
            scheduler.submit(texts, terms)
        runner = asyncio.create_task(run(scheduler, CPU))
        await answer
        assert scheduler._forecast.drift < drift
        runner.cancel()

    simulate(scenario())


@pytest.mark.parametrize(
    ("own_ratio", "newest_ratio"), [(1.0, 4.0), (4.0, 1.0)], ids=["others dear", "once dear"]
)
def test_the_lower_of_two_ratios_counts_for_what_a_request_takes_itself(
    own_ratio: float, newest_ratio: float
) -> None:
    async def scenario() -> None:
        scheduler = ours(CPU)
        slowed(scheduler, 16, 16, times=own_ratio)
        slowed(scheduler, 512, 2, times=newest_ratio)  # which the ratio of all runs follows
        scheduler.submit([Text("running", 1)])
        await scheduler.take()
        texts = [Text(f"text{index}", 16) for index in range(16)]  # 13 ms by the law
        with pytest.raises(OverloadedError):
            scheduler.submit(texts, Terms(timeout_s=0.013 / SURE))
        scheduler.submit(texts, Terms(timeout_s=0.02 / SURE))

    simulate(scenario())


def test_a_full_bulk_line_shuts_no_single_query_out() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU)
        scheduler.submit([Text(f"bulk{index}", 100) for index in range(2_048)])
        with pytest.raises(OverloadedError):
            scheduler.submit(
                [Text("more", 10)], Terms("bulk", max_wait_s=99.0, bulk_max_wait_s=1.0)
            )
        scheduler.submit([Text("more", 10)], Terms("bulk", max_wait_s=1.0, bulk_max_wait_s=99.0))
        scheduler.submit([Text("query", 10)], Terms(max_wait_s=1.0, bulk_max_wait_s=1.0))
        # its class is not known yet, and as a single query it would be let in
        scheduler.check(Terms(max_wait_s=1.0, bulk_max_wait_s=1.0))

    simulate(scenario())


def same(text: Text) -> str:
    return text.name


def shared(scheduler: Scheduler[Text, str]) -> float:
    return scheduler._metrics.shared_texts._value.get()


def test_the_same_text_runs_once_and_answers_all_who_stay() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU, identity=same)
        first, second = (scheduler.submit([Text("same", 10)]) for _ in range(2))
        first.cancel()
        batch = await scheduler.take()
        third = scheduler.submit([Text("same", 10), Text("same", 10)])
        assert [text.name for text in batch.items] == ["same"]
        scheduler.finish(batch, ["SAME"])
        assert (second.result(), third.result()) == (["SAME"], ["SAME", "SAME"])
        assert shared(scheduler) == 3
        fourth = scheduler.submit([Text("same", 10)])  # nothing is kept: it runs anew
        assert not fourth.done()
        assert shared(scheduler) == 3

    simulate(scenario())


def test_a_request_whose_texts_all_run_already_has_waited_for_no_time() -> None:
    async def scenario() -> None:
        scheduler = ours(CPU, identity=same)
        sample = scheduler._metrics.registry.get_sample_value
        name, stage = "lightmbert_stage_duration_seconds", {"stage": "queue"}
        scheduler.submit([Text("same", 10), Text("other", 10)])
        await asyncio.sleep(0.25)
        batch = await scheduler.take()
        assert (sample(f"{name}_count", stage), sample(f"{name}_sum", stage)) == (1, 0.25)
        answer = scheduler.submit([Text("same", 10)])
        assert (sample(f"{name}_count", stage), sample(f"{name}_sum", stage)) == (2, 0.25)
        scheduler.finish(batch, ["SAME", "OTHER"])
        assert answer.result() == ["SAME"]
        assert sample(f"{name}_count", stage) == 2

    simulate(scenario())


def test_a_text_of_a_large_call_goes_ahead_when_a_query_asks_for_it() -> None:
    async def scenario() -> Sequence[str]:
        scheduler = ours(CPU, max_batch_tokens=100, identity=same)
        scheduler.submit([Text(f"text{index}", 100) for index in range(50)])
        scheduler.submit([Text("text40", 100)])
        return [text.name for text in (await scheduler.take()).items]

    assert simulate(scenario()) == ["text40"]


def test_seats_given_up_do_not_pile_up() -> None:
    async def scenario() -> int:
        scheduler = ours(CPU)
        for _ in range(20):
            scheduler.submit([Text(f"text{index}", 10) for index in range(500)]).cancel()
            await asyncio.sleep(0)
        return scheduler._lines.waiting["bulk"]._entries

    assert simulate(scenario()) < 2_000


def test_seats_that_change_class_do_not_pile_up_in_the_one_they_left() -> None:
    async def scenario() -> int:
        scheduler = ours(CPU, identity=same)
        texts = [Text(f"text{index}", 3) for index in range(4_096)]
        scheduler.submit(texts, Terms("bulk"))
        scheduler.submit(texts[:4_000], Terms("interactive"))
        return scheduler._lines.waiting["bulk"]._entries

    assert simulate(scenario()) < 2_000


def test_a_text_that_changed_class_is_not_taken_in_the_turn_of_the_one_it_left() -> None:
    async def scenario() -> list[str]:
        scheduler = ours(CPU, max_batch_tokens=100, identity=same)
        scheduler.submit([Text(f"text{index}", 100) for index in range(10)], Terms("bulk"))
        scheduler.submit([Text("text0", 100)], Terms("interactive"))
        scheduler._lines._turns.charge("interactive", 1.0)  # so that it is bulk's turn
        return [(await scheduler.take()).items[0].name for _ in range(10)]

    order = simulate(scenario())
    assert order[:2] == ["text1", "text2"]
    assert sorted(order) == [f"text{index}" for index in range(10)]
