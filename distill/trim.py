"""Verb: cut an encoder's vocabulary to what some languages need.

    lightmbert distill trim distill/recipes/trim.toml
    lightmbert distill trim --encoder ENCODER --folder SMALLER --languages de,fr --corpus TEXTS

The body stays as it is: a text whose pieces are all kept gives the very same embedding (see
`distill.trimming`), and heads go along. Which pieces stay is told in `distill.coverage`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table as Grid
from tokenizers import Tokenizer

from distill.anatomy import Encoder
from distill.checkpoint import read_provenance, save_encoder
from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import load_corpus
from distill.coverage import chunks, needed_pieces
from distill.heads import LexicalHead, load_heads, save_head
from distill.rows import keep_rows
from distill.tables.trim import TrimTable
from distill.teacher import load_encoder, tokenizer_file
from distill.trimming import Trimmed, trimmed

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Size:
    """What an encoder holds."""

    pieces: int
    parameters: int

    @property
    def megabytes(self) -> float:
        """In float32, 10^6 bytes each."""
        return self.parameters * FLOAT32_BYTES / 1e6


@dataclass(frozen=True)
class Trimming:
    """What became of an encoder, and of the text it was trimmed by."""

    before: Size
    after: Size
    changed: Mapping[str, float]
    """Language -> share of its tokens that are no longer cut as they were."""


def trim(table: TrimTable, *, seed: int) -> Trimming:
    """Write the smaller encoder to `table.folder`.

    Raises:
        RecipeError: the corpus has no text of a wanted language.
        TrimError: tokenizer and encoder do not fit together, or are of a kind not known here.
    """
    texts = _texts(table, seed=seed)
    file = tokenizer_file(table.encoder)
    encoder = load_encoder(table.encoder, pieces=table.piece_head)
    text = file.read_text(encoding="utf-8")
    tokenizer = _reading(Tokenizer.from_str(text))
    before = _size(encoder)
    small = trimmed(text, needed_pieces(tokenizer, texts, min_share=table.min_share))
    keep_rows(encoder, small.old_ids)
    _save(table, encoder, small)
    changed = {language: changed_share(tokenizer, small, some) for language, some in texts.items()}
    return Trimming(before, _size(encoder), changed)


def changed_share(before: Tokenizer, after: Trimmed, texts: Sequence[str]) -> float:
    """Share of the tokens of texts whose piece no longer stands where it stood."""
    smaller = _reading(after.tokenizer)
    tokens = changed = 0
    for chunk in chunks(texts):
        pairs = zip(before.encode_batch(chunk), smaller.encode_batch(chunk), strict=True)
        for old, new in pairs:
            new_pieces = {*zip((after.old_ids[id_] for id_ in new.ids), new.offsets, strict=True)}
            old_pieces = [*zip(old.ids, old.offsets, strict=True)]
            tokens += len(old_pieces)
            changed += sum(piece not in new_pieces for piece in old_pieces)
    return changed / tokens


def _texts(table: TrimTable, *, seed: int) -> dict[str, list[str]]:
    corpus = load_corpus(table.corpus, exponent=0.0)
    if lacking := sorted(set(table.languages) - set(corpus.languages)):
        raise RecipeError(
            f"the corpus has no text of {', '.join(lacking)}; it has: {', '.join(corpus.languages)}"
        )
    return {
        language: corpus.of_language(language, at_most=table.texts_per_language, seed=seed)
        for language in table.languages
    }


def _reading(tokenizer: Tokenizer) -> Tokenizer:
    """Made to read texts whole and not to pad them."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _size(encoder: Encoder) -> Size:
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return Size(encoder.config.vocab_size, parameters)


def _save(table: TrimTable, encoder: Encoder, small: Trimmed) -> None:
    source = Path(table.encoder)
    provenance = read_provenance(source)
    heads = load_heads(source) if source.is_dir() else {}
    table.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=table.folder.parent) as staging:
        file = Path(staging) / "tokenizer.json"
        file.write_text(small.text, encoding="utf-8")
        save_encoder(table.folder, encoder, file, provenance=provenance)
    for head in heads.values():
        if isinstance(head, LexicalHead):
            head = head.trimmed(small.tokenizer, small.old_ids)
        save_head(table.folder, head)


def run(loaded: LoadedRecipe) -> None:
    """Trim what the recipe's `[trim]` table names, and say what that saved and cost."""
    table = require(loaded.recipe.trim, "trim")
    report(trim(table, seed=loaded.recipe.run.seed))


def report(done: Trimming) -> None:
    """Print sizes before and after, and what changed for each language."""
    sizes = Grid("", "pieces", "parameters", "MB in float32")
    for name, size in (("before", done.before), ("after", done.after)):
        sizes.add_row(name, f"{size.pieces:,}", f"{size.parameters:,}", f"{size.megabytes:,.1f}")
    changed = Grid("language", "tokens cut otherwise")
    for language, share in done.changed.items():
        changed.add_row(language, f"{share:.2%}")
    Console().print(sizes, changed)


def run_options(*, languages: str, corpus: Path, **settings: object) -> None:
    """Trim what the command line's options say in the place of a recipe.

    Args:
        languages: with commas between them.
        corpus: a folder of LANG.parquet, or of another kind.
        **settings: the other keys of the `[trim]` table.

    Raises:
        RecipeError: a value is not one that the table takes.
    """
    names = tuple(name.strip() for name in languages.split(",") if name.strip())
    try:
        table = TrimTable.model_validate(
            {**settings, "languages": names, "corpus": [{"path": corpus, "languages": names}]}
        )
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("; ".join(problems)) from error
    report(trim(table, seed=0))
