"""What fine-tuning refuses, before anything trains, and what it keeps when it ends early."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from tiny_tasks import (
    full_table,
    kd_table,
    report_of,
    rows_of,
    topic_table,
    unlabelled,
    write_tags,
    write_topics,
)
from tiny_world import World, recipe

from distill.finetune import run
from distill.finetuning import FinetuneError
from distill.labelled import read_labelled
from distill.reading import CorpusError
from distill.tables.finetune import HeldOutTable, TeacherTable
from distill.tables.labelled import LabelledTable
from distill.task_kd import of_source_only
from distill.task_rows import read_task
from distill.teacher import EncoderError
from distill.teaching import Taught, teach


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("tasks") / "topics")


def test_a_list_of_labels_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table({"text": ["one"], "label": [["a", None]]}), path)
    with pytest.raises(CorpusError, match=r"rows\.parquet: a list of 'label' holds a null"):
        read_labelled(LabelledTable.model_validate(rows_of(path)))


def test_a_label_that_is_held_out_whole_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "one,a\n" * 4 + "two,b\n" * 4 + "three,rare\n")
    data = LabelledTable.model_validate(rows_of(path))
    said = []
    for seed in range(20):
        try:
            task = read_task(data, HeldOutTable(share=0.3), problem="single", seed=seed)
            assert task.labels == ("a", "b", "rare")
        except CorpusError as error:
            said.append(str(error))
    assert 0 < len(said) < 20
    assert {"holds out every row of label 'rare'" in each for each in said} == {True}


def test_a_loss_that_is_not_finite_ends_the_run(world: World, topics: Path, tmp_path: Path) -> None:
    table = topic_table(topics, world.english, learning_rate=1e30, max_gradient_norm=1e30)
    with pytest.raises(FinetuneError, match="epoch 1: the loss is nan; a lower learning rate"):
        run(recipe(tmp_path / "run", finetune=table))


def test_labels_that_were_not_learned_are_refused_before_anything_trains(
    world: World, topics: Path, tmp_path: Path
) -> None:
    table = topic_table(topics, world.english)
    table["data"] = rows_of(topics / "en.parquet", where={"label": "food"})
    with pytest.raises(CorpusError, match=r"en\.parquet has the labels \('food',\)"):
        run(recipe(tmp_path / "run", finetune=table))
    table["data"] = rows_of(write_tags(tmp_path / "tags.parquet"))
    with pytest.raises(CorpusError, match="row 0 has 2 labels; one is needed"):
        run(recipe(tmp_path / "run", finetune=table))
    table["data"] = rows_of(topics / "en.parquet")
    several = tmp_path / "several"
    several.mkdir()
    labels = [["food", "rest"], ["song"]]
    columns = {"text": ["one", "two"], "label": labels, "split": ["dev", "dev"]}
    pa.parquet.write_table(pa.table(columns), several / "en.parquet")
    table |= {"measured": table["measured"] | {"folder": several}, "languages": ["en"]}
    with pytest.raises(CorpusError, match="row 0 has 2 labels; one is needed"):
        run(recipe(tmp_path / "run", finetune=table))
    assert not (tmp_path / "run").exists()


def test_encoders_that_cannot_be_taught_are_refused_before_anything_trains(
    world: World, topics: Path, tmp_path: Path
) -> None:
    table = topic_table(topics, world.english, epochs=1)
    nowhere = table | {"encoders": {"one": world.english, "two": tmp_path / "two"}}
    with pytest.raises(EncoderError, match=r"two has no tokenizer\.json"):
        run(recipe(tmp_path / "run", finetune=nowhere))
    with pytest.raises(EncoderError, match="max_tokens 64 exceeds the 48 positions of"):
        run(recipe(tmp_path / "run", finetune=table | {"max_tokens": 64}))
    assert not (tmp_path / "run").exists()


def test_what_was_found_before_a_run_ended_early_is_kept(
    world: World, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends_at_two(*args: object, seed: int, **settings: object) -> Taught:
        if seed == 2:
            raise KeyboardInterrupt
        return teach(*args, seed=seed, **settings)

    monkeypatch.setattr("distill.finetune.teach", ends_at_two)
    table = topic_table(topics, world.english, seeds=[1, 2], epochs=1)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(tmp_path, finetune=table))
    assert [told["seed"] for told in report_of(tmp_path)] == [1]


def test_unlabelled_text_of_the_source_language_does_not_hush_the_warning(world: World) -> None:
    def only(*languages: str) -> bool:
        text = [{"path": world.mono, "languages": languages}]
        settings = kd_table(world.teacher, **unlabelled(world) | {"unlabelled": text})
        return of_source_only(TeacherTable.model_validate(settings), "en")

    assert only("en")
    assert not only("en", "de")
    with pytest.raises(CorpusError, match="has no file for: sw"):
        only("sw")


def test_unlabelled_text_is_not_asked_of_a_head_for_pairs(world: World, tmp_path: Path) -> None:
    pairs = {"text_column": "first", "pair_column": "second"}
    data = rows_of(tmp_path / "pairs.parquet") | pairs
    measured = {"folder": tmp_path, "label_column": "label", "where": {}, **pairs}
    task_kd = kd_table(world.teacher, **unlabelled(world))
    table = full_table(
        world.english, data, task_kd=task_kd, measured=measured, languages=["en", "de"]
    )
    with pytest.raises(ValueError, match="unlabelled is of single texts; data has a pair_column"):
        recipe(tmp_path, finetune=table)


def test_a_teacher_of_another_task_is_refused(world: World, topics: Path, tmp_path: Path) -> None:
    table = topic_table(topics, world.english, task_kd=kd_table(world.teacher), epochs=1)
    with pytest.raises(
        FinetuneError, match="has no linear head 'doing', which task KD learns from"
    ):
        run(recipe(tmp_path / "run", finetune=table))
    assert not (tmp_path / "run").exists()  # before anything trains


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task_kd": {"teacher": "t", "divergence": "kl", "temperature": 2.0,
                         "hard_weight": 0.5, "soft_weight": 0.5}, "measured": None},
            "task_kd is told per language against plain fine-tuning: measured is missing",
        ),
        ({"source_language": "fr"}, "source_language 'fr' is not among languages"),
        (
            {"drop": {"layer_drop": 0, "feature_drop": 0, "data_drop": 0, "keep_whole": 0,
                      "r_drop_weight": 1}},
            "r_drop_weight 1.0 compares two passes that drop differently",
        ),
        (
            {"contrast": {"kind": "supcl", "epochs": 1, "batch_texts": 8, "learning_rate": 1e-3,
                          "temperature": 0.1, "drops": [0.1]}},
            "supcl compares views of several dropouts",
        ),
        (
            {"contrast": {"kind": "pairsupcon", "epochs": 1, "batch_texts": 8,
                          "learning_rate": 1e-3, "temperature": 0.1, "positive": "yes",
                          "negative": "no"}},
            "pairsupcon learns from pairs: data has no pair_column",
        ),
        (
            {"development": {"path": "d.csv", "text_column": "text", "pair_column": "other",
                             "label_column": "label", "where": {}}},
            "all pairs or all single texts; pair_column: none, other, none",
        ),
        (
            {"task_kd": {"teacher": "t", "divergence": "kl", "temperature": 2.0, "hard_weight": 1,
                         "soft_weight": 0}},
            "nothing is learned from the teacher: soft_weight is 0",
        ),
    ],
)  # fmt: skip
def test_a_table_that_cannot_work_is_refused(
    world: World, topics: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        recipe(tmp_path, finetune=topic_table(topics, world.english, **changes))
