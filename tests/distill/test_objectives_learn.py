"""Every kind of objective teaches a tiny student: its loss falls, and on texts that it has not
seen it comes to agree with its teacher.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import pytest
import torch
from tiny_objectives import CODIR, DISTILBERT, MINILM, MINILM2, TINYBERT, objective
from tiny_world import FOREIGN, LIGHTMBERT, SENTENCE, World, sentences
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize

from distill.anatomy import PIECE_HEAD, Encoder, anatomy
from distill.batches import Batch, Masked, load_tokenizer, tokenize
from distill.losses import Losses
from distill.masking import NOT_ASKED
from distill.matching import match_of
from distill.matching.codir import CodirMatch
from distill.objectives.lightmbert import attention_log_probs
from distill.piece_head import PieceHead
from distill.taps import Observer, View, Wants
from distill.teacher import load_encoder, load_teacher

ROWS = range(len(sentences("en")))
HELD_OUT = [row for row in ROWS if row % 4 == 0]
SEEN = [row for row in ROWS if row % 4]
TEXTS = 10
"""Of each language in a batch."""


def batch_of(tokenizer: Tokenizer, of_english: Tokenizer, rows: Sequence[int], seed: int) -> Batch:
    """Those sentences in every foreign language, with their English and pieces hidden."""
    texts = [sentences(language)[row] for language in FOREIGN for row in rows]
    english = [sentences("en")[row] for _ in FOREIGN for row in rows]
    languages = torch.arange(len(FOREIGN)).repeat_interleave(len(rows))
    text = tokenize(tokenizer, texts)
    return Batch(
        text,
        tokenize(tokenizer, english),
        tokenize(of_english, english),
        languages,
        masked(tokenizer, text.ids, text.mask, seed),
    )


def masked(tokenizer: Tokenizer, ids: Tensor, mask: Tensor, seed: int) -> Masked:
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    hidden &= mask & (ids > 4)  # no special piece
    return Masked(
        ids.masked_fill(hidden, tokenizer.token_to_id("[MASK]")),
        ids.masked_fill(~hidden, NOT_ASKED),
    )


Agreement = Callable[[Losses, View, View], float]


def of_hidden(losses: Losses, student: View, teacher: View) -> float:
    """Mean cosine of last hidden states."""
    cosines = torch.cosine_similarity(student.last_hidden, teacher.last_hidden, dim=-1)
    return float(cosines[student.mask].mean())


def of_pieces(losses: Losses, student: View, teacher: View) -> float:
    """Share of tokens at which both think of the same piece first."""
    assert student.piece_logits is not None
    assert teacher.piece_logits is not None
    same = student.piece_logits.argmax(-1) == teacher.piece_logits.argmax(-1)
    return float(same[student.mask].float().mean())


def of_values(layer: int) -> Agreement:
    """Overlap of the value relations of the student's last layer and a teacher's layer."""

    def agreement(losses: Losses, student: View, teacher: View) -> float:
        values = student.attention[2].value, teacher.attention[layer].value
        one, other = (attention_log_probs(each, each, student.mask).exp() for each in values)
        overlap = torch.minimum(one, other).sum(-1).mean(1)  # (B, T)
        return float(overlap[student.mask].mean())

    return agreement


def of_texts(losses: Losses, student: View, teacher: View) -> float:
    """Share of texts that the teacher's representation finds among those of the language."""
    match = losses.matches["codir"]
    assert isinstance(match, CodirMatch)
    told = match.student_projection(match.told(student, (1, 2)))
    wanted = match.teacher_projection(match.told(teacher, (2, 4)))
    found = (normalize(wanted) @ normalize(told).T).unflatten(0, (len(FOREIGN), -1))
    texts = found.shape[1]
    nearest = torch.stack(
        [
            rows.unflatten(1, (len(FOREIGN), -1))[:, language].argmax(1)
            for language, rows in enumerate(found)
        ]
    )
    return float((nearest == torch.arange(texts)).float().mean())


@dataclass(frozen=True)
class Lesson:
    """Objectives, what shows that they are learnt, and how long that takes."""

    tables: list[dict[str, object]]
    agreement: Agreement
    steps: int = 30
    rate: float = 5e-3


