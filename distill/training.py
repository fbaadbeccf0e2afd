"""What a training run is built of: encoders, objectives, optimizer and batches.

All that does not fit together is refused here, from config files and tokenizers where that is
enough, so before weights or text are loaded.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from tokenizers import Tokenizer
from torch import nn

from distill.anatomy import Encoder, anatomy
from distill.batches import Batches, load_tokenizer
from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import Share
from distill.losses import Losses
from distill.masking import Masking
from distill.matching import Match, match_class, match_of
from distill.streams import open_text
from distill.student import student_of
from distill.tables.train import TrainTable
from distill.targets import open_targets
from distill.teacher import (
    fingerprint_of,
    load_skeleton,
    load_teacher,
    tokenizer_file,
    vocabularies_agree,
)


@dataclass(frozen=True)
class Run:
    """All that a loop needs, built once from the recipe."""

    table: TrainTable
    accelerator: Accelerator
    losses: Losses
    """Holds the student and the objectives' own parameters: all that is trained and saved."""
    model: nn.Module
    """`losses`, as it is run: the same module, or that module shared among processes."""
    optimizer: torch.optim.Optimizer
    batches: Batches
    share: Share
    fingerprint: str
    """Of the text."""
    inputs: dict[str, str]
    """Fingerprints of what the recipe may name by variables; a checkpoint holds for these alone."""
    seed: int

    @property
    def student(self) -> Encoder:
        return self.losses.student

    @property
    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.losses.parameters() if p.requires_grad]


def prepare(loaded: LoadedRecipe) -> Run:
    """Build the run, refusing what cannot work before it starts.

    Raises:
        RecipeError: objective, text, tokenizers and encoders do not fit together.
        CorpusError, EncoderError, StudentError: one of them cannot be read or made.
        MaskingError: text is to be masked, and the tokenizer has no piece for that.
    """
    table, run_table = require(loaded.recipe.train, "train"), loaded.recipe.run
    accelerator = accelerator_of()
    torch.set_num_threads(run_table.threads)  # after accelerate, which has an idea of its own
    share = Share(accelerator.process_index, accelerator.num_processes)
    of_student, of_teacher = check_fit(table)
    masking = Masking(of_student) if _masks_text(table) else None
    text = open_text(table.corpus, exponent=table.exponent, share=share)
    fingerprint = text.fingerprint()
    torch.manual_seed(run_table.seed)
    pieces = any(map(_asks_pieces, table.objective))
    teacher = load_teacher(table.teacher, pieces=pieces).to(accelerator.device)
    student = student_of(table.start, table.student, pieces=pieces).to(accelerator.device)
    losses = losses_of(student, teacher, table, accelerator.device)
    if table.cache_targets is not None:
        losses.keep_targets(open_targets(table.cache_targets, teacher, table))
    optimizer = optimizer_of(losses, table)
    # what chance decides from here on, such as dropped layers, each process decides by itself
    torch.manual_seed(run_table.seed + share.process)
    return Run(
        table=table,
        accelerator=accelerator,
        losses=losses,
        model=accelerator.prepare(losses),
        optimizer=optimizer,
        batches=Batches(
            text,
            of_student,
            of_teacher,
            max_batch_tokens=table.max_batch_tokens,
            seed=run_table.seed,
            masking=masking,
            share=share,
        ),
        share=share,
        fingerprint=fingerprint,
        inputs={"text": fingerprint, "teacher": fingerprint_of(teacher)},
        seed=run_table.seed,
    )


def accelerator_of() -> Accelerator:
    """One process or many, as the launcher says; the CPU where there is no GPU.

    Raises:
        RecipeError: the launcher would split the student up, and checkpoints hold it whole.
    """
    for engine in ("FSDP", "DEEPSPEED"):
        if parse_flag_from_env(f"ACCELERATE_USE_{engine}"):
            raise RecipeError(
                f"{engine} is not supported: a student fits on every device; launch with torchrun"
            )
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # the losses' own affair: forward in bf16, comparison in float32
        kwargs_handlers=[
            # an objective may look below the last layer, which then has no gradient
            DistributedDataParallelKwargs(find_unused_parameters=True)
        ],
    )


