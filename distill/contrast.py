"""A first stage of fine-tuning that teaches the encoder by contrast, before there is a head.

SupCL-Seq brings texts of one label together (arXiv:2109.07424); PairSupCon brings together the
two sides of pairs that mean the same, and tells them from all others (arXiv:2109.05424).

Deviation from both: what is contrasted is the unit embedding that is exported, the mean over
tokens with nothing behind it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from distill.classifier import Classifier, Read, inputs_of, read
from distill.finetuning import FinetuneError, autocast_of, batches, optimizer_of
from distill.labelled import Labelled
from distill.objectives.pairsupcon import pair_discrimination_loss, pair_features
from distill.objectives.supcl import label_contrast_loss
from distill.regularizers import dropout_at
from distill.tables.finetune import ContrastTable, ScheduleTable

Embed = Callable[[Sequence[Read]], Tensor]
RowsLoss = Callable[[Sequence[int]], Tensor]


def teach_by_contrast(
    classifier: Classifier,
    tokenizer: Tokenizer,
    rows: Labelled,
    table: ContrastTable,
    schedule: ScheduleTable,
    *,
    seed: int,
) -> None:
    """Train the classifier's encoder in place; its head is not touched.

    Raises:
        FinetuneError: the rows have no pairs of the labels asked for, or the loss is not finite.
    """

    def embed(texts: Sequence[Read]) -> Tensor:
        return classifier.embed(inputs_of(texts).to(classifier.device))

    if table.kind == "supcl":
        scaffold: nn.Module = nn.Identity()
        texts = read(tokenizer, rows.texts)
        loss = _supcl(texts, rows, table, embed, classifier)
    else:
        rows = _entailed_or_not(rows, table)
        texts = read(tokenizer, [text[0] for text in rows.texts])
        scaffold = nn.Linear(2 * classifier.head.in_features, 2).to(classifier.device)
        loss = _pairsupcon(texts, rows, table, embed, scaffold, tokenizer)
    _train(classifier, scaffold, loss, texts, table, schedule, seed=seed)


def _train(
    classifier: Classifier,
    scaffold: nn.Module,
    loss_of: RowsLoss,
    texts: Sequence[Read],
    table: ContrastTable,
    schedule: ScheduleTable,
    *,
    seed: int,
) -> None:
    lengths = [len(text.ids) for text in texts]
    steps = -(-len(texts) // table.batch_texts) * table.epochs
    optimizer, rates = optimizer_of(
        classifier.encoder, scaffold, schedule, learning_rate=table.learning_rate, total_steps=steps
    )
    autocast = autocast_of(classifier, schedule)
    classifier.train()
    for epoch in range(1, table.epochs + 1):
        for rows in batches(lengths, table.batch_texts, seed=seed, epoch=epoch):
            with autocast():
                loss = loss_of(rows)
            if not torch.isfinite(loss):
                raise FinetuneError(f"{table.kind}: the loss is {loss.item()}; try a lower rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), schedule.max_gradient_norm)
            optimizer.step()
            rates.step()


def _supcl(
    texts: Sequence[Read],
    rows: Labelled,
    table: ContrastTable,
    embed: Embed,
    classifier: Classifier,
) -> RowsLoss:
    labels = torch.from_numpy(rows.targets(rows.known)).argmax(dim=1)

    def loss(numbers: Sequence[int]) -> Tensor:
        views = []
        for probability in table.drops:
            with dropout_at(classifier.encoder, probability):
                views.append(embed([texts[number] for number in numbers]))
        of_rows = labels[list(numbers)].to(classifier.device)
        return label_contrast_loss(torch.stack(views), of_rows, temperature=table.temperature)

    return loss


def _pairsupcon(
    first: Sequence[Read],
    rows: Labelled,
    table: ContrastTable,
    embed: Embed,
    scaffold: nn.Module,
    tokenizer: Tokenizer,
) -> RowsLoss:
    second = read(tokenizer, [text[1] for text in rows.texts])
    entailed = torch.from_numpy(np.array(rows.labels) == table.positive)

    def loss(numbers: Sequence[int]) -> Tensor:
        one, other = (embed([side[number] for number in numbers]) for side in (first, second))
        means_same = entailed[list(numbers)].to(one.device)
        told = functional.cross_entropy(scaffold(pair_features(one, other)), means_same.long())
        apart = pair_discrimination_loss(one, other, means_same, temperature=table.temperature)
        return told + table.instance_weight * apart

    return loss


def _entailed_or_not(rows: Labelled, table: ContrastTable) -> Labelled:
    """Pairs of the two labels that are told apart; the others, such as neutral ones, go."""
    wanted = (table.positive, table.negative)
    kept = rows.rows([row for row, label in enumerate(rows.labels) if label in wanted])
    if len(kept.known) < 2:
        raise FinetuneError(
            f"pairsupcon needs pairs of both {table.positive!r} and {table.negative!r}; "
            f"the labels are {', '.join(rows.known)}"
        )
    return kept
