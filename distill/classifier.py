"""An encoder with one head that is trained with it: what full fine-tuning trains.

The head reads the unit embedding, exactly as it will be exported (see `distill.heads`), so that
what was selected on the development rows is what is served.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from app.runtime.calibration import Problem
from app.runtime.outputs import Floats
from app.runtime.tokenizer import Text
from distill.batches import Tokens, padded
from distill.heads import Head
from distill.objectives import full_precision
from distill.taps import mean_over_tokens
from distill.teacher import Encoder

BATCH_TEXTS = 32


@dataclass(frozen=True)
class Inputs:
    """Tokens of B texts, or pairs, and which text each is of."""

    tokens: Tokens
    segments: Tensor
    """(B, T) int64: 1 for the tokens of a pair's second text."""

    def to(self, device: torch.device) -> "Inputs":
        return Inputs(self.tokens.to(device), self.segments.to(device))


@dataclass(frozen=True)
class Read:
    """One text or pair as the encoder reads it: special tokens included, no padding."""

    ids: list[int]
    segments: list[int]
    framing: list[int]
    """Positions of the special tokens."""


def read(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Read]:
    """Tokenize texts and pairs; the longer text of a pair is cut first, as it will be served."""
    return [
        Read(each.ids, each.type_ids, np.flatnonzero(each.special_tokens_mask).tolist())
        for each in tokenizer.encode_batch_fast(list(texts))
    ]


def inputs_of(texts: Sequence[Read]) -> Inputs:
    """Pad B texts to (B, T)."""
    tokens = padded([text.ids for text in texts])
    segments = torch.zeros_like(tokens.ids)
    for row, text in enumerate(texts):
        segments[row, : len(text.segments)] = torch.tensor(text.segments)
    return Inputs(tokens, segments)


def embed(encoder: Encoder, inputs: Inputs) -> Tensor:
    """Pooled vectors of texts or pairs, (B, H) float32, not of unit length.

    Segments are told to encoders that know any; to the others both texts of a pair are one.
    """
    tokens = inputs.tokens
    given = {"input_ids": tokens.ids, "attention_mask": tokens.mask.long()}
    if getattr(encoder.config, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = inputs.segments
    return mean_over_tokens(encoder(**given).last_hidden_state, tokens.mask)


class Classifier(nn.Module):
    """Encoder -> masked mean -> unit vector -> C logits."""

    def __init__(self, encoder: Encoder, *, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    @classmethod
    def of(cls, encoder: Encoder, head: Head) -> "Classifier":
        """A classifier whose head was trained before."""
        classifier = cls(encoder, classes=len(head.labels))
        classifier.head = head.as_layer()
        return classifier

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, (B, C) float32."""
        return self.logits(self.embed(inputs))

    @full_precision
    def logits(self, unit: Tensor) -> Tensor:
        """(B, H) unit vectors -> (B, C) float32, under autocast too: so it will be served."""
        return functional.linear(unit, self.head.weight, self.head.bias)

    def embed(self, inputs: Inputs) -> Tensor:
        """Unit embeddings, (B, H) float32."""
        return functional.normalize(embed(self.encoder, inputs), dim=-1)

    @torch.no_grad()
    def all_logits(self, texts: Sequence[Read]) -> Floats:
        """Logits of all texts in their order, (N, C), without dropout."""
        training = self.training
        self.eval()
        found: Floats = np.empty((len(texts), self.head.out_features), dtype=np.float32)
        for rows in _by_length(texts):
            inputs = inputs_of([texts[row] for row in rows]).to(self.device)
            found[rows] = self(inputs).float().cpu().numpy()
        self.train(training)
        return found

    def as_head(
        self,
        task: str,
        labels: Sequence[str],
        problem: Problem,
        *,
        temperature: float = 1.0,
        threshold: float | None = None,
        pair: bool = False,
        provenance: dict[str, str] | None = None,
    ) -> Head:
        """The head by itself, as an encoder folder keeps it."""
        return Head(
            task=task,
            labels=tuple(labels),
            problem_type=problem,
            weight=self.head.weight.detach().float().cpu().clone(),
            bias=self.head.bias.detach().float().cpu().clone(),
            temperature=temperature,
            threshold=threshold,
            pair=pair,
            provenance=provenance or {},
        )


def _by_length(texts: Sequence[Read]) -> Iterator[list[int]]:
    order = sorted(range(len(texts)), key=lambda row: len(texts[row].ids))
    for start in range(0, len(order), BATCH_TEXTS):
        yield order[start : start + BATCH_TEXTS]
