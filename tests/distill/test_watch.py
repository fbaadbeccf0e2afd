import pytest
from tiny_world import World, train_table

from distill.tables.train import TrainTable
from distill.watch import DivergedError, NotFallingError, Watch, check_finite

WATCH = {"window_steps": 4, "from_step": 10, "max_ratio": 0.9}


def table(world: World, **changes: object) -> TrainTable:
    return TrainTable.model_validate(train_table(world, steps=20, watch=WATCH, **changes))


def records(losses: list[float], *, after: int = 0) -> list[dict[str, float]]:
    return [{"step": after + at, "loss": loss} for at, loss in enumerate(losses, start=1)]


def see_all(watch: Watch, seen: list[dict[str, float]]) -> int:
    """The last step seen, or the one that was refused."""
    for record in seen:
        try:
            watch.see(record)
        except NotFallingError:
            return int(record["step"])
    return len(seen) + 1


def test_a_falling_loss_goes_on(world: World) -> None:
    falling = [4 - 0.15 * step for step in range(20)]
    assert see_all(Watch(table(world), []), records(falling)) == 21


def test_a_loss_that_stays_where_it_was_is_given_up_at_the_first_look(world: World) -> None:
    noisy = [4.0, 4.2, 3.8, 4.0] * 5
    assert see_all(Watch(table(world), []), records(noisy)) == 10


def test_means_of_windows_are_compared_and_not_single_steps(world: World) -> None:
    # first four: 4 on average, so 3.6 is the limit; the last four of step 10 have 3.5
    falling = [4.0] * 6 + [3.5] * 3
    assert see_all(Watch(table(world), []), records([*falling, 3.5])) == 11
    assert see_all(Watch(table(world), []), records([*falling, 3.95])) == 10


def test_a_resumed_run_is_compared_with_its_own_beginning(world: World) -> None:
    former = records([8.0] * 4 + [4.0] * 5)
    assert see_all(Watch(table(world), former), records([4.0] * 3, after=9)) == 4
    assert see_all(Watch(table(world), records([4.0] * 9)), records([4.0], after=9)) == 10


def test_without_a_watch_nothing_is_given_up(world: World) -> None:
    unwatched = TrainTable.model_validate(train_table(world, steps=20))
    assert see_all(Watch(unwatched, []), records([4.0] * 20)) == 21


def test_what_is_given_up_says_what_to_try(world: World) -> None:
    watch = Watch(table(world), records([4.0] * 6 + [5.0] * 3))
    with pytest.raises(
        NotFallingError,
        match=r"step 10: over the last 4 steps the loss is 5 on average, over the first 4 it was 4;"
        r".*3\.6 or less.*learning_rate \(it is 0\.003\), more warmup_steps \(now 2\)",
    ):
        watch.see({"step": 10, "loss": 5.0})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_says_what_to_try(number: float) -> None:
    check_finite({"step": 3, "loss": 1.0})
    with pytest.raises(DivergedError, match=r"step 3: loss is -?(nan|inf).*lower learning_rate"):
        check_finite({"step": 3, "loss": number})


@pytest.mark.parametrize(
    ("watch", "said"),
    [
        ({"window_steps": 4}, r"window_steps 4 must hold a record, which comes every 5 steps"),
        ({"window_steps": 6}, r"from_step 10 must lie between two windows \(12 steps\)"),
        ({"window_steps": 5, "from_step": 21}, "and steps 20"),
    ],
)
def test_a_watch_that_would_see_nothing_is_refused(
    world: World, watch: dict[str, object], said: str
) -> None:
    keys = train_table(world, steps=20, record_every_steps=5, watch=WATCH | watch)
    with pytest.raises(ValueError, match=said):
        TrainTable.model_validate(keys)
