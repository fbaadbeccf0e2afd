"""`lightmbert similar`."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.group import CommandError, examples
from app.commands.options import Device, ModelDir, print_json, row_files, settings_from
from app.commands.rows import Column, Truncate
from app.errors import LightMBERTError

if TYPE_CHECKING:
    from app.engine import Engine
    from app.files import Reader, Row
    from app.settings import Settings
    from app.similar import Match, Vector

SIMILAR_EXAMPLES = examples(
    'lightmbert similar "late buses" news.txt',
    "lightmbert similar --queries questions.txt answers.parquet --top-k 1 --json",
    "lightmbert similar --duplicates --threshold 0.95 german/ english/",
)


@dataclass(frozen=True)
class _Search:
    settings: "Settings"
    files: list[Path]
    column: str
    truncate: bool
    threshold: float
    top_k: int
    json: bool


def similar(
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY", help="A text; with --queries or --duplicates the first file."
        ),
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="Files and folders, as in embed.", autocompletion=row_files
        ),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Files' rows are the queries, in the place of QUERY.")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Pairs among all rows; there is no QUERY.")
    ] = False,
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", min=1, help="So many rows for each query.")
    ] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=-1, max=1, help="Least cosine; 0.9 for duplicates, and no limit otherwise."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each match.")
    ] = False,
    column: Column = "text",
    truncate: Truncate = False,
    model_dir: ModelDir = None,
    device: Device = None,
) -> None:
    """Find rows that mean the same, in any of the languages.

    As a query, or as each other. The nearest first, by the cosine of embeddings. Vectors lie on
    disk meanwhile (in TMPDIR), so files may be larger than memory. Rows without an embedding are
    told and passed over.
    """
    if queries is not None and duplicates:
        raise CommandError("--queries and --duplicates exclude each other")
    from app.files import find_files

    looked_in = list(paths or [])
    if queries is not None or duplicates:
        looked_in.insert(0, Path(query))
    if not looked_in:
        raise CommandError("similar needs files to look in: similar QUERY FILE...")
    least = threshold if threshold is not None else 0.9 if duplicates else -1.0
    files = find_files(looked_in)
    settings = settings_from(model_dir=model_dir, device=device)
    search = _Search(settings, files, column, truncate, least, top_k, json)
    if duplicates:
        _print_duplicates(search)
    else:
        _print_nearest(search, query, queries)


def _print_nearest(search: _Search, query: str, queries: Path | None) -> None:
    from app.bulk import engine_alone
    from app.files import Reader, Row, find_files
    from app.shelf import Shelf
    from app.similar import nearest

    asked: Reader | list[Row] = [Row("QUERY", 1, query)]
    if queries is not None:
        asked = Reader(find_files([queries]), column=search.column)
    engine = engine_alone(search.settings)
    with Shelf(dimensions=engine.manifest.embedding_dimension) as shelf:
        for row, vector in _vectors(search, engine, asked):
            shelf.add([row], vector[None])
        if not len(shelf):
            raise LightMBERTError("there is no query with an embedding")
        reader = Reader(search.files, column=search.column)
        for matches in nearest(shelf, _vectors(search, engine, reader), top_k=search.top_k):
            near = [match for match in matches if match.score >= search.threshold]
            if queries is not None and near and not search.json:
                typer.echo(_line(near[0].query))
            for match in near:
                _print(match, search, f"{match.score:.3f}  {_line(match.found)}")


def _print_duplicates(search: _Search) -> None:
    from app.bulk import engine_alone
    from app.files import Reader
    from app.shelf import Shelf
    from app.similar import duplicates

    engine = engine_alone(search.settings)
    reader = Reader(search.files, column=search.column)
    with Shelf(dimensions=engine.manifest.embedding_dimension) as shelf:
        vectors = _vectors(search, engine, reader)
        for match in duplicates(vectors, shelf, threshold=search.threshold):
            pair = f"{match.score:.3f}  {_line(match.query)}\n       {_line(match.found)}"
            _print(match, search, pair)


def _vectors(search: _Search, engine: "Engine", rows: "Reader | list[Row]") -> "Iterator[Vector]":
    """Each row that has an embedding, and it; those that have none are told."""
    from app.bulk import Embed, answer_all
    from app.files import Reader
    from app.progress import Progress

    reader = rows if isinstance(rows, Reader) else Reader([], column=search.column)
    counts = Counter[str]()
    progress = Progress(
        reader, counts, max_tokens=engine.manifest.max_tokens, bar=not sys.stdout.isatty()
    )
    chunks = answer_all(rows, Embed(None), engine, truncate=search.truncate)
    with closing(chunks), progress:
        for chunk in chunks:
            counts.update(each.status for each in chunk)
            progress.add(chunk)
            for each in chunk:
                if each.result is not None:
                    yield each.row, each.result["embedding"]


def _print(match: "Match", search: _Search, line: str) -> None:
    if not search.json:
        typer.echo(line)
        return
    print_json(
        {"score": round(match.score, 6), "query": _place(match.query), "found": _place(match.found)}
    )


def _place(row: "Row") -> dict[str, object]:
    return {"file": row.file, "row": row.number, "text": row.text}


def _line(row: "Row") -> str:
    return f"{row.file}:{row.number}  {' '.join(row.text.split())}"
