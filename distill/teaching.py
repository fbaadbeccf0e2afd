"""Teach one encoder one task: from its folder to a classifier that has been judged.

What `finetune` does for a recipe and `study` for every cell of its matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from app.runtime.outputs import Floats
from app.runtime.tokenizer import Text
from distill.anatomy import anatomy
from distill.batches import load_tokenizer
from distill.checkpoint import read_provenance, save_encoder
from distill.classifier import Classifier, read
from distill.contrast import teach_by_contrast
from distill.corpus import load_corpus
from distill.encoders import check_encoder
from distill.finetuning import FinetuneError, Fitted, Rows, fine_tune
from distill.heads import Head, load_heads, save_head
from distill.labelled import Labelled
from distill.reliability import Reliability, reliability
from distill.tables.finetune import ContrastTable, ScheduleTable, TaskKdTable
from distill.task_kd import SoftLoss, TaskTeacher, task_teacher
from distill.task_loss import TaskLoss, dropping
from distill.task_rows import TaskRows
from distill.teacher import Encoder, load_encoder, tokenizer_file


@dataclass(frozen=True)
class Pupil:
    """An encoder to be taught, and how it reads."""

    encoder: Encoder
    tokenizer: Tokenizer
    tokenizer_file: Path


@dataclass(frozen=True)
class Taught:
    """An encoder with its head at its best epoch, and how good it was held to be."""

    classifier: Classifier
    head: Head
    tokenizer: Tokenizer
    tokenizer_file: Path
    fitted: Fitted
    reliability: Reliability

    def logits(self, texts: Sequence[Text]) -> Floats:
        """(N, C) of texts or pairs, before the temperature."""
        return self.classifier.all_logits(read(self.tokenizer, texts))

    def save(self, folder: Path, provenance: Mapping[str, str]) -> None:
        """Write an encoder folder with the head in it."""
        save_encoder(folder, self.classifier.encoder, self.tokenizer_file, provenance=provenance)
        save_head(folder, self.head)


def load_pupil(name: str | Path, *, max_tokens: int) -> Pupil:
    """An encoder folder or hub id, ready to be trained.

    Raises:
        EncoderError: it cannot be loaded.
        TokenizerError: nor its tokenizer.
    """
    file = tokenizer_file(str(name))
    tokenizer = load_tokenizer(file, max_tokens=max_tokens)
    return Pupil(load_encoder(str(name)), tokenizer, file)


def load_task_teacher(
    folder: Path, *, task: str, labels: Sequence[str], max_tokens: int
) -> TaskTeacher:
    """A fine-tuned encoder folder as the teacher of a task.

    Raises:
        FinetuneError: it has no head of that task, or one of other labels.
    """
    heads = load_heads(folder)
    head = heads.get(task)
    if not isinstance(head, Head):
        raise FinetuneError(
            f"{folder} has no linear head {task!r}, which task KD learns from; it has: "
            f"{', '.join(heads) or 'none'}. Fine-tune the teacher first"
        )
    check_encoder(folder, max_tokens=max_tokens)
    pupil = load_pupil(folder, max_tokens=max_tokens)
    classifier = Classifier.of(pupil.encoder, head).to(device())
    return task_teacher(classifier, pupil.tokenizer, head, labels)


def teach(
    pupil: Pupil,
    task: TaskRows,
    table: ScheduleTable,
    *,
    name: str,
    seed: int,
    contrast: ContrastTable | None = None,
    task_kd: TaskKdTable | None = None,
    teacher: TaskTeacher | None = None,
) -> Taught:
    """Fine-tune, choose the epoch, fit temperature and threshold.

    Raises:
        FinetuneError: a loss is not finite.
        CorpusError: unlabelled text cannot be read.
    """
    torch.manual_seed(seed)
    classifier = Classifier(pupil.encoder, classes=len(task.labels)).to(device())
    if table.freeze_embeddings:
        anatomy(pupil.encoder).embeddings.requires_grad_(False)
    train = _rows(pupil, task.train, task.labels)
    development = _rows(pupil, task.development, task.labels)
    if contrast is not None:
        teach_by_contrast(classifier, pupil.tokenizer, task.train, contrast, table, seed=seed)
    soft = None
    if task_kd is not None and teacher is not None:
        corpus = task_kd.unlabelled and load_corpus(task_kd.unlabelled, exponent=task_kd.exponent)
        soft = SoftLoss(
            teacher,
            task_kd,
            task.train.texts,
            problem=task.problem,
            corpus=corpus or None,
            tokenizer=pupil.tokenizer,
            seed=seed,
        )
    loss = TaskLoss(
        train,
        task.problem,
        drop=table.drop,
        hard_weight=1.0 if task_kd is None else task_kd.hard_weight,
        soft=soft,
        seed=seed,
    )
    with dropping(classifier.encoder, table.drop):
        fitted = fine_tune(
            classifier,
            loss,
            development,
            table,
            problem=task.problem,
            train_texts=train.texts,
            seed=seed,
        )
    found = reliability(fitted.development_logits, development.targets, task.problem)
    head = classifier.as_head(
        name,
        task.labels,
        task.problem,
        temperature=found.temperature,
        threshold=found.threshold,
        pair=task.pair,
        provenance={"data": task.train.fingerprint(), "ece": f"{found.ece_after:.4f}"},
    )
    return Taught(classifier, head, pupil.tokenizer, pupil.tokenizer_file, fitted, found)


def provenance_of(encoder: str | Path, task: TaskRows) -> dict[str, str]:
    """Who an encoder learned from, and the data of its whole way so far."""
    origin = read_provenance(encoder) or {}
    fingerprint = task.train.fingerprint()
    if "data_fingerprint" in origin:
        fingerprint = f"{origin['data_fingerprint']}+{fingerprint}"
    return {"teacher": origin.get("teacher", "none"), "data_fingerprint": fingerprint}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _rows(pupil: Pupil, rows: Labelled, labels: Sequence[str]) -> Rows:
    return Rows(read(pupil.tokenizer, rows.texts), rows.targets(labels))
