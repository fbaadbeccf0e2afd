"""A whole model folder in milliseconds: a real tokenizer, a real graph, no torch, no download.

The toy student knows a few words in two languages. "hund" and "dog" are one direction, "katt"
and "cat" another, "tax" a third; `pooled` is the mean of the words of a text. The head `topic`
tells animals from money; the head `same` reads pairs and asks whether both sides point the
same way.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from app.runtime.artifact import Manifest, save_manifest

WORDS = {
    "[PAD]": (9, 9, 9, 9),  # padding that leaks into an answer shows
    "[UNK]": (0, 0, 0, 1),
    "[CLS]": (0, 0, 0, 0),
    "[SEP]": (0, 0, 0, 0),
    "hund": (1, 0, 0, 0),
    "dog": (1, 0, 0, 0),
    "katt": (0, 1, 0, 0),
    "cat": (0, 1, 0, 0),
    "tax": (0, 0, 1, 0),
}
MAX_TOKENS = 8
HEADS = "float[4, 2] topic = {4, 0, 4, 0, 0, 4, 0, 0}, float[1, 2] sign = {1, -1}"

GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
toy (int64[B, T] input_ids, int64[B, T] attention_mask, int64[B, T] token_type_ids)
    => (float[B, 4] pooled, float[B, 2] logits_topic, float[B, 2] logits_same)
<float[%d, 4] table = {%s}, %s, int64[1] last = {2}, int64[1] time = {1}, float one = {1}, float nudge = {%s}>
{
    looked_up = Gather (table, input_ids)
    vectors = Add (looked_up, nudge)
    mask_bt = Cast <to = 1> (attention_mask)
    mask = Unsqueeze (mask_bt, last)
    side_bt = Cast <to = 1> (token_type_ids)
    side = Unsqueeze (side_bt, last)
    masked = Mul (vectors, mask)
    total = ReduceSum <keepdims = 0> (masked, time)
    count = ReduceSum <keepdims = 0> (mask, time)
    pooled = Div (total, count)
    logits_topic = MatMul (pooled, topic)
    of_second = Mul (masked, side)
    second = ReduceSum <keepdims = 0> (of_second, time)
    first = Sub (total, second)
    product = Mul (first, second)
    agreement = ReduceSum <keepdims = 1> (product, time)
    centred = Sub (agreement, one)
    logits_same = MatMul (centred, sign)
}
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    # Settings that must not matter: the service cuts and pads by itself.
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=20)
    tokenizer.save(str(path))


def write_graph(path: Path, *, nudge: float = 0.0, turn: int = 0) -> None:
    """`nudge` is added to every word, for a student that is not what its manifest says.

    Every word's numbers move by `turn` dimensions.
    """
    table = ", ".join(str(number) for vector in WORDS.values() for number in np.roll(vector, turn))
    text = GRAPH % (len(WORDS), table, HEADS, nudge)
    onnx.save(onnx.parser.parse_model(text), path)


def describe(folder: Path) -> dict[str, Any]:
    """The manifest of the toy student in `folder`, as plain data to be altered by tests."""
    graph = folder / "model.onnx"
    animal = float(1 / (1 + np.exp(-4 / 3)))
    variant = {
        "file": graph.name,
        "sha256": sha256(graph),
        "bytes": graph.stat().st_size,
        "precision": "fp32",
        "target": "cpu",
        "tolerance": {"min_cosine": 0.999, "max_probability_error": 0.001},
    }
    return {
        "name": "toy",
        "revision": "1",
        "license": "Apache-2.0",
        "languages": ["sv", "en"],
        "hidden_width": 4,
        "embedding_dimension": 4,
        "max_tokens": MAX_TOKENS,
        "tokenizer": {"file": "tokenizer.json", "sha256": sha256(folder / "tokenizer.json")},
        "variants": [variant],
        "tasks": {
            "topic": {"labels": ["animals", "money"]},
            "same": {"labels": ["yes", "no"], "pair": True, "problem_type": "multi"},
        },
        "golden": [
            {
                "text": "hund",
                "embedding": [1, 0, 0, 0],
                "probabilities": {"topic": [animal, 1 - animal]},
            },
            {"text": "katt", "embedding": [0, 1, 0, 0]},
        ],
        "provenance": {
            "teacher": "none",
            "recipe": "toy",
            "recipe_sha256": "0" * 64,
            "data_fingerprint": "none",
            "commit": "none",
            "created": "2026-01-01",
        },
    }


def write_model_dir(folder: Path, alter: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """A model folder that works, or that `alter` has made wrong on purpose."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer.json")
    write_graph(folder / "model.onnx")
    described = describe(folder)
    if alter is not None:
        alter(described)
    save_manifest(folder, Manifest.model_validate(described))
    return folder


def write_turned(
    folder: Path, *, turn: int = 1, name: str = "turned", revision: str = "1", dimensions: int = 3
) -> Path:
    """Another student: its words lie `turn` dimensions further, and it has the head `topic` only."""

    def alter(described: dict[str, Any]) -> None:
        graph = folder / "model.onnx"
        write_graph(graph, turn=turn)
        described["variants"][0]["sha256"] = sha256(graph)
        described |= {"name": name, "revision": revision, "embedding_dimension": dimensions}
        del described["tasks"]["same"]
        vector = [float(number) for number in np.roll(WORDS["hund"], turn)[:dimensions]]
        described["golden"] = [{"text": "hund", "embedding": vector}]

    return write_model_dir(folder, alter)


def meanings(texts: list[str], turn: int) -> np.ndarray:
    """(B, 4): the means of their words, special tokens included, by a student turned so far."""
    sums = [np.sum([WORDS[word] for word in text.split()], axis=0) for text in texts]
    lengths = [len(text.split()) + 2 for text in texts]
    return np.stack([np.roll(s / n, turn) for s, n in zip(sums, lengths, strict=True)])
