import math
from itertools import islice
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from tiny_encoder import write_bert, write_encoder
from tiny_world import (
    LAYERS,
    LIGHTMBERT,
    SENTENCE,
    World,
    english_tokenizer,
    recipe,
    sentence_table,
    train_table,
)
from tokenizers import Tokenizer

from distill import batches as batches_module
from distill.batches import Batch, Cursor, Tokens
from distill.checkpoint import CHECKPOINT_FILE, CheckpointError, Progress
from distill.config import LoadedRecipe, RecipeError
from distill.records import RECORDS_FILE, Records
from distill.schedule import schedule
from distill.tables.train import TrainTable
from distill.teacher import encode, load_teacher
from distill.train import measured, run, train
from distill.training import Run, prepare
from distill.watch import DivergedError, NotFallingError

START = Progress(0, Cursor())


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "BLOCK_TEXTS", 1024)


def prepared(folder: Path, table: dict[str, object]) -> Run:
    return prepare(recipe(folder, train=table))


def trained(folder: Path, table: dict[str, object]) -> tuple[Run, list[dict[str, float]]]:
    """A run trained to its end, and its records."""
    ready = prepared(folder, table)
    return ready, [measured(record) for record, _ in train(ready, START)]


def records_of(folder: Path) -> list[dict[str, float]]:
    return [orjson.loads(line) for line in (folder / RECORDS_FILE).read_bytes().splitlines()]


def mean(records: list[dict[str, float]], name: str) -> float:
    return sum(record[name] for record in records) / len(records)


def test_lightmbert_learns(world: World, tmp_path: Path) -> None:
    _, records = trained(tmp_path, train_table(world, steps=40))
    for name in ("lightmbert.attention", "lightmbert.hidden"):
        assert mean(records[-5:], name) < 0.4 * mean(records[:5], name)


def test_the_sentence_objective_learns_to_find_and_to_tell_apart(
    world: World, tmp_path: Path
) -> None:
    few = {"path": world.parallel, "languages": ["de"], "pair_column": "text_en", "max_rows": 24}
    table = sentence_table(
        world,
        steps=60,
        student={"layers": 2, "initialisation": "bottom", "embeddings": "trained"},
        objective=[SENTENCE | {"contrastive_temperature": 0.02}],
        corpus=[few],
    )
    _, records = trained(tmp_path, table)
    for name in ("sentence.distance", "sentence.distance_english"):
        assert mean(records[-5:], name) < 0.25 * mean(records[:5], name)
    name = "sentence.contrastive"
    assert mean(records[-5:], name) < 0.75 * mean(records[:5], name)


def test_frozen_embeddings_come_out_bit_for_bit_and_without_gradient(
    world: World, tmp_path: Path
) -> None:
    teacher = load_teacher(str(world.teacher)).embeddings.state_dict()
    ready, _ = trained(tmp_path, train_table(world))
    for name, tensor in ready.student.embeddings.state_dict().items():
        assert torch.equal(tensor, teacher[name]), name
    assert all(p.grad is None for p in ready.student.embeddings.parameters())
    assert all(p.grad is not None for p in list(ready.student.encoder.parameters())[:2])


def test_embeddings_that_are_not_frozen_move(world: World, tmp_path: Path) -> None:
    table = train_table(
        world, student={"layers": 2, "initialisation": "bottom", "embeddings": "trained"}, steps=3
    )
    teacher = load_teacher(str(world.teacher)).embeddings.state_dict()
    ready, _ = trained(tmp_path, table)
    for name in ("word_embeddings.weight", "LayerNorm.bias"):
        assert not torch.equal(ready.student.embeddings.state_dict()[name], teacher[name])


