"""Task KD: a fine-tuned teacher's logits beside the labels, on labelled and unlabelled text.

On text of the source language alone it was found to hurt zero-shot transfer (Soltan et al. 2021,
SustaiNLP); soft labels on unlabelled text of the target languages are the way round it, which
are all the student learns from in SSLD (arXiv:2103.05959), there with the JS divergence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from app.runtime.calibration import Problem
from app.runtime.outputs import Floats
from app.runtime.tokenizer import Text
from distill.classifier import Classifier, inputs_of, read
from distill.comparison import Summary
from distill.corpus import Corpus
from distill.finetuning import FinetuneError
from distill.heads import Head
from distill.objectives.task import divergence
from distill.reading import sources_of
from distill.tables.finetune import TaskKdTable


@dataclass(frozen=True)
class TaskTeacher:
    """A fine-tuned encoder whose columns of logits stand in the student's order of labels."""

    classifier: Classifier
    tokenizer: Tokenizer
    columns: tuple[int, ...]

    def logits(self, texts: Sequence[Text]) -> Floats:
        """(N, C) of texts, by the teacher's own tokenizer."""
        found: Floats = self.classifier.all_logits(read(self.tokenizer, texts))
        return found[:, list(self.columns)]


def task_teacher(
    classifier: Classifier, tokenizer: Tokenizer, head: Head, labels: Sequence[str]
) -> TaskTeacher:
    """The teacher, its labels put into the student's order.

    Raises:
        FinetuneError: it has other labels.
    """
    if set(head.labels) != set(labels):
        raise FinetuneError(
            f"the teacher's head {head.task!r} tells {', '.join(head.labels)} apart; "
            f"the task has {', '.join(labels)}"
        )
    columns = tuple(head.labels.index(label) for label in labels)
    classifier.eval().requires_grad_(False)
    return TaskTeacher(classifier, tokenizer, columns)


class SoftLoss:
    """The soft part of a step's loss, weighted."""

    def __init__(
        self,
        teacher: TaskTeacher,
        table: TaskKdTable,
        texts: Sequence[Text],
        *,
        problem: Problem,
        corpus: Corpus | None,
        tokenizer: Tokenizer,
        seed: int,
    ) -> None:
        self._teacher, self._table, self._problem = teacher, table, problem
        # its head's bias and scale never change: one pass over the labelled text is enough
        self._known = torch.from_numpy(teacher.logits(texts)) if table.soft_weight else None
        self._corpus, self._tokenizer, self._seed = corpus, tokenizer, seed

    def __call__(
        self, classifier: Classifier, logits: Tensor, rows: Sequence[int], step: int
    ) -> Tensor:
        """Scalar: weighted divergence on the labelled rows (logits: (B, C)) and on a draw."""
        loss = logits.new_zeros(())
        if self._known is not None:
            loss = loss + self._table.soft_weight * self._far(logits, self._known[list(rows)])
        if self._corpus is not None and self._table.unlabelled_batch_texts is not None:
            drawn: list[Text] = list(
                self._corpus.draw(
                    step, rows=self._table.unlabelled_batch_texts, seed=self._seed
                ).texts
            )
            found = classifier(inputs_of(read(self._tokenizer, drawn)).to(classifier.device))
            wanted = torch.from_numpy(self._teacher.logits(drawn))
            loss = loss + self._table.unlabelled_weight * self._far(found, wanted)
        return loss

    def _far(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        pair = student_logits.float(), teacher_logits.to(student_logits.device)
        if self._problem == "multi":
            # each label by itself: sigmoid(x) is the softmax of (x, 0)
            pair = beside_zero(pair[0]), beside_zero(pair[1])
        return divergence(*pair, kind=self._table.divergence, temperature=self._table.temperature)


def beside_zero(logits: Tensor) -> Tensor:
    """(B, C) -> (B * C, 2)."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1).flatten(0, 1)


def of_source_only(table: TaskKdTable, source_language: str) -> bool:
    """Whether the teacher is asked about text of the source language alone.

    Raises:
        CorpusError: the folder of unlabelled text has not the languages asked for.
    """
    languages = {source.language for each in table.unlabelled or () for source in sources_of(each)}
    return languages <= {source_language}


SOURCE_ONLY = (
    "task KD on source-language text alone was found to hurt the other languages "
    "(Soltan et al. 2021); text of theirs without labels, under task_kd.unlabelled, is the "
    "way round it"
)


def verdict(plain: Summary, distilled: Summary) -> str:
    """What task KD did, judged by the languages that nobody labelled.

    A student is not called better whose source language rose while the mean of the others fell.
    """
    if plain.others is None or distilled.others is None:
        return "no other language was measured: nothing is known of the transfer"
    others = distilled.others - plain.others
    source = np.nan
    if plain.source is not None and distilled.source is not None:
        source = distilled.source - plain.source
    moved = f"source {source:+.3f}, mean of the others {others:+.3f}"
    if others > 0:
        return f"task KD helped the other languages: {moved}"
    if source > 0:
        return f"task KD is not better: the source gained, the others did not: {moved}"
    return f"task KD did not help: {moved}"
