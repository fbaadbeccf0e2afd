"""Folders of others, several seeds of one system, and heads fitted for those without."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
from tiny_world import recipe
from toy_student import WORDS, describe, write_graph

from app.runtime.artifact import Manifest, save_manifest
from distill.adapters import AdaptedEncoder, AdapterError
from distill.config import RecipeError
from distill.encoders import FolderEncoder
from distill.evaluate import run
from distill.tables.evaluate import AdapterTable

ADAPTER = {
    "graph": "model.onnx",
    "tokenizer": "tokenizer.json",
    "ids": "input_ids",
    "mask": "attention_mask",
    "types": "token_type_ids",
    "output": "pooled",
    "pooling": "none",
    "max_tokens": 8,
}
TEXTS = ["hund", "katt katt tax", "dog tax", "a b c d e f g h i j"]

WORD_GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
words (int64[B, T] tokens) => (float[B, T, 4] hidden)
<float[%d, 4] table = {%s}> { hidden = Gather (table, tokens) }
"""


@pytest.fixture
def peer(toy_model_dir: Path, tmp_path: Path) -> Path:
    """The toy student's graph and tokenizer, without a manifest; and a graph of words alone."""
    folder = tmp_path / "peer"
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copy(toy_model_dir / name, folder / name)
    table = ", ".join(str(number) for vector in WORDS.values() for number in vector)
    onnx.save(onnx.parser.parse_model(WORD_GRAPH % (len(WORDS), table)), folder / "words.onnx")
    return folder


def adapted(folder: Path, **changes: object) -> AdaptedEncoder:
    return AdaptedEncoder(folder, AdapterTable.model_validate(ADAPTER | changes), threads=1)


def test_a_folder_of_others_is_read_as_its_adapter_says(peer: Path, toy_model_dir: Path) -> None:
    served = FolderEncoder(toy_model_dir, precision="fp32", threads=1).outputs(TEXTS)["pooled"]
    np.testing.assert_allclose(adapted(peer).outputs(TEXTS)["pooled"], served, atol=1e-6)

    words = {"graph": "words.onnx", "ids": "tokens", "output": "hidden", "types": None}
    words["mask"] = None
    mean = adapted(peer, **words, pooling="mean").outputs(TEXTS)["pooled"]
    np.testing.assert_allclose(mean, served, atol=1e-6)
    first = adapted(peer, **words, pooling="cls").outputs(TEXTS)["pooled"]
    assert not first.any()  # the vector of [CLS]


