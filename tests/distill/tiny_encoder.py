"""A whole encoder folder in milliseconds: random weights, a real tokenizer, no download."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from distill.heads import Head, save_head

torch.set_num_threads(1)  # a second thread only waits on an encoder of this size

WIDTH = 32
LAYERS = 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXTS = (
    "a dog",
    "the cat sleeps on the warm stone all day",
    "ein Hund läuft durch den Wald",
    "кошка спит",
    "猫が寝ている",
    "एक कुत्ता दौड़ता है",
)


def tiny_tokenizer() -> Tokenizer:
    """The words of TEXTS and their characters, framed as BERT frames them; always the same ids.

    Not trained: training breaks ties by chance, and with it the weights that follow the ids.
    """
    words = sorted({word for text in TEXTS for word in text.lower().split()})
    pieces = [(special, 0.0) for special in SPECIAL]
    pieces += [(f"▁{word}", -2.0) for word in words]
    pieces += [(character, -9.0) for character in sorted({"▁", *"".join(words)})]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("[UNK]")))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def write_encoder(folder: Path, **changes: object) -> Path:
    """A BERT encoder of 2 layers x 32 with its tokenizer; `changes` go into its config."""
    write_bert(folder, tiny_tokenizer(), **changes)
    origin = {"teacher": "a-teacher", "data_fingerprint": "f1a9"}
    (folder / "provenance.json").write_text(json.dumps(origin))
    return folder


def write_bert(folder: Path, tokenizer: Tokenizer, **changes: object) -> None:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
    }
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(**settings | changes), add_pooling_layer=False)
    with torch.no_grad():  # rougher than at birth, so that every weight, bias and norm tells
        for parameter in encoder.parameters():
            parameter += torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 0.1)
    encoder.save_pretrained(folder)


def a_head(task: str, *, classes: int = 3, **changes: object) -> Head:
    generator = torch.Generator().manual_seed(len(task))
    settings = {
        "task": task,
        "labels": tuple(f"label {index}" for index in range(classes)),
        "problem_type": "single",
        "weight": torch.randn(classes, WIDTH, generator=generator) * 3,
        "bias": torch.randn(classes, generator=generator),
        "temperature": 1.0,
        "threshold": None,
        "pair": False,
    }
    return Head(**settings | changes)


def write_encoder_with_heads(folder: Path) -> Path:
    write_encoder(folder)
    save_head(folder, a_head("topic", temperature=0.7))
    save_head(folder, a_head("tags", classes=4, problem_type="multi", threshold=0.5))
    return folder