def test_the_teacher_stays_as_it_was(world: World, tmp_path: Path) -> None:
    ready = prepared(tmp_path, train_table(world))
    teacher = ready.losses.teacher
    for _ in train(ready, START):
        pass
    for name, tensor in load_teacher(str(world.teacher)).state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_that_is_the_teacher_has_nothing_to_learn(world: World, tmp_path: Path) -> None:
    table = train_table(
        world, student={"layers": LAYERS, "initialisation": "bottom", "embeddings": "frozen"}
    )
    ready = prepared(tmp_path, table)
    record, _ = next(train(ready, START))
    assert (record["lightmbert.attention"], record["lightmbert.hidden"], record["loss"]) == (
        0,
        0,
        0,
    )
    assert record["gradient_norm"] == 0


def test_losses_are_the_same_with_more_padding(world: World, tmp_path: Path) -> None:
    ready = prepared(tmp_path, train_table(world))
    _, batch = next(ready.batches.since(Cursor()))
    wider = Tokens(
        torch.nn.functional.pad(batch.text.ids, (0, 5), value=9),
        torch.nn.functional.pad(batch.text.mask, (0, 5)),
    )
    torch.testing.assert_close(
        ready.losses(Batch(wider, None, None, batch.languages)),
        ready.losses(batch),
        rtol=1e-4,
        atol=1e-5,
    )


def test_sentence_losses_compare_each_side_with_the_teachers_english(
    world: World, tmp_path: Path
) -> None:
    ready = prepared(tmp_path, sentence_table(world))
    _, batch = next(ready.batches.since(Cursor()))
    assert batch.english is not None
    assert batch.teacher_english is not None

    def unit(tokens: Tokens, encoder: torch.nn.Module) -> torch.Tensor:
        return torch.nn.functional.normalize(encode(encoder, tokens).pooled, dim=-1)

    target = unit(batch.teacher_english, load_teacher(str(world.english)))
    text, english = (unit(side, ready.student) for side in (batch.text, batch.english))
    losses = ready.losses(batch)
    torch.testing.assert_close(losses["sentence.distance"], (2 - 2 * (text * target).sum(1)).mean())
    torch.testing.assert_close(
        losses["sentence.distance_english"], (2 - 2 * (english * target).sum(1)).mean()
    )


def test_a_step_follows_the_gradient_of_its_own_batch_alone(world: World, tmp_path: Path) -> None:
    ready = prepared(tmp_path, train_table(world))
    steps = train(ready, START)
    next(steps)
    twin = prepared(tmp_path, train_table(world))
    twin.student.load_state_dict(ready.student.state_dict())
    second = next(train(twin, Progress(1, Cursor(0, 1))))[0]
    torch.testing.assert_close(next(steps)[0]["gradient_norm"], second["gradient_norm"])


def test_the_total_is_weighted_as_the_recipe_says(world: World, tmp_path: Path) -> None:
    objective = [LIGHTMBERT | {"attention_weight": 0.25, "hidden_weight": 3.0}]
    _, records = trained(tmp_path, train_table(world, objective=objective, steps=3))
    for record in records:
        expected = 0.25 * record["lightmbert.attention"] + 3.0 * record["lightmbert.hidden"]
        assert record["loss"] == pytest.approx(expected, rel=1e-6)
    sentence = [SENTENCE | {"distance_weight": 0.5, "contrastive_weight": 2.0}]
    [record] = islice(trained(tmp_path, sentence_table(world, objective=sentence, steps=3))[1], 1)
    distances = record["sentence.distance"] + record["sentence.distance_english"]
    expected = 0.5 * distances + 2.0 * record["sentence.contrastive"]
    assert record["loss"] == pytest.approx(expected, rel=1e-6)


def test_in_bfloat16_losses_are_still_float32(world: World, tmp_path: Path) -> None:
    ready = prepared(tmp_path, train_table(world, precision="bf16"))
    _, batch = next(ready.batches.since(Cursor()))
    coarse = ready.losses(batch)
    exact = prepared(tmp_path, train_table(world)).losses(batch)
    for name, loss in coarse.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05)
        assert loss.item() != exact[name].item()


