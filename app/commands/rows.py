"""`lightmbert classify` and `lightmbert embed`: rows of text in files, records out."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.group import examples
from app.commands.options import Device, ModelDir, settings_from

if TYPE_CHECKING:
    from app.bulk import Question
    from app.settings import Settings

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Files and folders of txt (a text a line), csv, jsonl and parquet. "
        "None, or -, for a text a line on standard input.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="A .jsonl or .parquet file; standard output if left out."),
]
Column = Annotated[str, typer.Option(help="Where csv, jsonl and parquet hold the text.")]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Read the beginning of a text that is too long.")
]

ABOUT_ROWS = """

Each row gives one record, in order: file, row (from 1), status, and {columns}.
status is ok, truncated, blank or too_long; the last two have null for an answer and are
told on standard error. Exit status 1 where a text was too long.
"""
CLASSIFY_HELP = "Give each row of text its labels." + ABOUT_ROWS.format(
    columns="label, score, scores"
)
EMBED_HELP = "Give each row of text its embedding." + ABOUT_ROWS.format(columns="embedding")
CLASSIFY_EXAMPLES = examples(
    "lightmbert classify --task topic news.txt",
    "lightmbert classify --task sentiment reviews/ --column body -o labels.parquet",
    "head -100 news.txt | lightmbert classify --task topic --top-k 1 | jq -r .label",
)
EMBED_EXAMPLES = examples(
    "lightmbert embed articles.parquet --column body -o vectors.parquet",
    "echo 'Habari za asubuhi' | lightmbert embed --dimensions 64",
)


def classify(
    paths: Paths = None,
    task: Annotated[
        str | None, typer.Option(help="Which head; a model with one head needs no name.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="The best labels only.")] = None,
    output: Output = None,
    column: Column = "text",
    truncate: Truncate = False,
    model_dir: ModelDir = None,
    device: Device = None,
) -> None:
    settings = settings_from(model_dir=model_dir, device=device)
    from app.bulk import Classify

    _answer_files(
        Classify(task, top_k), settings, paths, output=output, column=column, truncate=truncate
    )


def embed(
    paths: Paths = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="The first so many, scaled to length 1.")
    ] = None,
    output: Output = None,
    column: Column = "text",
    truncate: Truncate = False,
    model_dir: ModelDir = None,
    device: Device = None,
) -> None:
    settings = settings_from(model_dir=model_dir, device=device)
    from app.bulk import Embed

    _answer_files(
        Embed(dimensions), settings, paths, output=output, column=column, truncate=truncate
    )


def _answer_files(
    question: "Question",
    settings: "Settings",
    paths: list[Path] | None,
    *,
    output: Path | None,
    column: str,
    truncate: bool,
) -> None:
    from app.bulk import PLACE_COLUMNS, answer_all
    from app.engine import Engine
    from app.files import STDIN, FileError, Reader, find_files
    from app.metrics import Metrics
    from app.progress import Progress
    from app.records import open_output

    files = find_files(paths or [STDIN])
    if output is not None and output.resolve() in [file.resolve() for file in files]:
        raise FileError(f"{output} is read from; write to another file")
    reader = Reader(files, column=column)
    columns = question.columns
    with open_output(output, columns=(*PLACE_COLUMNS, *columns)) as write:
        # One caller, whose chunks are bounded as they are read: nobody is to be shut out.
        alone = settings.model_copy(update={"max_queue_bytes": sys.maxsize})
        engine = Engine.load(alone, Metrics())
        answers = answer_all(reader, question, engine, truncate=truncate)
        progress = Progress(
            reader,
            max_tokens=engine.manifest.max_tokens,
            bar=output is not None or not sys.stdout.isatty(),  # or records would run into it
        )
        with closing(answers), progress:
            for answered in answers:
                write([each.record(columns) for each in answered])
                progress.add(answered)
    typer.echo(progress.summary(), err=True)
    if progress.counts["too_long"]:
        raise typer.Exit(1)
