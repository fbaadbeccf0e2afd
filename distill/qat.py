"""Verb: let an encoder learn to be int8, where rounding it afterwards loses too much.

    lightmbert distill qat distill/recipes/qat.toml

KDLSQ-BERT (arXiv:2101.05938): weights and steps of rounding are trained together, against the
encoder's own full precision. Deviation: in the place of its attention and output terms stands the
distance of pooled embeddings, which are what is served; and the word table is not trained but
rounded afterwards. The result joins the model folder as its int8 variant once it is held against
fp32, as `quantize` would have it.
"""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.console import Console
from torch import Tensor, nn

from app.runtime.artifact import Manifest, Tolerance
from distill.anatomy import Encoder
from distill.batches import Tokens, load_tokenizer, tokenize
from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import load_corpus
from distill.graph import write_graph
from distill.heads import load_heads
from distill.learned_graph import with_steps
from distill.lsq import Learned, LearnedStep
from distill.objectives.lightmbert import hidden_state_loss
from distill.objectives.sentence import distance_loss
from distill.rounding import attach, detach
from distill.tables.qat import QatTable
from distill.teacher import encode, load_encoder, load_teacher, tokenizer_file
from distill.variants import KINDS, Source, add_variants, source_of, told
from distill.watch import DivergedError
from distill.word_table import quantize_table

MAX_GRADIENT_NORM = 1.0
SAME_COSINE = 0.999
"""What a folder's golden output and its encoder's agree by at least."""
TOLD = 10
"""How often a run says where it is."""


def learn_rounding(table: QatTable, batches: Iterator[Tokens]) -> Iterator[tuple[float, Encoder]]:
    """Yield the loss and the encoder under rounding: before the first step, and after each.

    Raises:
        RoundingError: the encoder is not of BERT's layers.
        DivergedError: the loss is not finite.
    """
    teacher, encoder = load_teacher(str(table.encoder)), load_encoder(str(table.encoder))
    encoder.embeddings.requires_grad_(False)
    calibrating = [next(batches) for _ in range(table.calibration_batches)]
    attach(encoder, calibrating, largest=_largest(table), cut=table.cut)
    optimizer = _optimizer(encoder, table)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, table))
    for step in range(table.steps + 1):
        loss = _loss(encoder, teacher, next(batches), table)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"the loss is {loss.item()} at step {step}; try a lower learning_rate than "
                f"{table.learning_rate}"
            )
        yield loss.item(), encoder
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        rates.step()


def _largest(table: QatTable) -> int:
    """Steps that a weight of this variant has on either side of zero."""
    return (1 << KINDS[table.variant].weight_bits - 1) - 1


def _optimizer(encoder: Encoder, table: QatTable) -> torch.optim.Optimizer:
    steps = [part for part in encoder.modules() if isinstance(part, LearnedStep)]
    theirs = {id(part.step) for part in steps}
    weights = [p for p in encoder.parameters() if p.requires_grad and id(p) not in theirs]
    # steps differ by orders of magnitude, and Adam moves each parameter by about its rate
    groups = [
        {"params": [part.step], "lr": table.step_learning_rate * float(part.size.detach().mean())}
        for part in steps
    ]
    return torch.optim.Adam([{"params": weights, "lr": table.learning_rate}, *groups])


def _share(step: int, table: QatTable) -> float:
    """Of the peak rate: linear up, then linear down to 0."""
    if step < table.warmup_steps:
        return (step + 1) / table.warmup_steps
    return (table.steps - step) / max(1, table.steps - table.warmup_steps)


def _loss(encoder: Encoder, teacher: Encoder, tokens: Tokens, table: QatTable) -> Tensor:
    with torch.inference_mode():
        target = encode(teacher, tokens)
    found = encode(encoder, tokens)
    hidden = hidden_state_loss(found.hidden, target.hidden.clone(), tokens.mask)
    pooled = distance_loss(found.pooled, target.pooled.clone())
    return table.hidden_weight * hidden + table.pooled_weight * pooled


def graph_of(encoder: Encoder, table: QatTable) -> onnx.ModelProto:
    """The int8 graph of an encoder under rounding, which is taken out of it."""
    products: list[Learned] = detach(encoder)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        write_graph(encoder.eval(), load_heads(table.encoder), path)
        model = onnx.load(path)
    return with_steps(model, products, form=table.form, block=table.word_table_block)


def _require_possible(source: Source, table: QatTable) -> None:
    """Refuse before training what could not be written after it."""
    _require_same(source.manifest, table)
    heads = {task: head.as_task() for task, head in load_heads(table.encoder).items()}
    if heads != source.manifest.tasks:
        raise RecipeError(
            f"{table.encoder} has other heads ({', '.join(heads) or 'none'}) than {table.model_dir} "
            f"was exported with ({', '.join(source.manifest.tasks) or 'none'}): export it again"
        )
    row = np.zeros((1, source.manifest.hidden_width), dtype=np.float32)
    quantize_table(row, block=table.word_table_block)
    source.encode(table.parity_texts, truncate=False)


def _require_same(manifest: Manifest, table: QatTable) -> None:
    """Refuse a model folder of another encoder, by its first golden output of one text."""
    golden = next((each for each in manifest.golden if each.text_pair is None), None)
    if golden is None:
        return  # parity is asked afterwards
    file = tokenizer_file(str(table.encoder))
    tokens = tokenize(load_tokenizer(file, max_tokens=manifest.max_tokens), [golden.text])
    with torch.inference_mode():
        [found] = encode(load_teacher(str(table.encoder)), tokens).pooled.numpy()
    found = found[: manifest.embedding_dimension]
    cosine = float(found @ np.array(golden.embedding) / np.linalg.norm(found))
    if not cosine >= SAME_COSINE:
        raise RecipeError(
            f"{table.model_dir} was not exported from {table.encoder}: its golden text has cosine "
            f"{cosine:.4f} to that encoder's"
        )


def _batches(table: QatTable, *, seed: int) -> Iterator[Tokens]:
    corpus = load_corpus(table.corpus, exponent=table.exponent)
    file = tokenizer_file(str(table.encoder))
    tokenizer = load_tokenizer(file, max_tokens=table.max_tokens)
    number = 0
    while True:
        drawn = corpus.draw(number, rows=table.batch_texts, seed=seed)
        yield tokenize(tokenizer, drawn.texts)
        number += 1


def run(loaded: LoadedRecipe) -> None:
    """Learn what the recipe's `[qat]` table names, and add it to its model folder."""
    table = require(loaded.recipe.qat, "qat")
    torch.set_num_threads(loaded.recipe.run.threads)
    torch.manual_seed(loaded.recipe.run.seed)
    source, console = source_of(table.model_dir), Console()
    _require_possible(source, table)
    learning = learn_rounding(table, _batches(table, seed=loaded.recipe.run.seed))
    for step, (loss, encoder) in enumerate(learning):
        if step % max(1, table.steps // TOLD) == 0 or step == table.steps:
            console.print(f"step {step} of {table.steps}: loss {loss:.5f}")
        if step == table.steps:
            model = graph_of(encoder, table)
            break
    tolerance = Tolerance(
        min_cosine=table.min_cosine, max_probability_error=table.max_probability_error
    )
    parities = add_variants(
        source,
        lambda small: model,
        {table.variant: tolerance},
        texts=table.parity_texts,
        keep_fp32=table.keep_fp32,
    )
    for small, parity in parities.items():
        console.print(f"{small}: {told(parity)}")