def test_a_prefix_is_put_before_every_text(peer: Path) -> None:
    prefixed = adapted(peer, prefix="tax ").outputs(["hund", "katt"])["pooled"]
    plain = adapted(peer).outputs(["tax hund", "tax katt"])["pooled"]
    np.testing.assert_array_equal(prefixed, plain)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"graph": "onnx/model.onnx"}, r"peer/onnx/model\.onnx does not exist"),
        ({"types": None}, "reads attention_mask, input_ids, token_type_ids; the adapter names"),
        ({"output": "last_hidden_state"}, "gives logits_same, logits_topic, pooled, not last"),
        ({"pooling": "mean"}, r"has shape \(1, 4\); pooling 'mean' reads \(B, T, H\)"),
        ({"tokenizer": "model.onnx"}, "is not a tokenizer"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    peer: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(AdapterError, match=said):
        adapted(peer, **changes).outputs(["hund"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Topics and pairs in English and Swedish; the pairs that are alike are "yes"."""

    def write(name: str, **columns: list[object]) -> None:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(pa.table(columns), path)

    for language, animals in (("en", ["dog", "cat"]), ("sv", ["hund", "katt"])):
        write(
            f"topic/{language}.parquet",
            text=[*animals, "tax", "tax tax"],
            label=["animals", "animals", "money", "money"],
            split=["dev"] * 4,
        )
        write(
            f"pairs/{language}.parquet",
            premise=[animals[0], animals[0], animals[1]],
            hypothesis=["dog", "cat", "cat"],
            label=[["yes"], ["no"], ["yes"]],
        )
    return tmp_path / "data"


def evaluate_table(toy: Path, peer: Path, data: Path, report: Path) -> dict[str, object]:
    return {
        "systems": [
            {"name": "toy", "folders": [toy], "precision": "fp32"},
            {"name": "peer", "folders": [peer], "adapter": ADAPTER},
        ],
        "teacher": "toy",
        "languages": ["en", "sv"],
        "source_language": "en",
        "split": "dev",
        "topic": data / "topic",
        "max_tokens": 8,
        "report": report,
    }


def scores_of(folder: Path, name: str = "evaluation.json") -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = orjson.loads((folder / name).read_bytes())
    return found


def test_any_number_of_folders_is_measured_alike(
    toy_model_dir: Path, peer: Path, data: Path, tmp_path: Path
) -> None:
    probe = {
        "task": "topic",
        "inverse_regularization": 100.0,
        "data": {
            "path": data / "topic" / "en.parquet",
            "text_column": "text",
            "label_column": "label",
            "where": {"split": "dev"},
        },
    }
    pairs = {
        "name": "alike",
        "task": "same",
        "metric": "micro_f1",
        "meaning": "Pairs, micro-F1",
        "rows": {
            "folder": data / "pairs",
            "text_column": "premise",
            "pair_column": "hypothesis",
            "label_column": "label",
            "where": {},
        },
    }
    table = evaluate_table(toy_model_dir, peer, data, tmp_path / "report")
    table |= {"probes": [probe], "classification": [pairs]}
    run(recipe(tmp_path / "run", evaluate=table))
    found = scores_of(tmp_path / "report")
    assert found["toy"] == {
        "topic": {"en": 1.0, "sv": 1.0},
        # two sides of one direction: yes and no at 0.5 each, so both are given; of two: no alone
        "alike": {"en": 0.75, "sv": 0.75},  # F1 = 2 * 3 / (5 + 3)
    }
    # without a head of its own, it got one that was fitted on its embeddings of English
    assert found["peer"] == {"topic": {"en": 1.0, "sv": 1.0}}
    assert "### Pairs, micro-F1" in (tmp_path / "report" / "evaluation.md").read_text()


def test_a_system_without_the_head_gets_no_score(
    toy_model_dir: Path, peer: Path, data: Path, tmp_path: Path
) -> None:
    table = evaluate_table(toy_model_dir, peer, data, tmp_path / "report")
    run(recipe(tmp_path / "run", evaluate=table))
    assert scores_of(tmp_path / "report") == {"toy": {"topic": {"en": 1.0, "sv": 1.0}}, "peer": {}}


def test_folders_of_one_system_give_a_spread(
    toy_model_dir: Path, peer: Path, data: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(toy_model_dir, tmp_path / "other"))
    write_graph(other / "model.onnx", nudge=-2.0)
    save_manifest(other, Manifest.model_validate(describe(other)))
    table = evaluate_table(toy_model_dir, peer, data, tmp_path / "report")
    table["systems"] = [
        {"name": "toy", "folders": [toy_model_dir, other], "precision": "fp32"},
    ]
    run(recipe(tmp_path / "run", evaluate=table))
    single = FolderEncoder(other, precision="fp32", threads=1)
    logits = single.outputs(["hund", "katt", "tax", "tax tax"])["logits_topic"]
    right = float(np.mean(logits.argmax(1) == [0, 0, 1, 1]))
    assert right < 1
    assert scores_of(tmp_path / "report")["toy"]["topic"]["sv"] == (1 + right) / 2
    others = scores_of(tmp_path / "report", "summary.json")["toy"]["topic"]["others"]
    assert others["spread"] == pytest.approx((1 - right) / 2**0.5)
    assert f"{(1 + right) / 2:.3f} ±" in (tmp_path / "report" / "evaluation.md").read_text()


def test_a_system_called_as_a_variant_is_refused(
    toy_model_dir: Path, peer: Path, data: Path, tmp_path: Path
) -> None:
    table = evaluate_table(toy_model_dir, peer, data, tmp_path / "report")
    table |= {"model_dir": toy_model_dir, "description": "A toy.", "weaknesses": ["All."]}
    table["systems"][1]["name"] = "fp32"
    with pytest.raises(RecipeError, match="a system is called 'fp32', as a variant of"):
        run(recipe(tmp_path / "run", evaluate=table))