def test_matrices_decay_vectors_do_not_and_embeddings_have_their_own_rate(
    world: World, tmp_path: Path
) -> None:
    student = {"layers": 2, "initialisation": "bottom", "embeddings": "trained"}
    ready = prepared(tmp_path, train_table(world, student=student, weight_decay=0.3))
    names = {parameter: name for name, parameter in ready.student.named_parameters()}
    found = {
        names[parameter]: (group["peak_learning_rate"], group["weight_decay"])
        for group in ready.optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(found) == sum(len(group["params"]) for group in ready.optimizer.param_groups)
    assert found.keys() == set(names.values())
    for name, settings in found.items():
        if name.startswith("embeddings."):
            assert settings == (1e-2, 0.0)
        else:
            assert settings == (3e-3, 0.0 if "bias" in name or "LayerNorm" in name else 0.3)


def test_every_step_runs_at_its_scheduled_rate(world: World, tmp_path: Path) -> None:
    ready = prepared(tmp_path, train_table(world))
    rates = [ready.optimizer.param_groups[0]["lr"] for _ in train(ready, START)]
    # warm-up over 2 of 8 steps to 3e-3, then down by a sixth of it each step
    shares = [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == pytest.approx([3e-3 * share for share in shares])


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.01), (49, 0.5), (99, 1.0), (100, 1.0), (550, 0.5), (999, 1 / 900)]
)
def test_the_rate_warms_up_and_decays_linearly(world: World, step: int, share: float) -> None:
    table = TrainTable.model_validate(train_table(world, steps=1000, warmup_steps=100))
    assert schedule(step, table) == pytest.approx(share)


def test_without_warmup_the_rate_starts_at_its_peak(world: World) -> None:
    table = TrainTable.model_validate(train_table(world, steps=10, warmup_steps=0))
    assert [schedule(step, table) for step in (0, 5)] == [1.0, 0.5]


def test_the_rate_stays_level_until_the_decay(world: World) -> None:
    level = train_table(world, steps=100, warmup_steps=10, decay_steps=20)
    table = TrainTable.model_validate(level)
    assert [schedule(step, table) for step in (9, 50, 80, 90, 99)] == [1.0, 1.0, 1.0, 0.5, 0.05]
    with pytest.raises(ValueError, match="decay_steps 91 must fit into steps 100"):
        TrainTable.model_validate(level | {"decay_steps": 91})


def test_gradients_are_clipped(world: World, tmp_path: Path) -> None:
    ready = prepared(tmp_path, train_table(world, max_gradient_norm=0.1, steps=3))
    for record, _ in train(ready, START):
        gradients = [p.grad for p in ready.student.encoder.parameters() if p.grad is not None]
        assert float(record["gradient_norm"]) > 0.1
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert norm.item() == pytest.approx(0.1, rel=1e-4)


def test_a_run_leaves_records_a_checkpoint_and_an_encoder_that_is_the_student(
    world: World, tmp_path: Path
) -> None:
    table = train_table(world)
    run(recipe(tmp_path / "run", train=table))
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        CHECKPOINT_FILE,
        "encoder",
        RECORDS_FILE,
        "report",
    ]

    records = records_of(folder)
    assert [record["step"] for record in records] == list(range(1, 9))
    for record in records:
        assert record.keys() == {
            "step",
            "loss",
            "lightmbert.attention",
            "lightmbert.hidden",
            "gradient_norm",
            "learning_rate_scale",
            "tokens",
            "tokens_per_s",
        }
        assert all(math.isfinite(number) for number in record.values())

    again, _ = trained(tmp_path / "other", table)
    _, batch = next(again.batches.since(Cursor()))
    with torch.inference_mode():
        expected = encode(again.student, batch.text).pooled
        found = encode(load_teacher(str(folder / "encoder")), batch.text).pooled
    assert torch.equal(found, expected)

    tokenizer = (folder / "encoder" / "tokenizer.json").read_bytes()
    assert tokenizer == (world.teacher / "tokenizer.json").read_bytes()
    provenance = orjson.loads((folder / "encoder" / "provenance.json").read_bytes())
    assert provenance.keys() == {"teacher", "data_fingerprint"}
    assert provenance["teacher"] == "teacher"  # its name; where it lies here is nobody's business


