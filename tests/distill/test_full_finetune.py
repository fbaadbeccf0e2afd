from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from tiny_encoder import a_head, write_encoder
from tiny_tasks import (
    LANGUAGES,
    SCHEDULE,
    full_table,
    kd_table,
    report_of,
    rows_of,
    topic_table,
    unlabelled,
    write_pairs,
    write_polyglot,
    write_tags,
    write_topics,
)
from tiny_world import World, recipe

from app.runtime.calibration import Problem
from distill.classifier import Classifier, inputs_of, read
from distill.corpus import load_corpus
from distill.encoders import FolderEncoder, TorchEncoder
from distill.export import Card, export_student
from distill.finetune import run
from distill.finetuning import FinetuneError, Rows, batches, fine_tune
from distill.heads import load_heads, save_head
from distill.labelled import read_labelled
from distill.objectives.task import divergence
from distill.tables.finetune import DropTable, ScheduleTable, TaskKdTable
from distill.tables.labelled import LabelledTable
from distill.task_kd import SoftLoss
from distill.task_loss import TaskLoss
from distill.task_rows import read_task, score
from distill.teacher import load_teacher
from distill.teaching import load_pupil, load_task_teacher


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("tasks") / "topics")


@pytest.fixture(scope="module")
def polyglot(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_polyglot(tmp_path_factory.mktemp("encoders") / "polyglot", world)


@pytest.fixture(scope="module")
def teacher(polyglot: Path, topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned on English."""
    folder = tmp_path_factory.mktemp("teacher")
    run(recipe(folder, finetune=topic_table(topics, polyglot, seeds=[7], epochs=10)))
    return folder / "tiny-plain-7"


def accuracy(folder: Path, task: str, table: dict[str, object]) -> float:
    """Of an encoder folder as it is read back, on all rows of a table."""
    rows = read_labelled(LabelledTable.model_validate(table))
    encoder = TorchEncoder(folder, max_tokens=32)
    logits = encoder.outputs(rows.texts)[f"logits_{task}"]
    labels = np.array(encoder.tasks[task].labels)
    return float((labels[logits.argmax(1)] == np.array(rows.labels)).mean())


def test_encoder_and_head_learn_a_task_together(
    world: World, topics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    run(recipe(folder, finetune=topic_table(topics, world.english, seeds=[1, 2])))
    english = rows_of(topics / "en.parquet")
    for seed, told in zip((1, 2), report_of(folder), strict=True):
        written = folder / f"tiny-plain-{seed}"
        assert accuracy(written, "doing", english) > 0.9  # half of the rows are "rest"
        head = load_heads(written)["doing"]
        assert head.labels == ("food", "rest", "song")
        assert head.temperature == told["reliability"]["temperature"] != 1.0
        assert told["scores"]["en"] == accuracy(
            written, "doing", rows_of(topics / "en.parquet", where={"split": "dev"})
        )
        losses = [epoch["loss"] for epoch in told["epochs"]]
        assert losses[-1] < losses[0] / 2
        before = load_teacher(str(world.english)).state_dict()
        after = load_teacher(str(written)).state_dict()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        assert any("embeddings" in name for name in changed)
        assert any("layer.0" in name for name in changed)
    assert "tiny-plain-2: " in capsys.readouterr().out
    provenance = orjson.loads((written / "provenance.json").read_bytes())
    assert set(provenance) == {"teacher", "data_fingerprint"}


def test_the_best_epoch_is_kept_and_not_the_last(world: World, topics: Path) -> None:
    task = read_task(
        LabelledTable.model_validate(rows_of(topics / "en.parquet", where={"split": "train"})),
        LabelledTable.model_validate(rows_of(topics / "en.parquet", where={"split": "dev"})),
        problem="single",
        seed=1,
    )
    pupil = load_pupil(world.english, max_tokens=32)
    rows, development = (
        Rows(read(pupil.tokenizer, part.texts), part.targets(task.labels))
        for part in (task.train, task.development)
    )
    learn = TaskLoss(rows, "single", drop=None, hard_weight=1.0, soft=None, seed=1)
    steps = 6 * 3

    def learn_and_forget(classifier: Classifier, numbers: Sequence[int], step: int) -> torch.Tensor:
        loss = learn(classifier, numbers, step)
        return loss if step < steps else -loss

    torch.manual_seed(1)
    classifier = Classifier(pupil.encoder, classes=3)
    fitted = fine_tune(
        classifier,
        learn_and_forget,
        development,
        ScheduleTable.model_validate(SCHEDULE | {"epochs": 6}),
        problem="single",
        train_texts=rows.texts,
        seed=1,
    )
    scores = [epoch.score for epoch in fitted.epochs]
    assert fitted.best.score == max(scores) > scores[-1]
    kept = classifier.all_logits(development.texts)
    np.testing.assert_array_equal(kept, fitted.development_logits)
    assert score(kept, development.targets, "single") == max(scores)


def test_frozen_embeddings_stay_as_they_were(world: World, topics: Path, tmp_path: Path) -> None:
    table = topic_table(topics, world.english, epochs=1, freeze_embeddings=True)
    run(recipe(tmp_path / "run", finetune=table))
    before = load_teacher(str(world.english)).state_dict()
    after = load_teacher(str(tmp_path / "run" / "tiny-plain-1")).state_dict()
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert {name for name in before if name.startswith("embeddings.")} <= same
    assert not any("query.weight" in name for name in same)


def test_several_labels_are_learned_at_once(world: World, tmp_path: Path) -> None:
    data = rows_of(write_tags(tmp_path / "tags.parquet"))
    folder = tmp_path / "run"
    changes = {"problem": "multi", "epochs": 9, "learning_rate": 3e-3}
    run(recipe(folder, finetune=full_table(world.english, data, **changes)))
    head = load_heads(folder / "tiny-plain-1")["doing"]
    assert (head.problem_type, head.labels) == ("multi", ("food", "home", "rest", "river", "song"))
    assert head.threshold is not None
    [told] = report_of(folder)
    assert told["epochs"][-1]["score"] > 0.85
    assert head.threshold == told["reliability"]["threshold"]
    rows = read_labelled(LabelledTable.model_validate(data))
    encoder = TorchEncoder(folder / "tiny-plain-1", max_tokens=32)
    logits = encoder.outputs(rows.texts)["logits_doing"] / head.temperature
    given = 1 / (1 + np.exp(-logits)) >= head.threshold
    wanted = rows.targets(head.labels) == 1
    assert (given == wanted).mean() > 0.9


def test_labels_of_a_row_may_stand_in_one_string(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\none,a; b\ntwo,\nthree,b\n")
    table = LabelledTable.model_validate(rows_of(path, label_separator=";"))
    assert read_labelled(table).label_sets == [("a", "b"), (), ("b",)]


def test_pairs_are_told_apart_by_both_sides(world: World, tmp_path: Path) -> None:
    data = rows_of(write_pairs(tmp_path / "pairs.parquet"))
    data |= {"text_column": "first", "pair_column": "second"}
    folder = tmp_path / "run"
    # either side alone says nothing: half of the rows of each text and of each verb are "yes"
    table = full_table(world.english, data, epochs=9, batch_texts=16, development={"share": 0.1})
    run(recipe(folder, finetune=table))
    written = folder / "tiny-plain-1"
    assert load_heads(written)["doing"].pair
    assert accuracy(written, "doing", data) > 0.85


def test_what_was_fine_tuned_on_pairs_is_what_is_served(tmp_path: Path) -> None:
    data = rows_of(write_pairs(tmp_path / "pairs.parquet"))
    data |= {"text_column": "first", "pair_column": "second"}
    encoder = write_encoder(tmp_path / "encoder")
    run(recipe(tmp_path / "run", finetune=full_table(encoder, data, epochs=1)))
    written, served = tmp_path / "run" / "tiny-plain-1", tmp_path / "model"
    card = Card("tiny", "1", "none", ("en",), 32, (("a dog", "sleeps"),), "tiny.toml", "0" * 64)
    export_student(written, served, card=card, min_cosine=0.9999)
    pairs = read_labelled(LabelledTable.model_validate(data)).texts
    expected = TorchEncoder(written, max_tokens=32).outputs(pairs)["logits_doing"]
    found = FolderEncoder(served, precision="fp32", threads=1).outputs(pairs)["logits_doing"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    turned = TorchEncoder(written, max_tokens=32).outputs([(b, a) for a, b in pairs])
    assert np.abs(turned["logits_doing"] - expected).max() > 0.01


def test_task_kd_warns_and_is_told_apart_from_plain_fine_tuning(
    polyglot: Path,
    topics: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = topic_table(topics, polyglot, task_kd=kd_table(teacher), epochs=2)
    run(recipe(tmp_path, finetune=table))
    printed = capsys.readouterr().out
    assert "warning: task KD on source-language text alone" in printed
    plain, distilled = (told["scores"] for told in report_of(tmp_path))
    changes = ", ".join(f"{lang} {distilled[lang] - plain[lang]:+.3f}" for lang in LANGUAGES)
    assert f"tiny, task KD against plain fine-tuning: {changes}" in printed
    assert "source" in printed.splitlines()[-1]
    for way in ("plain", "task-kd"):
        assert load_heads(tmp_path / f"tiny-{way}-1")


def test_with_text_of_other_languages_task_kd_does_not_warn(
    polyglot: Path,
    topics: Path,
    teacher: Path,
    tmp_path: Path,
    world: World,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task_kd = kd_table(teacher, **unlabelled(world))
    run(recipe(tmp_path, finetune=topic_table(topics, polyglot, task_kd=task_kd, epochs=1)))
    printed = capsys.readouterr().out
    assert "warning" not in printed
    assert "task KD against plain fine-tuning: en " in printed


@pytest.mark.parametrize("problem", ["single", "multi"])
def test_the_soft_loss_is_the_divergence_on_both_kinds_of_text(
    world: World, polyglot: Path, teacher: Path, problem: Problem
) -> None:
    labels = ("song", "rest", "food")  # another order than the teacher's
    of_task = load_task_teacher(teacher, task="doing", labels=labels, max_tokens=32)
    table = TaskKdTable.model_validate(
        {key: value for key, value in kd_table(teacher).items() if key != "teacher"}
        | unlabelled(world)
    )
    corpus = load_corpus(table.unlabelled, exponent=0.0)
    pupil = load_pupil(polyglot, max_tokens=32)
    classifier = Classifier(pupil.encoder, classes=3).eval()
    english = ["the dog sings at home", "a fish eats in town", "our cow waits in town"]
    soft = SoftLoss(
        of_task,
        table,
        english,
        problem=problem,
        corpus=corpus,
        tokenizer=pupil.tokenizer,
        seed=5,
    )
    rows, step = [2, 0], 3
    logits = classifier(inputs_of(read(pupil.tokenizer, [english[row] for row in rows])))
    found = soft(classifier, logits, rows, step)

    def far(student: torch.Tensor, texts: list[str]) -> torch.Tensor:
        served = TorchEncoder(teacher, max_tokens=32).outputs(texts)["logits_doing"][:, [2, 1, 0]]
        theirs = torch.from_numpy(np.ascontiguousarray(served))
        if problem == "single":
            return divergence(student, theirs, kind="kl", temperature=2.0)
        p, q = (torch.sigmoid(each / 2) for each in (theirs, student))
        return 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()

    drawn = corpus.draw(step, rows=4, seed=5).texts
    of_drawn = classifier(inputs_of(read(pupil.tokenizer, drawn)))
    expected = 0.5 * far(logits, [english[row] for row in rows]) + 3.0 * far(of_drawn, drawn)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.backward()
    assert classifier.head.weight.grad is not None
    assert all(parameter.grad is None for parameter in of_task.classifier.parameters())


def test_a_teacher_of_other_labels_is_refused(teacher: Path) -> None:
    with pytest.raises(FinetuneError, match="tells food, rest, song apart; the task has a, b"):
        load_task_teacher(teacher, task="doing", labels=("a", "b"), max_tokens=32)


DROP = {
    "layer_drop": 0.0,
    "feature_drop": 0.0,
    "data_drop": 0.0,
    "keep_whole": 0.0,
    "r_drop_weight": 0.0,
}


@pytest.mark.parametrize(
    "drop",
    [
        {"layer_drop": 0.1},
        {"feature_drop": 0.05},
        {"data_drop": 0.1, "keep_whole": 0.5},
        {"feature_drop": 0.05, "r_drop_weight": 0.5},
    ],
)
def test_a_task_is_learned_in_spite_of_what_is_dropped(
    world: World, topics: Path, tmp_path: Path, drop: dict[str, float]
) -> None:
    table = topic_table(topics, world.english, epochs=5)
    run(recipe(tmp_path / "plain", finetune=table | {"epochs": 1}))
    run(recipe(tmp_path / "one", finetune=table | {"epochs": 1, "drop": DROP | drop}))
    run(recipe(tmp_path / "dropped", finetune=table | {"drop": DROP | drop}))
    folders = [tmp_path / name / "tiny-plain-1" for name in ("plain", "one", "dropped")]
    assert accuracy(folders[2], "doing", rows_of(topics / "en.parquet")) > 0.8
    plain, one = (load_heads(folder)["doing"].weight for folder in folders[:2])
    assert not torch.equal(plain, one)


def test_r_drop_weighs_how_far_two_passes_are_apart(world: World, topics: Path) -> None:
    pupil = load_pupil(world.english, max_tokens=32)
    texts = read_labelled(LabelledTable.model_validate(rows_of(topics / "en.parquet")))
    rows = Rows(read(pupil.tokenizer, texts.texts), texts.targets(texts.known))
    classifier = Classifier(pupil.encoder, classes=3)

    def loss(weight: float) -> float:
        drop = DropTable.model_validate(DROP | {"data_drop": 0.5, "r_drop_weight": weight})
        of_rows = TaskLoss(rows, "single", drop=drop, hard_weight=1.0, soft=None, seed=3)
        return of_rows(classifier, range(16), 0).item()  # the same tokens go, whatever the weight

    apart = loss(2.0) - loss(1.0)
    assert apart > 1e-4
    assert loss(5.0) - loss(2.0) == pytest.approx(3 * apart, rel=1e-3)


def test_the_encoder_is_whole_again_after_dropping(
    world: World, topics: Path, tmp_path: Path
) -> None:
    table = topic_table(topics, world.english, drop=DROP | {"layer_drop": 0.5}, epochs=1)
    run(recipe(tmp_path, finetune=table))
    encoder = TorchEncoder(tmp_path / "tiny-plain-1", max_tokens=32)
    first, again = (encoder.outputs(["the dog sings"])["pooled"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_first_stage_by_labels_brings_texts_of_one_label_together(
    world: World, topics: Path, tmp_path: Path
) -> None:
    contrast = {
        "kind": "supcl",
        "epochs": 6,
        "batch_texts": 24,
        "learning_rate": 5e-3,
        "temperature": 0.1,
        "drops": [0.1, 0.0],
    }
    # as in the paper the encoder is then left as it is
    table = topic_table(topics, world.english, contrast=contrast, learning_rate=0.0, epochs=1)
    run(recipe(tmp_path / "run", finetune=table))
    rows = read_labelled(LabelledTable.model_validate(rows_of(topics / "en.parquet")))
    alike = np.equal.outer(rows.labels, rows.labels)
    apart = []
    for folder in (world.english, tmp_path / "run" / "tiny-plain-1"):
        pooled = TorchEncoder(folder, max_tokens=32).outputs(rows.texts)["pooled"]
        unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        cosine = unit @ unit.T
        apart.append(cosine[alike].mean() - cosine[~alike].mean())
    assert apart[1] > apart[0] + 0.3


def test_a_first_stage_by_pairs_brings_their_sides_together(world: World, tmp_path: Path) -> None:
    contrast = {
        "kind": "pairsupcon",
        "epochs": 10,
        "batch_texts": 16,
        "learning_rate": 2e-3,
        "temperature": 0.1,
        "positive": "yes",
        "negative": "no",
    }
    data = rows_of(write_pairs(tmp_path / "pairs.parquet"))
    data |= {"text_column": "first", "pair_column": "second"}
    table = full_table(world.english, data, contrast=contrast, learning_rate=0.0, epochs=1)
    run(recipe(tmp_path / "run", finetune=table))
    rows = read_labelled(LabelledTable.model_validate(data))
    entailed = np.array(rows.labels) == "yes"
    ahead = []
    for folder in (world.english, tmp_path / "run" / "tiny-plain-1"):
        encoder = TorchEncoder(folder, max_tokens=32)
        sides = [encoder.outputs([text[side] for text in rows.texts])["pooled"] for side in (0, 1)]
        first, second = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in sides)
        cosine = (first * second).sum(1)
        ahead.append(cosine[entailed].mean() - cosine[~entailed].mean())
    assert ahead[1] > ahead[0] + 0.1


def test_a_classifier_gives_the_logits_of_its_head(world: World) -> None:
    head = a_head("topic")
    encoder = load_teacher(str(world.english))
    classifier = Classifier.of(encoder, head)
    assert torch.equal(classifier.head.weight, head.weight)
    folder_logits = head(torch.randn(2, 32))
    assert folder_logits.shape == (2, 3)
    unit = torch.nn.functional.normalize(torch.randn(2, 32), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier.logits(unit)
    torch.testing.assert_close(logits, head(unit))
    again = classifier.as_head("topic", head.labels, "single")
    assert torch.equal(again.weight, head.weight)
    assert torch.equal(again.bias, head.bias)


def test_an_epoch_sees_every_row_once_and_its_like_together() -> None:
    lengths = [3, 9, 4, 8, 3, 9, 5, 7, 6, 2]
    found = list(batches(lengths, 3, seed=1, epoch=1))
    assert sorted(row for rows in found for row in rows) == list(range(10))
    assert max(map(len, found)) == 3
    spans = [
        max(lengths[row] for row in rows) - min(lengths[row] for row in rows) for rows in found
    ]
    assert max(spans) <= 3
    assert found != list(batches(lengths, 3, seed=1, epoch=2))
    assert found == list(batches(lengths, 3, seed=1, epoch=1))


def test_a_saved_head_is_not_lost_by_another(tmp_path: Path) -> None:
    save_head(tmp_path, a_head("topic"))
    save_head(tmp_path, a_head("tags"))
    assert list(load_heads(tmp_path)) == ["tags", "topic"]