KINDS = {
    "lightmbert": Lesson([LIGHTMBERT], of_hidden),
    "probabilities": Lesson([LIGHTMBERT | {"attention": "probabilities"}], of_hidden),
    "tinybert": Lesson([TINYBERT], of_hidden),
    "predictions": Lesson([TINYBERT | {"prediction_weight": 1.0}], of_pieces),
    "distilbert": Lesson([DISTILBERT], of_pieces),
    "real tokens": Lesson([DISTILBERT | {"tokens": "real"}], of_pieces),
    "minilm": Lesson([MINILM], of_values(4)),
    "minilm2": Lesson([MINILM2], of_values(3)),
    "codir": Lesson([CODIR | {"queue": 0}], of_texts, rate=1e-3),
    "nce": Lesson([CODIR | {"loss": "nce"}], of_texts, steps=60, rate=1e-3),
    "lightmbert and codir": Lesson([LIGHTMBERT, CODIR | {"weight": 0.2}], of_hidden),
}


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Tokenizer:
    return load_tokenizer(world.teacher / "tokenizer.json", max_tokens=32)


def encoders(world: World) -> tuple[Encoder, Encoder]:
    """A student of the teacher's bottom two layers, and the teacher; both with heads for pieces."""
    torch.manual_seed(3)
    student, teacher = load_encoder(str(world.teacher), layers=2), load_teacher(str(world.teacher))
    for encoder in (student, teacher):
        setattr(encoder, PIECE_HEAD, PieceHead(encoder.config))
    teacher.requires_grad_(False)
    return student.train(), teacher


def taught(losses: Losses, draw: Callable[[int], Batch], *, steps: int, rate: float) -> list[float]:
    """Train and return the weighted loss of every step."""
    parameters = [*losses.student.parameters(), *losses.trained()]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    totals = []
    for step in range(steps):
        terms = losses(draw(step))
        total = torch.stack([losses.weights[name] * term for name, term in terms.items()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    return totals


@pytest.mark.parametrize("lesson", KINDS.values(), ids=KINDS)
def test_a_student_learns(
    world: World,
    tokenizer: Tokenizer,
    lesson: Lesson,
) -> None:
    student, teacher = encoders(world)
    facts = anatomy(student), anatomy(teacher)
    matches = [match_of(objective(table), *facts) for table in lesson.tables]
    losses = Losses(student, teacher, matches, nullcontext)
    held_out = batch_of(tokenizer, tokenizer, HELD_OUT, 99)
    observers = (
        Observer(student, Wants(frozenset({1, 2}), frozenset({2}), pieces=True)),
        Observer(teacher, Wants(frozenset({2, 4}), frozenset({3, 4}), pieces=True)),
    )

    def agreed() -> float:
        with torch.no_grad():
            return lesson.agreement(losses, *(observe(held_out.text) for observe in observers))

    def draw(step: int) -> Batch:
        rows = islice(torch.randperm(len(SEEN)).tolist(), TEXTS)
        return batch_of(tokenizer, tokenizer, [SEEN[row] for row in rows], step)

    before = agreed()
    totals = taught(losses, draw, steps=lesson.steps, rate=lesson.rate)
    assert sum(totals[-5:]) < 0.85 * sum(totals[:5])
    assert agreed() > before + 0.1 * (1 - before)


def test_a_student_learns_sentences_of_another_teacher(world: World, tokenizer: Tokenizer) -> None:
    student = load_encoder(str(world.teacher), layers=2).train()
    teacher = load_teacher(str(world.english))
    of_english = load_tokenizer(world.english / "tokenizer.json", max_tokens=32)
    match = match_of(objective(SENTENCE), anatomy(student), anatomy(teacher))
    losses = Losses(student, teacher, [match], nullcontext)
    held_out = batch_of(tokenizer, of_english, HELD_OUT, 99)

    def agreed() -> float:
        with torch.no_grad():
            assert held_out.teacher_english is not None
            found = Observer(student, Wants())(held_out.text).pooled
            wanted = Observer(teacher, Wants())(held_out.teacher_english).pooled
            return float(torch.cosine_similarity(found, wanted).mean())

    def draw(step: int) -> Batch:
        rows = islice(torch.randperm(len(SEEN)).tolist(), TEXTS)
        return batch_of(tokenizer, of_english, [SEEN[row] for row in rows], step)

    before = agreed()
    totals = taught(losses, draw, steps=30, rate=5e-3)
    assert sum(totals[-5:]) < 0.85 * sum(totals[:5])
    assert agreed() > before + 0.1 * (1 - before)
