"""Verb: write an encoder and its heads as one fp32 graph, in a model folder fit to be served.

    lightmbert distill export distill/recipes/mini-6-ship.toml

The graph pools and classifies inside, so that one forward pass serves every route. It is
traced through optimum, fused by ONNX Runtime's rules for BERT, held against torch through
`app.runtime`, and only then put in the place of an older folder.
"""

import datetime
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import tokenizers
from pydantic import BaseModel, ConfigDict

from app.errors import LightMBERTError
from app.runtime.artifact import (
    Golden,
    HashedFile,
    Manifest,
    Provenance,
    Tolerance,
    Variant,
    save_manifest,
    sha256_of,
)
from app.runtime.outputs import Floats
from app.runtime.tokenizer import Text, Tokenizer
from distill.anatomy import Encoder, anatomy
from distill.batches import load_tokenizer
from distill.checkpoint import CheckpointError, read_provenance
from distill.config import LoadedRecipe, require
from distill.graph import write_graph
from distill.heads import AnyHead, load_heads, require_fit
from distill.layered import FAMILY as LAYERED
from distill.padding import without_padding
from distill.parity import Outputs, gate, torch_outputs
from distill.teacher import load_teacher

GRAPH_FILE = "student-fp32.onnx"
TOKENIZER_FILE = "tokenizer.json"
MAX_PROBABILITY_ERROR = 1e-3
GOLDEN_DECIMALS = 6
PAD = "[PAD]"
EXPORTED = ("bert", LAYERED)
CODE = Path(__file__).parent


class ExportError(LightMBERTError):
    """An encoder folder cannot become a model folder."""

    code = "export_failed"


class Origin(BaseModel):
    """What training says of an encoder, in `provenance.json` beside its weights."""

    model_config = ConfigDict(frozen=True)

    teacher: str = "unknown"
    data_fingerprint: str = "unknown"


@dataclass(frozen=True)
class Card:
    """What a person decides about a model folder: its name, its terms, its golden texts."""

    name: str
    revision: str
    license: str
    languages: tuple[str, ...]
    max_tokens: int
    golden_texts: tuple[Text, ...]
    recipe: str
    recipe_sha256: str


def export_student(
    encoder_dir: Path, model_dir: Path, *, card: Card, min_cosine: float
) -> Manifest:
    """Write a model folder with the fp32 variant, replacing `model_dir` whole once it passes.

    Raises:
        ExportError: the encoder folder is incomplete, or its parts do not fit together.
        HeadError: a head is another encoder's.
        FusionError: ONNX Runtime's fusions did not take.
        TextTooLongError: a golden text exceeds `card.max_tokens`.
        ParityError: the graph strays from torch; `model_dir` is as it was.
    """
    encoder, heads = _load(encoder_dir, max_tokens=card.max_tokens)
    tokenizer_file = encoder_dir / TOKENIZER_FILE
    with _replaced_whole(model_dir) as partial:
        _write_tokenizer(tokenizer_file, partial / TOKENIZER_FILE, encoder.config.pad_token_id)
        Tokenizer.load(partial / TOKENIZER_FILE, max_tokens=card.max_tokens).encode(
            card.golden_texts, truncate=False
        )
        reference = torch_outputs(encoder, heads, tokenizer_file, card.golden_texts)
        write_graph(encoder, heads, partial / GRAPH_FILE)
        _leave_padding_out(partial / GRAPH_FILE)
        variant = _variant(partial / GRAPH_FILE, min_cosine=min_cosine)
        manifest = Manifest(
            name=card.name,
            revision=card.revision,
            license=card.license,
            languages=card.languages,
            hidden_width=encoder.config.hidden_size,
            embedding_dimension=encoder.config.hidden_size,
            max_tokens=card.max_tokens,
            tokenizer=HashedFile(file=TOKENIZER_FILE, sha256=sha256_of(partial / TOKENIZER_FILE)),
            variants=(variant,),
            tasks={task: head.as_task() for task, head in heads.items()},
            golden=_golden(card.golden_texts, reference),
            provenance=_provenance(encoder_dir, card),
        )
        gate(partial, manifest, variant, card.golden_texts, reference)
        save_manifest(partial, manifest)
    return manifest


