import json
import shutil
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from tiny_encoder import WIDTH
from tiny_world import World, recipe, sentences

from app.errors import ManifestError
from app.runtime.artifact import load_manifest
from distill.batches import load_tokenizer
from distill.config import RecipeError
from distill.encoders import Encoder, FolderEncoder, TorchEncoder
from distill.evaluate import run
from distill.heads import Head, save_head
from distill.suite import Results, measure
from distill.tables.evaluate import EvaluateTable
from distill.teacher import EncoderError

ENGLISH = [("hund", "dog"), ("katt", "cat"), ("tax tax", "tax")]


@pytest.fixture
def model_dir(toy_model_dir: Path, tmp_path: Path) -> Path:
    """The toy student: "hund" and "dog" are one direction, "katt" and "cat" another."""
    return Path(shutil.copytree(toy_model_dir, tmp_path / "model"))


@pytest.fixture
def teacher(world: World, tmp_path: Path) -> Path:
    """An encoder folder with a topic head."""
    folder = Path(shutil.copytree(world.teacher, tmp_path / "teacher"))
    head = Head(
        task="topic",
        labels=("animals", "money"),
        problem_type="single",
        weight=torch.randn(2, WIDTH),
        bias=torch.zeros(2),
    )
    save_head(folder, head)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Swedish and, for topics, English; German is nowhere."""

    def write(name: str, **columns: list[object]) -> None:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(pa.table(columns), path)

    texts, english = zip(*ENGLISH, strict=True)
    write("tatoeba/sv.parquet", text=list(texts), text_en=list(english))
    write(
        "sib200/sv.parquet",
        text=["hund", "katt", "tax", "katt tax tax"],
        label=["animals", "animals", "money", "animals"],
        split=["dev"] * 4,
    )
    write("sib200/en.parquet", text=["dog"], label=["money"], split=["dev"])
    write("umsab/sv.parquet", text=["hund"], label=["good"], split=["dev"])
    write(
        "stsb/sv.parquet",
        sentence1=["hund", "hund", "hund"],
        sentence2=["dog", "hund katt", "katt"],
        score=[5.0, 3.0, 1.0],
        split=["dev"] * 3,
    )
    return tmp_path / "data"


def evaluate_table(model_dir: Path, teacher: Path, data: Path, report: Path) -> dict[str, object]:
    return {
        "model_dir": model_dir,
        "encoders": {"teacher": str(teacher)},
        "teacher": "teacher",
        "languages": ["en", "sv", "de"],
        "source_language": "en",
        "split": "dev",
        "topic": data / "sib200",
        "sentiment": data / "umsab",
        "tatoeba": data / "tatoeba",
        "sts": data / "stsb",
        "max_sts_pairs": 100,
        "max_tokens": 16,
        "description": "A toy.",
        "weaknesses": ["It knows five words."],
        "report": report,
    }


def test_a_folder_is_measured_as_it_is_served_and_told_what_was_found(
    model_dir: Path,
    teacher: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = load_manifest(model_dir)
    table = evaluate_table(model_dir, teacher, data, tmp_path / "report")
    run(recipe(tmp_path / "run", evaluate=table))

    evaluation = orjson.loads((tmp_path / "report" / "evaluation.json").read_bytes())
    assert list(evaluation) == ["teacher", "fp32"]
    expected = {
        "tatoeba_to_english": {"sv": 1.0},
        "tatoeba_from_english": {"sv": 1.0},
        "tatoeba_closer": {"sv": 1.0},
        "sts": {"sv": pytest.approx(1.0)},
        "topic": {"en": 0.0, "sv": 0.75},  # "katt tax tax" is more money than animal
    }
    assert evaluation["fp32"] == expected
    assert evaluation["teacher"].keys() == expected.keys()
    summary = orjson.loads((tmp_path / "report" / "summary.json").read_bytes())
    topic = summary["fp32"]["topic"]
    assert topic["gap"] == {"mean": -0.75, "spread": None}
    # one of the two labels is right by chance every other time
    taught = evaluation["teacher"]["topic"]["sv"]
    found = topic["retention_above_chance"]["mean"]
    assert found == (None if taught <= 0.5 else pytest.approx(0.25 / (taught - 0.5)))

    manifest = load_manifest(model_dir)
    assert manifest.provenance.metrics == {"fp32": expected}
    assert manifest.model_copy(update={"provenance": before.provenance}) == before
    card = (model_dir / "CARD.md").read_text()
    report = (tmp_path / "report" / "evaluation.md").read_text()
    assert "- It knows five words." in card
    assert "## Confidence\n\nOf `fp32`, as it answers.\n\n### SIB-200 topic" in card
    assert report.split("\n\n### ")[0] in card
    assert "share of teacher above chance" in report
    assert " ms |" in card
    printed = capsys.readouterr().out
    for benchmark in expected:
        assert benchmark in printed
    assert (tmp_path / "report" / "heatmap.png").stat().st_size > 1000
    assert "retention of teacher" in printed
    assert "warning: no benchmark has de" in printed


def test_an_encoder_without_heads_is_measured_without_them(
    model_dir: Path, world: World, data: Path, tmp_path: Path
) -> None:
    table = evaluate_table(model_dir, world.teacher, data, tmp_path / "report")
    run(recipe(tmp_path / "run", evaluate=table))
    evaluation = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert "topic" not in evaluation["teacher"]
    assert "topic" in evaluation["fp32"]
    assert "sentiment" not in evaluation["fp32"]


def test_what_was_measured_is_kept_when_the_next_system_fails(
    model_dir: Path, teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_on_the_folder(encoder: Encoder, table: EvaluateTable) -> Results:
        if isinstance(encoder, FolderEncoder):
            raise KeyboardInterrupt
        return measure(encoder, table)

    monkeypatch.setattr("distill.evaluate.measure", fail_on_the_folder)
    table = evaluate_table(model_dir, teacher, data, tmp_path / "report")
    with pytest.raises(KeyboardInterrupt):
        run(recipe(tmp_path / "run", evaluate=table))
    kept = orjson.loads((tmp_path / "report" / "evaluation.json").read_bytes())
    assert list(kept) == ["teacher"]
    assert kept["teacher"]["tatoeba_to_english"].keys() == {"sv"}


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_score_that_is_undefined_does_not_damage_the_folder(
    model_dir: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    alike = {"sentence1": ["hund"] * 2, "sentence2": ["dog", "katt"], "score": [3.0, 3.0]}
    pa.parquet.write_table(pa.table(alike | {"split": ["dev"] * 2}), data / "stsb" / "sv.parquet")
    table = evaluate_table(model_dir, teacher, data, tmp_path / "report")
    run(recipe(tmp_path / "run", evaluate=table))
    found = load_manifest(model_dir).provenance.metrics["fp32"]
    assert found["sts"] == {}
    assert found["tatoeba_to_english"] == {"sv": 1.0}
    assert "| sv | nan | nan |" in (tmp_path / "report" / "evaluation.md").read_text()


def test_an_evaluation_of_nothing_says_so(world: World, data: Path, tmp_path: Path) -> None:
    table = {
        "encoders": {"teacher": str(world.teacher)},
        "teacher": "teacher",
        "languages": ["en", "sv"],
        "source_language": "en",
        "split": "dev",
        "topic": data / "sib200",
        "max_tokens": 16,
        "report": tmp_path / "report",
    }
    with pytest.raises(RecipeError, match="no system has a head for topic; see probes"):
        run(recipe(tmp_path / "run", evaluate=table))
    table["mteb"] = {"tasks": ["STS17"], "languages": {"fr": "fra"}}
    with pytest.raises(ValueError, match="mteb has 'fr', which languages lack"):
        recipe(tmp_path / "run", evaluate=table)


def test_what_is_not_there_is_said_before_anything_is_measured(
    model_dir: Path, teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.evaluate.measure", lambda *_: pytest.fail("it was measured"))
    table = evaluate_table(model_dir, teacher, data, tmp_path / "report")
    gone = str(tmp_path / "gone")
    for changes, error, said in (
        ({"model_dir": gone}, ManifestError, "gone"),
        ({"max_tokens": 4096}, EncoderError, "max_tokens 4096 exceeds the"),
        ({"encoders": {"teacher": str(teacher), "x": gone}}, EncoderError, "gone has no token"),
        ({"encoders": {"teacher": str(teacher), "fp32": str(teacher)}}, RecipeError, "'fp32'"),
        (
            {"systems": [{"name": "s", "folders": [tmp_path / "lost"], "precision": "fp32"}]},
            ManifestError,
            "lost",
        ),
    ):
        with pytest.raises(error, match=said):
            run(recipe(tmp_path / "run", evaluate=table | changes))


def test_outputs_come_in_the_order_of_the_texts(model_dir: Path, teacher: Path) -> None:
    texts = [text for pair in zip(sentences("de"), sentences("zh"), strict=True) for text in pair]
    encoder = TorchEncoder(teacher, max_tokens=48)
    together = encoder.outputs(texts)
    assert together["pooled"].shape == (len(texts), WIDTH)
    for index in (0, 1, 77, 143):
        alone = encoder.outputs([texts[index]])
        for name, rows in together.items():
            np.testing.assert_allclose(rows[index], alone[name][0], rtol=1e-3, atol=1e-4)

    served = FolderEncoder(model_dir, precision="fp32", threads=1)
    words = ["katt", "a long text of unknown words that is cut", "hund", "tax"] * 20
    pooled = served.outputs(words)["pooled"]
    assert (pooled[0::4] == pooled[0]).all()
    assert pooled[[0, 2, 3]].argmax(1).tolist() == [1, 0, 2]


def test_an_encoder_reads_no_further_than_it_was_told(world: World) -> None:
    short = "the dog"
    long = f"{short} sleeps at home"
    pieces = load_tokenizer(world.english / "tokenizer.json", max_tokens=32).encode(short)
    whole, cut = (
        TorchEncoder(world.english, max_tokens=limit).outputs([short, long])["pooled"]
        for limit in (32, len(pieces.ids))
    )
    assert np.abs(whole[0] - whole[1]).max() > 0.01
    np.testing.assert_allclose(cut[1], cut[0], atol=1e-6)


def test_the_manifest_is_told_the_scale_of_labels_by_similarity(
    model_dir: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    before = load_manifest(model_dir).zero_shot
    table = evaluate_table(model_dir, teacher, data, tmp_path / "report")
    folder = data / "named"
    folder.mkdir()
    named = {"text": ["hund", "katt"], "label": ["dog", "cat"]}
    pa.parquet.write_table(pa.table(named), folder / "sv.parquet")
    rows = {"folder": folder, "text_column": "text", "label_column": "label", "where": {}}
    table |= {"zero_shot": {"template": "{}", "rows": rows}}
    run(recipe(tmp_path / "run", evaluate=table))
    assert load_manifest(model_dir).zero_shot != before
