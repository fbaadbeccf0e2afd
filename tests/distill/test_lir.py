"""Language information removal: what is found, what is left, and what a folder then serves."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
import pytest
from tiny_encoder import TEXTS
from tiny_model import write_model_dir
from tiny_world import FOREIGN, WORDS, World, recipe, sentences

from app.runtime.artifact import ClassificationTask, load_manifest, save_manifest
from app.runtime.outputs import Floats, unit_vectors
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from distill import lir
from distill.config import RecipeError
from distill.encoders import TorchEncoder, embeddings
from distill.int8 import int8
from distill.languages import (
    Directions,
    LanguageError,
    fit_directions,
    fold,
    leading,
    load_directions,
    save_directions,
    without,
)
from distill.padding import with_padding
from distill.parity import ParityError
from distill.tables.lir import ApplyTable, FitTable, MeasureTable

WIDTH = 32


def some(rows: int = 40, width: int = WIDTH, seed: int = 0) -> Floats:
    return unit_vectors(
        np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32), width
    )


def test_the_first_direction_is_worked_out_by_hand() -> None:
    # columns (3, 0), (0, 1): M M' = diag(9, 1)
    found = leading(np.array([[3, 0], [0, 1]], dtype=np.float32), 1)
    assert np.abs(found) == pytest.approx(np.array([[1], [0]]), abs=1e-6)


def test_the_matrix_is_not_centred() -> None:
    shifted = some() * 0.1 + np.eye(WIDTH, dtype=np.float32)[3]
    assert np.abs(leading(shifted, 1)[3, 0]) > 0.99


def test_what_is_left_has_nothing_along_the_directions_and_loses_nothing_else() -> None:
    rows, directions = some(), leading(some(seed=1), 3)
    left = without(rows, directions)
    assert left @ directions == pytest.approx(np.zeros((40, 3)), abs=1e-6)
    assert without(left, directions) == pytest.approx(left, abs=1e-6)
    across = rows - rows @ directions @ directions.T
    assert left == pytest.approx(across, abs=1e-6)


def test_languages_that_differ_by_a_shift_meet_once_it_is_removed() -> None:
    """Sentences mean the same in both languages; each language adds a vector of its own."""
    meaning = some() * 0.5
    axis = np.eye(WIDTH, dtype=np.float32)
    meaning[:, :2] = 0
    spoken = {"a": meaning + 2 * axis[0], "b": meaning + 2 * axis[1]}
    unit = {language: unit_vectors(rows, WIDTH) for language, rows in spoken.items()}
    found = fit_directions(unit, rank=1)
    left = {
        language: unit_vectors(found.removed(rows, rank=1, language=language), WIDTH)
        for language, rows in unit.items()
    }
    before = (unit["a"] * unit["b"]).sum(1).mean()
    assert before < 0.1
    assert (left["a"] * left["b"]).sum(1).min() > 0.9


def test_directions_of_all_are_those_of_the_languages_means() -> None:
    spoken = {"a": some(seed=1), "b": some(seed=2), "c": some(seed=3)}
    found = fit_directions(spoken, rank=2)
    means = np.stack([rows.mean(0) for rows in spoken.values()])
    assert found.of_all == pytest.approx(leading(means, 2))
    # the rest of the means is in the plane of the third direction alone
    assert np.linalg.matrix_rank(without(means, found.of_all), tol=1e-5) == 1


def test_what_was_not_fitted_is_refused() -> None:
    found = fit_directions({"a": some(), "b": some(seed=1)}, rank=2)
    with pytest.raises(LanguageError, match="no directions of 'sw' were fitted; known: a, b"):
        found.removed(some(), rank=1, language="sw")
    with pytest.raises(LanguageError, match="rank 3 is asked for; 2 were fitted"):
        found.removed(some(), rank=3)
    with pytest.raises(LanguageError, match="2 embeddings of width 32 have no 3 directions"):
        fit_directions({"a": some(), "b": some()}, rank=3)


def test_directions_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = fit_directions({"b": some(), "a": some(seed=1)}, rank=2)
    save_directions(tmp_path / "new" / "lir.safetensors", found)
    again = load_directions(tmp_path / "new" / "lir.safetensors")
    assert np.array_equal(again.of_all, found.of_all)
    assert [*again.of_language] == ["b", "a"]
    assert np.array_equal(again.of_language["a"], found.of_language["a"])
    (tmp_path / "not").write_text("no tensors")
    for name in ("not", "none"):
        with pytest.raises(LanguageError, match=rf"{name} does not hold directions"):
            load_directions(tmp_path / name)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_dir(tmp_path_factory.mktemp("lir"))


def table(model_dir: Path, folder: Path, **changes: object) -> ApplyTable:
    settings = {"model_dir": model_dir, "folder": folder, "revision": "2", "rank": 2}
    return ApplyTable.model_validate(settings | changes)


def served(folder: Path, precision: str) -> dict[str, np.ndarray]:
    manifest = load_manifest(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json", max_tokens=48)
    session = StudentSession.load(
        folder, manifest, device="cpu", precision=precision, intra_op_threads=1
    )
    session.self_test(tokenizer)
    return session.run(tokenizer.encode(TEXTS, truncate=False))


DIRECTIONS = fit_directions({"a": some(seed=1), "b": some(seed=2)}, rank=2)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_folder_serves_projected_vectors_and_the_same_labels(
    model_dir: Path, tmp_path: Path, precision: str
) -> None:
    lir.apply_to(table(model_dir, tmp_path / "new"), DIRECTIONS)
    before, after = served(model_dir, precision), served(tmp_path / "new", precision)
    assert after["pooled"] == pytest.approx(without(before["pooled"], DIRECTIONS.of_all), abs=1e-5)
    assert np.abs(after["pooled"] - before["pooled"]).max() > 0.1
    for task in ("logits_topic", "logits_tags"):
        assert np.array_equal(after[task], before[task])


def test_every_variant_goes_along_and_old_scores_do_not(model_dir: Path, tmp_path: Path) -> None:
    old = load_manifest(model_dir)
    measured = old.provenance.model_copy(update={"metrics": {"int8": {"sts": {"en": 0.5}}}})
    copy = Path(shutil.copytree(model_dir, tmp_path / "old"))
    save_manifest(copy, old.model_copy(update={"provenance": measured}))
    new = lir.apply_to(table(copy, tmp_path / "new"), DIRECTIONS)
    assert [v.target for v in new.variants] == [v.target for v in old.variants]
    assert (new.revision, new.provenance.metrics) == ("2", {})
    assert new == load_manifest(tmp_path / "new")


def test_a_graph_can_be_made_smaller_afterwards(model_dir: Path) -> None:
    model = onnx.load(model_dir / "student-fp32.onnx")
    fold(model, DIRECTIONS.of_all)
    with_padding(model)
    tokenizer = Tokenizer.load(model_dir / "tokenizer.json", max_tokens=48)
    int8(model, tokenizer.encode(TEXTS, truncate=True), saturates=True)
    with pytest.raises(LanguageError, match="before"):
        fold(model, DIRECTIONS.of_all)


def test_what_does_not_fit_a_folder_is_refused(model_dir: Path, tmp_path: Path) -> None:
    narrow = Directions({}, leading(some(width=8), 1))
    with pytest.raises(LanguageError, match=r"directions are 8 wide; .* is 32, of which 32"):
        lir.apply_to(table(model_dir, tmp_path / "new", rank=1), narrow)
    with pytest.raises(LanguageError, match="rank 5 is asked for; 2 were fitted"):
        lir.apply_to(table(model_dir, tmp_path / "new", rank=5), DIRECTIONS)


def test_a_variant_that_does_not_give_the_golden_outputs_leaves_nothing(
    model_dir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(model_dir, tmp_path / "old"))
    manifest = load_manifest(copy)
    turned = [g.model_copy(update={"embedding": g.embedding[::-1]}) for g in manifest.golden]
    save_manifest(copy, manifest.model_copy(update={"golden": tuple(turned)}))
    with pytest.raises(ParityError, match="golden texts"):
        lir.apply_to(table(copy, tmp_path / "new"), DIRECTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def lir_tables(world: World, folder: Path, model_dir: Path) -> dict[str, object]:
    measured = folder / "sts"
    measured.mkdir()
    pairs = sentences("en")
    similar = {"sentence1": pairs[:-1], "sentence2": pairs[1:], "score": [*range(len(pairs) - 1)]}
    columns = similar | {"split": ["dev"] * (len(pairs) - 1)}
    pa.parquet.write_table(pa.table(columns), measured / "en.parquet")
    return {
        "directions": folder / "lir.safetensors",
        "fit": {
            "source": str(world.teacher),
            "languages": [*WORDS],
            "corpus": [{"path": world.mono}],
            "texts_per_language": 50,
            "rank": 2,
            "max_tokens": 32,
        },
        "apply": {"model_dir": model_dir, "folder": folder / "new", "revision": "2", "rank": 1},
        "measure": {
            "source": str(world.teacher),
            "languages": [*WORDS],
            "source_language": "en",
            "tatoeba": world.parallel,
            "sts": measured,
            "split": "dev",
            "max_sts_pairs": 20,
            "max_tokens": 32,
        },
    }


def test_the_three_commands_follow_one_recipe(
    world: World, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = recipe(tmp_path, lir=lir_tables(world, tmp_path, model_dir))
    lir.fit(loaded)
    lir.measure(loaded)
    assert "of each, 2" in capsys.readouterr().out
    lir.apply(loaded)
    assert served(tmp_path / "new", "fp32")["pooled"].shape == (len(TEXTS), WIDTH)


def test_scores_are_those_of_what_is_left(world: World, model_dir: Path, tmp_path: Path) -> None:
    tables = lir_tables(world, tmp_path, model_dir)
    measured = MeasureTable.model_validate(tables["measure"])
    encoder = TorchEncoder(world.teacher, max_tokens=32)
    found = fit_directions({name: embeddings(encoder, sentences(name)) for name in WORDS}, rank=1)
    scores = lir.scores(encoder, measured, found)
    assert [*scores] == ["as it is", "of all, 1", "of each, 1"]
    assert set(scores["as it is"].to_source) == set(FOREIGN)
    german, english = (
        without(embeddings(encoder, sentences(language)), found.of_language[language])
        for language in ("de", "en")
    )
    right = 0
    for row, vector in enumerate(german):
        cosines = english @ vector / np.linalg.norm(english, axis=1)
        right += int(cosines.argmax() == row)
    assert scores["of each, 1"].to_source["de"] == pytest.approx(right / len(german))


class Spoken:
    """An encoder that knows each sentence's vector."""

    tasks: ClassVar[dict[str, ClassificationTask]] = {}

    def __init__(self, vectors: dict[str, Floats]) -> None:
        self._vectors = {
            text: row
            for language, rows in vectors.items()
            for text, row in zip(sentences(language), rows, strict=True)
        }

    def outputs(self, texts: Sequence[str]) -> dict[str, Floats]:
        return {"pooled": np.stack([self._vectors[text] for text in texts])}