def check_fit(table: TrainTable) -> tuple[Tokenizer, Tokenizer]:
    """Tokenizers of student and teacher, having refused what does not fit together.

    Raises:
        RecipeError: says which parts do not fit, and why.
    """
    of_student = load_tokenizer(tokenizer_file(table.start), max_tokens=table.max_tokens)
    of_teacher = load_tokenizer(tokenizer_file(table.teacher), max_tokens=table.max_tokens)
    matches = skeleton_of(table).matches
    for match in matches:
        if match.parallel and table.corpus[0].pair_column is None:
            raise RecipeError(f"objective {match.kind!r} needs parallel text: set pair_column")
        if match.same_pieces and not vocabularies_agree(of_student, of_teacher):
            raise RecipeError(
                f"objective {match.kind!r} compares tokens: the vocabularies must agree"
            )
    if table.cache_targets is not None:
        check_cacheable(table)
    for name, tokenizer in ((table.start, of_student), (table.teacher, of_teacher)):
        rows = anatomy(load_skeleton(name)).vocabulary
        if tokenizer.get_vocab_size() > rows:
            raise RecipeError(
                f"the tokenizer of {name} has {tokenizer.get_vocab_size()} pieces, "
                f"its table {rows} rows"
            )
        framing = tokenizer.num_special_tokens_to_add(is_pair=False)
        if table.max_tokens <= framing:
            raise RecipeError(
                f"max_tokens {table.max_tokens} leaves no room for text: the tokenizer of {name} "
                f"frames each by {framing} tokens"
            )
    return of_student, of_teacher


@dataclass(frozen=True)
class Skeleton:
    """Encoders and objectives without weights: what configs alone can tell of a run."""

    student: Encoder
    teacher: Encoder
    matches: list[Match]


def skeleton_of(table: TrainTable) -> Skeleton:
    """Build it from config.json files.

    Raises:
        RecipeError: an objective cannot work between these encoders, texts are longer than one
            of them can read, or embeddings that are to be trained have a rate of 0.
    """
    pieces = any(map(_asks_pieces, table.objective))
    teacher = load_skeleton(table.teacher, pieces=pieces)
    student = student_of(table.start, table.student, pieces=pieces, skeleton=True)
    for name, encoder in ((table.start, student), (table.teacher, teacher)):
        positions = anatomy(encoder).max_tokens
        if table.max_tokens > positions:
            raise RecipeError(
                f"max_tokens {table.max_tokens} exceeds the {positions} positions of {name}"
            )
    learned = [name for name, p in student.embeddings.named_parameters() if p.requires_grad]
    if learned and not table.embedding_learning_rate:
        raise RecipeError(
            f"embedding_learning_rate is 0, and {learned[0]} of the student's embeddings is to be "
            "trained: give it a rate, or copy and freeze it"
        )
    with torch.device("meta"):
        matches = _matches(table, student, teacher)
    return Skeleton(student, teacher, matches)


def check_cacheable(table: TrainTable) -> None:
    """Refuse to keep targets that are not one vector a text.

    Raises:
        RecipeError: an objective looks at more of the teacher than its embedding of a text.
    """
    for match in map(match_class, table.objective):
        if not match.teacher_pooled:
            raise RecipeError(
                f"cache_targets keeps an embedding a text; objective {match.kind!r} compares "
                "tokens, of which a kept corpus would be thousands of times larger: leave it out"
            )


def losses_of(
    student: Encoder, teacher: Encoder, table: TrainTable, device: torch.device
) -> Losses:
    """The recipe's objectives over these encoders, compiled if the recipe asks for it."""
    autocast = partial(
        torch.autocast, device.type, torch.bfloat16, enabled=table.precision == "bf16"
    )
    if table.compile:
        anatomy(student).body.compile(dynamic=True)
        anatomy(teacher).body.compile(dynamic=True)
    return Losses(student, teacher, _matches(table, student, teacher), autocast).to(device)


def optimizer_of(losses: Losses, table: TrainTable) -> torch.optim.Optimizer:
    """AdamW in three groups: matrices, vectors (biases, norms; no decay), embeddings (own rate)."""
    embeddings = [p for p in anatomy(losses.student).embeddings.parameters() if p.requires_grad]
    own = {id(parameter) for parameter in embeddings}
    rest = [p for p in losses.parameters() if p.requires_grad and id(p) not in own]
    groups = [
        (embeddings, table.embedding_learning_rate, 0.0),
        ([p for p in rest if p.ndim < 2], table.learning_rate, 0.0),
        ([p for p in rest if p.ndim >= 2], table.learning_rate, table.weight_decay),
    ]
    described: list[dict[str, Any]] = [
        {"params": params, "peak_learning_rate": rate, "lr": rate, "weight_decay": decay}
        for params, rate, decay in groups
        if params
    ]
    return torch.optim.AdamW(described, fused=True)


def _matches(table: TrainTable, student: Encoder, teacher: Encoder) -> list[Match]:
    of_student, of_teacher = anatomy(student), anatomy(teacher)
    return [match_of(entry, of_student, of_teacher) for entry in table.objective]


def _asks_pieces(entry: Any) -> bool:  # noqa: ANN401 - one of the objectives' tables
    return match_class(entry).asks_pieces(entry)


def _masks_text(table: TrainTable) -> bool:
    return any(match_class(entry).masks_text for entry in table.objective)