def test_a_finished_run_is_not_trained_further(world: World, tmp_path: Path) -> None:
    loaded = recipe(tmp_path, train=train_table(world))
    run(loaded)
    before = [(tmp_path / name).read_bytes() for name in (CHECKPOINT_FILE, RECORDS_FILE)]
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    (tmp_path / "encoder" / "heads").mkdir()
    run(loaded)
    assert (tmp_path / "encoder" / "heads").is_dir()  # given to it since: it is the same encoder
    assert [(tmp_path / name).read_bytes() for name in (CHECKPOINT_FILE, RECORDS_FILE)] == before
    again = load_file(tmp_path / "encoder" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_a_run_folder_of_another_recipe_is_refused(world: World, tmp_path: Path) -> None:
    run(recipe(tmp_path, "a" * 64, train=train_table(world, steps=3)))
    with pytest.raises(CheckpointError, match="another recipe"):
        run(recipe(tmp_path, "b" * 64, train=train_table(world, steps=3)))


def test_a_line_cut_short_by_a_kill_is_dropped_from_the_records(tmp_path: Path) -> None:
    with Records(tmp_path, steps_done=0) as records:
        for step in (1, 2, 3):
            records.write({"step": step, "loss": 0.5})
    with (tmp_path / RECORDS_FILE).open("ab") as file:
        file.write(b'{"step":4,"lo')
    with Records(tmp_path, steps_done=2) as records:
        records.write({"step": 3, "loss": 0.25})
    assert [(record["step"], record["loss"]) for record in records_of(tmp_path)] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.25),
    ]


def test_records_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    with Records(tmp_path, steps_done=0) as records:
        records.write({"step": 1, "loss": 0.5})
        assert records_of(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_diverged_run_stops_and_keeps_its_last_good_checkpoint(
    world: World, tmp_path: Path
) -> None:
    good = train_table(world, steps=4)
    run(recipe(tmp_path, train=good))
    kept = (tmp_path / CHECKPOINT_FILE).read_bytes()
    records = len(records_of(tmp_path))
    bad = recipe(tmp_path, train=good | {"steps": 12, "learning_rate": 1e20})
    with pytest.raises(DivergedError, match=r"step [5-8]: \w+ is (nan|inf)"):
        run(bad)
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == kept
    assert all(math.isfinite(n) for record in records_of(tmp_path) for n in record.values())
    assert len(records_of(tmp_path)) >= records


def test_a_run_is_checked_for_divergence_where_it_saves_though_it_records_nothing(
    world: World, tmp_path: Path
) -> None:
    table = train_table(world, learning_rate=1e20, record_every_steps=100)
    with pytest.raises(DivergedError, match="step 4"):
        run(recipe(tmp_path, train=table))
    assert not (tmp_path / CHECKPOINT_FILE).exists()


@pytest.fixture(scope="module")
def odd(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoders that fit the world's teacher in all but one respect."""
    root = tmp_path_factory.mktemp("odd")
    tokenizer = Tokenizer.from_file(str(world.teacher / "tokenizer.json"))
    write_bert(root / "wide", tokenizer, hidden_size=64)
    write_bert(root / "two-headed", tokenizer, num_attention_heads=2)
    write_bert(root / "short", tokenizer, max_position_embeddings=16)
    write_bert(root / "few-rows", tokenizer, vocab_size=20)
    write_encoder(root / "other-words")
    write_bert(root / "wide-english", english_tokenizer(), hidden_size=64)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("wide", "width 32 in the student and 64 in the teacher"),
        ("two-headed", "4 heads in the student, 2 in the teacher"),
        ("short", "max_tokens 32 exceeds the 16 positions of .*short"),
        ("few-rows", "tokenizer of .*few-rows has 1.. pieces, its table 20 rows"),
        ("other-words", "vocabularies must agree"),
    ],
)
def test_a_teacher_that_lightmbert_cannot_compare_is_refused_before_training(
    world: World, tmp_path: Path, odd: dict[str, Path], teacher: str, said: str
) -> None:
    refused(recipe(tmp_path, train=train_table(world, teacher=str(odd[teacher]))), said)


