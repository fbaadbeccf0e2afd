from pathlib import Path

import pytest
import torch
from tiny_encoder import FAMILIES, write_family
from tiny_world import SENTENCE, World, recipe, sentence_table, train_table
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig

from distill import cost as cost_module
from distill import plan
from distill.config import RecipeError
from distill.cost import Cost, cost_of, forward_flops
from distill.plan import duration, megabytes
from distill.tables.train import TrainTable
from distill.teacher import EncoderError, load_encoder, load_skeleton
from distill.training import prepare, skeleton_of

MBERT_PARAMETERS = 177_262_848
"""Of bert-base-multilingual-cased without its pooler, 92,208,384 of them in its embeddings."""


def cost(table: dict[str, object]) -> Cost:
    validated = TrainTable.model_validate(table)
    return cost_of(validated, skeleton_of(validated))


@pytest.fixture(scope="module")
def mbert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its config alone: no weights, no tokenizer."""
    folder = tmp_path_factory.mktemp("mbert")
    BertConfig(vocab_size=119_547).save_pretrained(folder)
    return str(folder)


def test_multilingual_bert_has_its_published_size(world: World, mbert: str) -> None:
    student = {"layers": 6, "initialisation": "bottom", "embeddings": "frozen"}
    found = cost(train_table(world, teacher=mbert, start=mbert, student=student))
    layer = 4 * (768**2 + 768) + 2 * 768 * 3072 + 768 + 3072 + 4 * 768
    assert found.teacher_parameters == MBERT_PARAMETERS
    assert found.student_embeddings == 92_208_384
    assert found.student_parameters == 92_208_384 + 6 * layer
    assert found.trained_parameters == 6 * layer
    assert found.checkpoint_bytes == 4 * (found.student_parameters + 2 * 6 * layer)
    assert found.optimizer_bytes == 12 * 6 * layer


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(tmp_path: Path, family: str) -> None:
    write_family(tmp_path, family)
    encoder = load_encoder(str(tmp_path))
    tokens = 24
    ids = torch.full((3, tokens), 7)
    with FlopCounterMode(display=False) as counter:
        encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    counted = counter.get_total_flops() / ids.numel()
    found = forward_flops(load_skeleton(str(tmp_path)), tokens=tokens)
    assert found == pytest.approx(counted, rel=0.005)  # rotation's angles are products as well


def test_training_a_layer_costs_what_torch_counts(world: World) -> None:
    table = train_table(
        world, student={"layers": 2, "initialisation": "bottom", "embeddings": "trained"}
    )
    encoder = load_encoder(str(world.teacher), layers=2).train()
    ids = torch.full((2, 32), 7)
    with FlopCounterMode(display=False) as counter:
        encoder(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).last_hidden_state.sum().backward()
    assert cost(table).student_flops == pytest.approx(counter.get_total_flops() / ids.numel())


def test_every_side_that_is_read_is_paid_for(world: World) -> None:
    table = sentence_table(world, accumulation_steps=3)
    found = cost(table)
    student = forward_flops(load_skeleton(str(world.teacher)), tokens=32)
    teacher = forward_flops(load_skeleton(str(world.english)), tokens=32)
    assert found.student_flops == pytest.approx(2 * 3 * student)  # the text and its English
    assert found.teacher_flops == pytest.approx(teacher)
    assert found.step_tokens == 3 * 512
    assert found.tokens == 8 * 3 * 512
    assert found.flops == pytest.approx((6 * student + teacher) * found.tokens)
    spared = cost(sentence_table(world, objective=[SENTENCE | {"english_every": 4}]))
    assert spared.student_flops == pytest.approx(1.25 * 3 * student)
    assert spared.teacher_flops == pytest.approx(teacher)


def test_what_is_planned_is_what_is_built(world: World, tmp_path: Path) -> None:
    table = train_table(world)
    found, ready = cost(table), prepare(recipe(tmp_path, train=table))
    assert found.trained_parameters == sum(parameter.numel() for parameter in ready.trained)
    assert found.student_parameters == sum(p.numel() for p in ready.student.parameters())


def test_a_plan_tells_size_work_and_time(
    world: World,
    mbert: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(plan, "cpu_rate", lambda **_: 2e12)
    student = {"layers": 6, "initialisation": "bottom", "embeddings": "frozen"}
    table = train_table(
        world, teacher=mbert, start=mbert, student=student, precision="bf16", steps=10_000
    )
    table |= {"max_tokens": 128, "max_batch_tokens": 16_384}
    plan.run(recipe(tmp_path, train=table))
    told = capsys.readouterr().out
    assert "177,262,848 │ 709.1 MB" in told
    total = cost(table).flops
    rows = {line.split("│")[1].strip(): line for line in told.splitlines() if "TFLOP/s" in line}
    assert duration(total / (0.4 * 2e12)) in rows["this CPU, 1 threads"]
    assert duration(total / (0.35 * 989e12)) in rows["H100 SXM"]
    assert "estimated" in told
    assert not list(tmp_path.iterdir())


def test_the_rate_of_this_machine_is_measured() -> None:
    rate = cost_module.cpu_rate(width=64, precision="fp32", threads=1)
    assert 1e8 < rate < 1e13


def test_a_plan_that_cannot_run_is_refused(world: World, mbert: str, tmp_path: Path) -> None:
    table = train_table(world, cache_targets=tmp_path / "targets")
    with pytest.raises(RecipeError, match=r"'lightmbert' compares tokens.*leave it out"):
        plan.run(recipe(tmp_path, train=table))
    with pytest.raises(RecipeError, match=r"max_tokens 600 exceeds the 512 positions of .*mbert"):
        plan.run(
            recipe(tmp_path, train=train_table(world, teacher=mbert, start=mbert, max_tokens=600))
        )
    missing = str(tmp_path / "nowhere")
    with pytest.raises(EncoderError, match="nowhere is no encoder folder"):
        plan.run(recipe(tmp_path, train=train_table(world, teacher=missing)))


@pytest.mark.parametrize(
    ("seconds", "told"), [(3, "3.0 s"), (119, "119.0 s"), (120, "2.0 min"), (9000, "2.5 h")]
)
def test_times_are_told_in_the_unit_people_would_use(seconds: float, told: str) -> None:
    assert duration(seconds) == told
    assert duration(3 * 86_400) == "3.0 days"
    assert [megabytes(2.5e6), megabytes(2.5e9)] == ["2.5 MB", "2.50 GB"]