def test_each_side_of_a_pair_loses_its_own_language(
    world: World, model_dir: Path, tmp_path: Path
) -> None:
    """English goes astray along an axis that is its own; German has a little of it."""
    settings = lir_tables(world, tmp_path, model_dir)["measure"] | {"languages": ["en", "de"]}
    axis = np.eye(WIDTH, dtype=np.float32)
    german = some(len(sentences("de")))
    german[:, 30:] = (0, 0.5)
    english = german.copy()
    english[:, 31] = np.random.default_rng(1).uniform(-3, 3, len(english))
    of_each = Directions({"en": axis[:, 31:], "de": axis[:, 30:31]}, axis[:, :1])
    encoder = Spoken({"de": german, "en": english})
    found = lir.scores(encoder, MeasureTable.model_validate(settings), of_each)
    assert found["of each, 1"].to_source["de"] == found["of each, 1"].from_source["de"] == 1
    assert found["as it is"].to_source["de"] < 0.9


def test_bad_input_is_named(world: World, model_dir: Path, tmp_path: Path) -> None:
    tables = lir_tables(world, tmp_path, model_dir)
    with pytest.raises(RecipeError, match=r"no \[lir\] table"):
        lir.fit(recipe(tmp_path))
    with pytest.raises(RecipeError, match=r"no \[lir.fit\] table"):
        lir.fit(recipe(tmp_path, lir={"directions": tmp_path / "a"}))
    tables["fit"]["languages"] = ["de", "sw"]
    with pytest.raises(RecipeError, match="no text of sw; it has: de, en, ru, zh"):
        lir.fit(recipe(tmp_path, lir=tables))
    with pytest.raises(LanguageError, match=r"lir\.safetensors does not hold directions"):
        lir.apply(recipe(tmp_path, lir=tables))
    with pytest.raises(ValueError, match="2 languages have no 3 directions together"):
        FitTable.model_validate(tables["fit"] | {"rank": 3})
