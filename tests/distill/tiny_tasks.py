"""Tasks over the tiny world's sentences: what a creature does, and where."""

import itertools
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet
from tiny_encoder import write_bert
from tiny_world import WORDS, World, sentences
from tokenizers import Tokenizer

DOING = ("rest", "food", "rest", "song")
"""A label for each verb."""
PLACE = ("home", "river", "town")
PARTS = list(itertools.product(range(6), range(4), range(3)))
"""Of each sentence: its creature, verb and place."""
LANGUAGES = tuple(WORDS)


def write_polyglot(folder: Path, world: World) -> Path:
    """An encoder that reads all four languages and learns a task in a second."""
    write_bert(folder, Tokenizer.from_file(str(world.teacher / "tokenizer.json")))
    return folder


def write_topics(folder: Path) -> Path:
    """LANG.parquet: the label is that of the verb; every third row is of the split dev."""
    folder.mkdir()
    for language in LANGUAGES:
        columns = {
            "text": sentences(language),
            "label": [DOING[verb] for _, verb, _ in PARTS],
            "split": ["dev" if row % 3 == 2 else "train" for row in range(len(PARTS))],
        }
        pa.parquet.write_table(pa.table(columns), folder / f"{language}.parquet")
    return folder


def write_tags(path: Path) -> Path:
    """Both labels, of verb and of place; sentences in town have the verb's alone."""
    labels = [[DOING[verb], *([PLACE[place]] if place < 2 else [])] for _, verb, place in PARTS]
    pa.parquet.write_table(pa.table({"text": sentences("en"), "label": labels}), path)
    return path


def write_pairs(path: Path) -> Path:
    """Sentence beside verb: whether it is the sentence's."""
    texts, verbs = sentences("en"), WORDS["en"][1]
    rows = [
        (text, verbs[(verb + shift) % 4], "yes" if shift == 0 else "no")
        for (text, (_, verb, _)) in zip(texts, PARTS, strict=True)
        for shift in (0, 1)
    ]
    first, second, label = (list(column) for column in zip(*rows, strict=True))
    pa.parquet.write_table(pa.table({"first": first, "second": second, "label": label}), path)
    return path


SCHEDULE = {
    "epochs": 4,
    "batch_texts": 8,
    "learning_rate": 5e-3,
    "head_learning_rate": 0.1,
    "warmup_share": 0.1,
    "weight_decay": 0.01,
    "max_gradient_norm": 1.0,
    "freeze_embeddings": False,
    "precision": "fp32",
}


def rows_of(path: Path, **changes: object) -> dict[str, object]:
    """A table of labelled text."""
    return {"path": path, "text_column": "text", "label_column": "label", "where": {}} | changes


def full_table(encoder: Path, data: dict[str, object], **changes: object) -> dict[str, object]:
    return {
        **SCHEDULE,
        "method": "full",
        "encoders": {"tiny": encoder},
        "seeds": [1],
        "task": "doing",
        "problem": "single",
        "data": data,
        "development": {"share": 0.2},
        "max_tokens": 32,
        "source_language": "en",
    } | changes


def topic_table(topics: Path, encoder: Path, **changes: object) -> dict[str, object]:
    """Trained and chosen on English, measured in all four languages."""
    english = topics / "en.parquet"
    settings = {
        "development": rows_of(english, where={"split": "dev"}),
        "measured": {
            "folder": topics,
            "text_column": "text",
            "label_column": "label",
            "where": {"split": "dev"},
        },
        "languages": LANGUAGES,
    }
    return full_table(encoder, rows_of(english, where={"split": "train"}), **settings | changes)


def report_of(folder: Path) -> list[dict[str, object]]:
    runs: list[dict[str, object]] = orjson.loads((folder / "finetune.json").read_bytes())["runs"]
    return runs


def kd_table(teacher: Path, **changes: object) -> dict[str, object]:
    return {
        "teacher": teacher,
        "divergence": "kl",
        "temperature": 2.0,
        "hard_weight": 0.5,
        "soft_weight": 0.5,
    } | changes


def unlabelled(world: World) -> dict[str, object]:
    return {
        "unlabelled_weight": 3.0,
        "unlabelled": [{"path": world.mono, "languages": ["de", "ru"]}],
        "unlabelled_batch_texts": 4,
    }
