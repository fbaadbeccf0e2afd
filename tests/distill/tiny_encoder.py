"""A whole encoder folder in milliseconds: random weights, a real tokenizer, no download."""

import json
import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from distill.heads import Head, LexicalHead, save_head
from distill.lexical_head import vocabulary_of

torch.set_num_threads(1)  # a second thread only waits on an encoder of this size

WIDTH = 32
LAYERS = 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TEXTS = (
    "a dog",
    "the cat sleeps on the warm stone all day",
    "ein Hund läuft durch den Wald",
    "кошка спит",
    "猫が寝ている",
    "एक कुत्ता दौड़ता है",
)


def tiny_tokenizer(*, roberta: bool = False) -> Tokenizer:
    """The words of TEXTS and their characters, framed as BERT frames them; always the same ids.

    Not trained: training breaks ties by chance, and with it the weights that follow the ids.
    """
    special = ROBERTA_SPECIAL if roberta else SPECIAL
    unknown, first, last = (3, 0, 2) if roberta else (1, 2, 3)
    words = sorted({word for text in TEXTS for word in text.lower().split()})
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"▁{word}", -2.0) for word in words]
    pieces += [(character, -9.0) for character in sorted({"▁", *"".join(words)})]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    begin, end = special[first], special[last]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(begin, first), (end, last)],
    )
    return tokenizer


FAMILIES = ("bert", "xlm-roberta", "roberta", "distilbert", "modernbert")
FAMILY_LAYERS = 4
FAMILY_TOKENS = 48
"""The longest text that an encoder of `write_family` takes."""


def family_config(family: str, vocabulary: int, **changes: object) -> PretrainedConfig:
    """Settings of 4 layers x 32 with room for 48 tokens, under the names of the family."""
    settings: dict[str, object] = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "num_hidden_layers": FAMILY_LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": FAMILY_TOKENS,
    }
    roberta = {
        **settings,
        "pad_token_id": 1,
        "type_vocab_size": 1,
        "max_position_embeddings": FAMILY_TOKENS + 2,
    }
    modernbert = {
        **settings,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "pad_token_id": 0,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
    }
    distilbert = {
        "vocab_size": vocabulary,
        "dim": WIDTH,
        "n_layers": FAMILY_LAYERS,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": FAMILY_TOKENS,
    }
    kind, own = {
        "bert": (BertConfig, settings),
        "xlm-roberta": (XLMRobertaConfig, roberta),
        "roberta": (RobertaConfig, roberta),
        "distilbert": (DistilBertConfig, distilbert),
        "modernbert": (ModernBertConfig, modernbert),
    }[family]
    return kind(**own | changes)


def write_family(folder: Path, family: str, **changes: object) -> PreTrainedModel:
    """A folder of a family with its masked-language head and tokenizer; returns that model."""
    tokenizer = tiny_tokenizer(roberta="roberta" in family)
    torch.manual_seed(0)
    config = family_config(family, tokenizer.get_vocab_size(), **changes)
    with warnings.catch_warnings():  # ModernBERT's module loads torch's compiler, which is old
        warnings.simplefilter("ignore", DeprecationWarning)
        model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    roughen(model)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model.eval()


def roughen(model: torch.nn.Module) -> None:
    """Rougher than at birth, so that every weight, bias and norm tells."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 0.1)


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
    roughen(encoder)
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


def a_lexical_head(tokenizer: Tokenizer, *, classes: int = 3, **changes: object) -> LexicalHead:
    """Rough evidence of every piece; special tokens, which come first, say nothing."""
    generator = torch.Generator().manual_seed(7)
    table = torch.randn(tokenizer.get_vocab_size(), classes, generator=generator)
    table[: len(SPECIAL)] = 0
    settings = {
        "task": "language",
        "labels": tuple(f"language {index}" for index in range(classes)),
        "problem_type": "single",
        "table": table,
        "vocabulary": vocabulary_of(tokenizer),
        "temperature": 1.5,
    }
    return LexicalHead(**settings | changes)


def write_encoder_with_heads(folder: Path) -> Path:
    write_encoder(folder)
    save_head(folder, a_head("topic", temperature=0.7))
    save_head(folder, a_head("tags", classes=4, problem_type="multi", threshold=0.5))
    return folder
