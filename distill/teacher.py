"""Encoders of the families known, from a hub id or a folder, and how they are run."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PretrainedConfig

import distill.layered  # noqa: F401 - makes its family known to transformers
from distill.anatomy import PIECE_HEAD, Encoder, known_family
from distill.batches import Tokens
from distill.piece_head import HEADS, PieceHead, head_of, stored_head
from distill.sources import EncoderError, Source, readable, source_of
from distill.taps import mean_over_tokens

__all__ = [
    "Encoded",
    "Encoder",
    "EncoderError",
    "attention_here",
    "encode",
    "fingerprint_of",
    "load_encoder",
    "load_skeleton",
    "load_teacher",
    "tokenizer_file",
    "vocabularies_agree",
]

Attention = Literal["eager", "sdpa"]
WEIGHTS_FILE = "model.safetensors"
SAMPLED = 1000
"""Numbers of each tensor that a fingerprint looks at, about."""
DROPOUT = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
"""What the families call it in their configs."""


@dataclass(frozen=True)
class Encoded:
    """One forward pass of an encoder over some texts."""

    hidden: Tensor
    """Last hidden state, (B, T, H)."""
    pooled: Tensor
    """Mean of the last hidden state over real tokens, (B, H) float32."""


def encode(encoder: Encoder, tokens: Tokens) -> Encoded:
    """Run the encoder; its dropout and gradient mode are the caller's affair."""
    hidden = encoder(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
    return Encoded(hidden, mean_over_tokens(hidden, tokens.mask))


def attention_here() -> Attention:
    """How attention is computed on this machine.

    On CPUs by plain matrix products, which trains faster there than the fused kernel at sentence
    lengths (measured: 311 against 178 texts/s, 6 x 384, 32 tokens).
    """
    return "sdpa" if torch.cuda.is_available() else "eager"


def load_encoder(
    name: str,
    *,
    layers: int | None = None,
    pieces: bool = False,
    attention: Attention | None = None,
) -> Encoder:
    """Load an encoder in float32, without pooler and dropout; `layers` keeps the bottom ones.

    Matching a teacher is regression: dropout's noise has no place in it.

    Args:
        name: hub id, folder, or sentence-transformers folder that pools by the mean.
        layers: how many of its layers to keep, from the bottom; all if not given.
        pieces: load its masked-language head too, as a part of the encoder.
        attention: how it computes attention; as `attention_here` if not given.

    Raises:
        EncoderError: the encoder is missing or incomplete, of another family, has fewer layers,
            or no masked-language head where one is asked for.
    """
    source = source_of(name)
    config = _config(source, layers=layers)
    encoder, missing = _loaded(AutoModel, source, config, attention)
    if missing:
        # transformers fills them with random numbers and warns
        raise EncoderError(f"{name} lacks {len(missing)} of its weights, such as {missing[0]}")
    if pieces:
        setattr(encoder, PIECE_HEAD, _head(source, config))
    return encoder


def load_teacher(name: str, *, pieces: bool = False, attention: Attention | None = None) -> Encoder:
    """Load an encoder that stays as it is: evaluation mode, no gradient."""
    encoder = load_encoder(name, pieces=pieces, attention=attention)
    return encoder.eval().requires_grad_(False)


def load_skeleton(name: str, *, layers: int | None = None, pieces: bool = False) -> Encoder:
    """An encoder without its weights, for questions that shapes answer; reads config.json only.

    Raises:
        EncoderError: it is missing, of another family, or has fewer layers.
    """
    config = _config(source_of(name), layers=layers)
    with readable(name), torch.device("meta"):
        encoder = AutoModel.from_config(config, **_without_pooler(config))
        if pieces:
            setattr(encoder, PIECE_HEAD, PieceHead(config))
    return encoder


def tokenizer_file(name: str) -> Path:
    """Path of the encoder's tokenizer.json, local or from the hub.

    Raises:
        EncoderError: there is none.
    """
    found = source_of(name).file("tokenizer.json") or Source(name).file("tokenizer.json")
    if found is None:
        raise EncoderError(f"{name} has no tokenizer.json: a fast tokenizer is needed")
    return found


def fingerprint_of(encoder: Encoder) -> str:
    """Short hash of shapes and a sample of the weights: which encoder this is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        step = max(1, tensor.numel() // SAMPLED)
        digest.update(tensor.flatten()[::step].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def vocabularies_agree(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers give every piece the same id, as token-level losses need."""
    return bool(one.get_vocab() == other.get_vocab())


def _config(source: Source, *, layers: int | None) -> PretrainedConfig:
    with readable(source.name):
        config = AutoConfig.from_pretrained(source.name, subfolder=source.subfolder)
    known_family(config, source.name)
    if layers is not None and layers > config.num_hidden_layers:
        raise EncoderError(
            f"{source.name} has {config.num_hidden_layers} layers, fewer than {layers}"
        )
    config.num_hidden_layers = layers or config.num_hidden_layers
    for field in DROPOUT:
        if hasattr(config, field):
            setattr(config, field, 0.0)
    if hasattr(config, "body"):
        config.body = config.body[: config.num_hidden_layers]
    # ModernBERT would compile parts of itself
    if hasattr(config, "reference_compile"):
        config.reference_compile = False
    return config


def _loaded(
    kind: type[AutoModel],
    source: Source,
    config: PretrainedConfig,
    attention: Attention | None,
) -> tuple[Encoder, list[str]]:
    """A model, and the names of weights that its files lack."""
    whole = _without_pooler(config) if kind is AutoModel else {}
    with readable(source.name):
        model, loading = kind.from_pretrained(
            source.name,
            subfolder=source.subfolder,
            config=config,
            attn_implementation=attention or attention_here(),
            dtype=torch.float32,
            output_loading_info=True,
            **whole,
        )
    return model, sorted(loading["missing_keys"])


def _without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    with_pooler = config.model_type in ("bert", "xlm-roberta", "roberta")
    return {"add_pooling_layer": False} if with_pooler else {}


def _head(source: Source, config: PretrainedConfig) -> PieceHead:
    if (own := _stored(source)) is not None:
        return stored_head(config, own)
    if config.model_type not in HEADS:
        raise EncoderError(f"{source.name} has no masked-language head")
    model, missing = _loaded(AutoModelForMaskedLM, source, config, None)
    if missing:
        raise EncoderError(
            f"{source.name} has no masked-language head: it lacks {', '.join(missing)}. "
            "Objectives over pieces need an encoder saved with its head"
        )
    return head_of(model)


def _stored(source: Source) -> dict[str, Tensor] | None:
    """A head that this project saved as a part of an encoder."""
    if (path := source.file(WEIGHTS_FILE)) is None:
        return None
    prefix = f"{PIECE_HEAD}."
    with readable(source.name), safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
        return {n.removeprefix(prefix): file.get_tensor(n).float() for n in names} or None