def test_sentence_embeddings_of_another_width_are_refused(
    world: World, tmp_path: Path, odd: dict[str, Path]
) -> None:
    table = sentence_table(world, teacher=str(odd["wide-english"]))
    refused(recipe(tmp_path, train=table), "width 32 in the student and 64 in the teacher")


def test_the_sentence_objective_refuses_text_without_translations(
    world: World, tmp_path: Path
) -> None:
    table = sentence_table(world, corpus=[{"path": world.mono}])
    refused(recipe(tmp_path, train=table), "needs parallel text: set pair_column")


def refused(loaded: LoadedRecipe, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run(loaded)
    assert not loaded.recipe.run.folder.joinpath(RECORDS_FILE).exists()


def test_the_same_seed_gives_the_same_student_and_another_seed_another(
    world: World, tmp_path: Path
) -> None:
    first, second = (trained(tmp_path, train_table(world, steps=3))[0] for _ in range(2))
    for one, twin in zip(first.student.parameters(), second.student.parameters(), strict=True):
        assert torch.equal(one, twin)
    loaded = recipe(tmp_path, train=train_table(world, steps=3))
    changed = loaded.recipe.model_copy(
        update={"run": loaded.recipe.run.model_copy(update={"seed": 2})}
    )
    other = prepare(LoadedRecipe(changed, loaded.file_name, loaded.sha256))
    for _ in train(other, START):
        pass
    weight = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(first.student.state_dict()[weight], other.student.state_dict()[weight])


def test_gradients_of_several_batches_make_one_step(world: World, tmp_path: Path) -> None:
    ready = prepared(tmp_path, train_table(world, accumulation_steps=3, steps=4))
    twin = prepared(tmp_path, train_table(world))
    record, progress = next(train(ready, START))
    batches = [batch for _, batch in islice(twin.batches.since(Cursor()), 3)]
    losses = [
        sum(twin.losses.weights[name] * loss for name, loss in twin.losses(batch).items())
        for batch in batches
    ]
    (sum(losses) / 3).backward()
    norm = torch.stack([p.grad.norm() for p in twin.trained if p.grad is not None]).norm()
    assert float(record["gradient_norm"]) == pytest.approx(norm.item(), rel=1e-5)
    assert float(record["loss"]) == pytest.approx(sum(losses).item() / 3, rel=1e-5)
    assert progress.tokens == record["tokens"] == sum(batch.padded_tokens for batch in batches)
    assert progress.cursor == list(islice(twin.batches.since(Cursor()), 3))[-1][0]


def test_what_objectives_learn_is_trained_and_saved(world: World, tmp_path: Path) -> None:
    student = {"layers": 2, "initialisation": "random", "embeddings": "random"}
    measures = {"width": 16, "heads": 4, "feed_forward_width": 32}
    objective = [LIGHTMBERT | {"projection": "learned"}]
    table = train_table(world, student=student | measures, objective=objective, steps=3)
    ready = prepared(tmp_path / "other", table)
    before = {name: p.detach().clone() for name, p in ready.losses.matches.named_parameters()}
    assert before
    run(recipe(tmp_path / "run", train=table))
    saved = load_file(tmp_path / "run" / CHECKPOINT_FILE)
    for name, tensor in before.items():
        assert not torch.equal(saved[f"trained.matches.{name}"], tensor)
    assert not [
        name for name in load_file(tmp_path / "run/encoder/model.safetensors") if "match" in name
    ]


def test_a_run_that_does_not_learn_is_given_up(world: World, tmp_path: Path) -> None:
    watch = {"window_steps": 2, "from_step": 6, "max_ratio": 1e-6}
    with pytest.raises(NotFallingError, match="step 6: over the last 2 steps"):
        run(recipe(tmp_path, train=train_table(world, watch=watch)))
    assert [record["step"] for record in records_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / CHECKPOINT_FILE).exists()
