"""Languages told apart by their pieces: fitted, kept, measured, trimmed."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_finetune import DOINGS, head_table, label_of, write_labelled
from tiny_encoder import a_head
from tiny_world import WORDS, World, recipe, sentences
from tokenizers import Tokenizer

from distill import trim
from distill.batches import padded
from distill.encoders import TorchEncoder
from distill.evaluate import run as evaluate
from distill.finetune import run
from distill.heads import LexicalHead, load_heads, save_head
from distill.labelled import read_labelled
from distill.lexical import FittedLexical, beginnings, fit_lexical, read_texts
from distill.reading import CorpusError
from distill.reliability import temperature_of
from distill.tables.finetune import FrozenTable, LexicalTable
from distill.tables.labelled import LabelledFolder, LabelledTable
from distill.tables.trim import TrimTable

LANGUAGES = tuple(sorted(WORDS))
SMOOTHING = 0.5


def lexical_table(world: World, **changes: object) -> LexicalTable:
    settings = {
        "task": "language",
        "corpus": [{"path": world.mono}],
        "languages": ["ru", "en", "zh", "de"],
        "texts_per_language": 60,
        "held_out_per_language": 20,
        "smoothing": SMOOTHING,
    }
    return LexicalTable.model_validate(settings | changes)


def fit(world: World, *, seed: int = 1, **changes: object) -> FittedLexical:
    table = lexical_table(world, **changes)
    return fit_lexical(world.teacher, table, read_texts(table, seed=seed), max_tokens=32)


@pytest.fixture(scope="module")
def fitted(world: World) -> FittedLexical:
    return fit(world)


def counts_of(world: World, texts: list[str]) -> Counter[int]:
    tokenizer = Tokenizer.from_file(str(world.teacher / "tokenizer.json"))
    tokenizer.no_padding()
    return Counter(id_ for text in texts for id_ in tokenizer.encode(text).ids if id_ >= 5)


def test_evidence_is_that_of_naive_bayes(world: World, fitted: FittedLexical) -> None:
    texts = read_texts(lexical_table(world), seed=1)
    counts = [counts_of(world, list(texts.learned[language])) for language in LANGUAGES]
    pieces = len(fitted.head.table)
    for piece in range(pieces):
        shares = [(c[piece] + SMOOTHING) / (c.total() + SMOOTHING * pieces) for c in counts]
        expected = np.log(shares) - np.log(shares).mean()
        if not any(c[piece] for c in counts):
            expected = np.zeros(4)  # never seen: it says nothing, and special tokens never do
        np.testing.assert_allclose(fitted.head.table[piece], expected, atol=1e-5)
    assert fitted.head.labels == LANGUAGES


def test_special_and_unseen_pieces_say_nothing(world: World) -> None:
    german = fit(world, languages=["de", "en"]).head.table
    tokenizer = Tokenizer.from_file(str(world.teacher / "tokenizer.json"))
    assert not german[:5].any()
    [chinese] = [id_ for piece, id_ in tokenizer.get_vocab().items() if piece == "狗"]
    assert not german[chinese].any()


def test_what_is_held_out_is_not_learned_from(world: World) -> None:
    texts = read_texts(lexical_table(world), seed=1)
    for language in LANGUAGES:
        assert len(texts.held_out[language]) == 20
        assert len(texts.learned[language]) == 40
        assert not set(texts.held_out[language]) & set(texts.learned[language])


def test_the_seed_tells_the_texts_and_the_head(world: World, fitted: FittedLexical) -> None:
    again, other = fit(world), fit(world, seed=2)
    assert torch.equal(again.head.table, fitted.head.table)
    assert again.head.temperature == fitted.head.temperature
    assert not torch.equal(other.head.table, fitted.head.table)


def test_accuracy_is_of_whole_texts_and_temperature_of_their_beginnings(
    world: World, tmp_path: Path
) -> None:
    """All languages begin alike and end each in a word of its own: beginnings are guesses."""
    foreign = ("de", "ru", "zh")
    for language in foreign:
        verb = WORDS[language][1][0]
        texts = [f"{text} {verb}" for text in sentences("en")]
        (tmp_path / f"{language}.txt").write_text("\n".join(texts), encoding="utf-8")
    corpus = {"corpus": [{"path": tmp_path}], "languages": foreign}
    found = fit(world, **corpus)
    assert found.accuracy == 1.0
    assert found.head.temperature == found.reliability.temperature
    assert found.reliability.rows == 60
    whole = np.concatenate(
        [
            found.head(padded([[*counts_of(world, [text])]])).numpy()
            for texts in read_texts(lexical_table(world, **corpus), seed=1).held_out.values()
            for text in texts
        ]
    )
    targets = np.eye(3, dtype=np.float32).repeat(20, axis=0)
    assert found.head.temperature > 1.05 * temperature_of(whole, targets, "single")


def test_beginnings_are_of_any_length() -> None:
    texts = [list(range(length)) for length in (0, 1, *[16] * 500)]
    found = beginnings(texts)
    assert found[:2] == [[], [0]]
    assert all(text == list(range(len(text))) for text in found)
    lengths = np.array([len(text) for text in found[2:]])
    for low, high in ((1, 2), (2, 4), (4, 8), (8, 16)):
        share = np.mean((lengths > low) & (lengths <= high))
        assert 0.15 < share < 0.35, (low, high)


def test_the_verb_adds_it_beside_the_linear_ones(world: World, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, source in zip(folders, (world.english, world.teacher), strict=True):
        shutil.copytree(source, folder)
    data = write_labelled(tmp_path / "rows.parquet", [label_of(text) for text in sentences("en")])
    table = {
        "method": "frozen",
        "encoders": folders,
        "heads": [head_table(data).model_dump()],
        "lexical": [lexical_table(world).model_dump()],
        "max_tokens": 32,
    }
    run(recipe(tmp_path / "run", finetune=table))
    for folder in folders:
        assert [type(head).__name__ for head in load_heads(folder).values()] == [
            "Head",
            "LexicalHead",
        ]
    served = TorchEncoder(folders[1], max_tokens=32)
    assert served.tasks["doing"].labels == tuple(sorted(set(DOINGS.values())))
    for language in LANGUAGES:
        logits = served.outputs(sentences(language))["logits_language"]
        assert np.mean(logits.argmax(1) == LANGUAGES.index(language)) > 0.95
    told = json.loads((folders[1] / "heads" / "language.json").read_text())["provenance"]
    assert set(told) == {"data", "ece"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"languages": ["de", "fr", "it"]}, "mono: no text of fr, it"),
        ({"held_out_per_language": 60}, "60 texts of de, of which 60 are held out"),
    ],
)
def test_text_that_teaches_nothing_is_refused(
    world: World, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(CorpusError, match=said):
        read_texts(lexical_table(world, **changes), seed=1)


def test_a_recipe_names_each_head_once_and_one_at_least(world: World) -> None:
    settings = {"method": "frozen", "encoders": [world.teacher], "max_tokens": 32}
    with pytest.raises(ValidationError, match="no head is asked for"):
        FrozenTable.model_validate(settings)
    twice = [lexical_table(world).model_dump()] * 2
    with pytest.raises(ValidationError, match="two heads are called 'language'"):
        FrozenTable.model_validate(settings | {"lexical": twice})


def test_languages_are_measured_by_the_files_that_texts_stand_in(
    world: World, fitted: FittedLexical, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(world.teacher, tmp_path / "encoder"))
    save_head(folder, fitted.head)
    asked = {
        "name": "language_mono",
        "task": "language",
        "metric": "accuracy",
        "meaning": "Which language",
        "rows": {"folder": world.mono, "text_column": "text", "label": "language", "where": {}},
    }
    table = {
        "encoders": {"tiny": str(folder)},
        "teacher": "tiny",
        "languages": ["en", "zh"],
        "source_language": "en",
        "split": "dev",
        "classification": [asked],
        "max_tokens": 32,
        "report": tmp_path / "report",
    }
    evaluate(recipe(tmp_path / "run", evaluate=table))
    found = json.loads((tmp_path / "report" / "evaluation.json").read_bytes())["tiny"]
    outputs = TorchEncoder(folder, max_tokens=32).outputs
    expected = {
        language: np.mean(
            outputs(sentences(language))["logits_language"].argmax(1) == LANGUAGES.index(language)
        )
        for language in ("en", "zh")
    }
    assert found["language_mono"] == pytest.approx(expected)


def test_labels_are_told_by_a_column_or_for_all_rows(world: World) -> None:
    rows = LabelledFolder(folder=world.mono, text_column="text", label="language", where={})
    found = read_labelled(rows.of("de"))
    assert found.texts == sentences("de")
    assert set(found.labels) == {"de"}
    path = world.mono / "de.parquet"
    for told in ({}, {"label": "a", "label_column": "text"}):
        with pytest.raises(ValidationError, match="either a label_column or a label"):
            LabelledTable.model_validate({"path": path, "text_column": "text", "where": {}} | told)


def test_a_trimmed_encoder_keeps_the_evidence_of_its_pieces(
    world: World, fitted: FittedLexical, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(world.teacher, tmp_path / "source"))
    save_head(source, fitted.head)
    save_head(source, a_head("topic"))
    settings = {
        "encoder": str(source),
        "folder": tmp_path / "smaller",
        "languages": ["de", "ru"],
        "corpus": [{"path": world.mono}],
        "texts_per_language": 1000,
        "min_share": 0.0,
        "piece_head": False,
    }
    trim.trim(TrimTable.model_validate(settings), seed=1)
    small = load_heads(tmp_path / "smaller")["language"]
    assert isinstance(small, LexicalHead)
    assert len(small.table) < len(fitted.head.table)
    texts = [*sentences("de"), *sentences("ru")]
    before, after = (
        TorchEncoder(folder, max_tokens=32).outputs(texts)["logits_language"]
        for folder in (source, tmp_path / "smaller")
    )
    np.testing.assert_array_equal(before, after)