def _leave_padding_out(graph: Path) -> None:
    model = onnx.load(graph)
    if without_padding(model):
        onnx.save(model, graph)


@contextmanager
def _replaced_whole(folder: Path) -> Iterator[Path]:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _load(encoder_dir: Path, *, max_tokens: int) -> tuple[Encoder, dict[str, AnyHead]]:
    # the fusions know attention by its plain products
    encoder = load_teacher(str(encoder_dir), attention="eager")
    heads = load_heads(encoder_dir)
    parts = anatomy(encoder)
    if parts.family not in EXPORTED:
        raise ExportError(
            f"{encoder_dir} is of family {parts.family!r}; graphs are written of "
            f"{', '.join(EXPORTED)}: a student with all of its layers is one of them"
        )
    positions = parts.max_tokens
    if max_tokens > positions:
        raise ExportError(f"max_tokens {max_tokens} exceeds the encoder's {positions} positions")
    tokenizer = load_tokenizer(encoder_dir / TOKENIZER_FILE, max_tokens=max_tokens)
    require_fit(heads, tokenizer, width=parts.width, rows=parts.vocabulary)
    return encoder, heads


def _write_tokenizer(source: Path, target: Path, pad_id: int | None) -> None:
    """Copy a tokenizer; if it does not say what to pad with, the encoder's config says it."""
    load_tokenizer(source, max_tokens=1)  # or says that it is none
    tokenizer = tokenizers.Tokenizer.from_file(str(source))
    if tokenizer.padding is not None or tokenizer.token_to_id(PAD) is not None:
        shutil.copy(source, target)
        return
    if pad_id is None or (token := tokenizer.id_to_token(pad_id)) is None:
        raise ExportError(f"{source} has no {PAD} token, and the encoder's config names none")
    tokenizer.enable_padding(pad_id=pad_id, pad_token=token)
    tokenizer.save(str(target))


def _variant(graph: Path, *, min_cosine: float) -> Variant:
    return Variant(
        file=graph.name,
        sha256=sha256_of(graph),
        precision="fp32",
        target="cpu",
        bytes=graph.stat().st_size,
        tolerance=Tolerance(min_cosine=min_cosine, max_probability_error=MAX_PROBABILITY_ERROR),
    )


def _golden(texts: Sequence[Text], reference: Outputs) -> tuple[Golden, ...]:
    return tuple(
        Golden(
            text=text if isinstance(text, str) else text[0],
            text_pair=None if isinstance(text, str) else text[1],
            embedding=_rounded(reference.embeddings[index]),
            probabilities={
                task: _rounded(rows[index]) for task, rows in reference.probabilities.items()
            },
        )
        for index, text in enumerate(texts)
    )


def _rounded(row: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), GOLDEN_DECIMALS) for value in row)


def _provenance(encoder_dir: Path, card: Card) -> Provenance:
    origin = _origin(encoder_dir)
    return Provenance(
        teacher=origin.teacher,
        recipe=card.recipe,
        recipe_sha256=card.recipe_sha256,
        data_fingerprint=origin.data_fingerprint,
        commit=_commit(),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _origin(encoder_dir: Path) -> Origin:
    try:
        return Origin.model_validate(read_provenance(encoder_dir) or {})
    except CheckpointError as error:
        raise ExportError(str(error)) from error


def _commit() -> str:
    """The commit this code runs at, "-dirty" behind it if it was changed since; or "unknown"."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", str(CODE), str(CODE.parent / "app"))
    except (OSError, subprocess.CalledProcessError):  # outside a checkout
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CODE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(loaded: LoadedRecipe) -> None:
    """Export what the recipe's `[export]` table names."""
    table = require(loaded.recipe.export, "export")
    card = Card(
        name=table.name,
        revision=table.revision,
        license=table.license,
        languages=table.languages,
        max_tokens=table.max_tokens,
        golden_texts=table.golden_texts,
        recipe=loaded.file_name,
        recipe_sha256=loaded.sha256,
    )
    export_student(table.encoder, table.model_dir, card=card, min_cosine=table.min_cosine)
