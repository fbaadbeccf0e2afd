"""`lightmbert classify` and `lightmbert embed`: rows of text in files, records out."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.group import CommandError, examples
from app.commands.options import Device, ModelDir, print_json, row_files, settings_from, tasks

if TYPE_CHECKING:
    from app.bulk import Answered, Question
    from app.files import Reader
    from app.progress import Progress
    from app.settings import Settings
    from app.unfinished import Stream, Unfinished

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE",
        help="Files and folders of txt (a text a line), csv, jsonl and parquet. "
        "None, or -, for a text a line on standard input.",
        show_default=False,
        autocompletion=row_files,
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
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first row that has no answer, with status 1.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Begin anew where an earlier run was not finished.")
]
Summary = Annotated[
    bool, typer.Option("--json", help="Print what was done as JSON; needs --output.")
]

ABOUT_ROWS = """

Each row gives one record, in order: file, row (from 1), status, and {columns}. status is ok,
truncated, blank, too_long or unreadable; the last three have null for an answer and are told on
standard error.

With --output, a run that was stopped, even killed, goes on after the last row that was kept when
the same command is given again: until then its rows are in a folder OUTPUT.partial.
"""
CLASSIFY_HELP = "Give each row of text its labels." + ABOUT_ROWS.format(
    columns="label, score, scores"
)
EMBED_HELP = "Give each row of text its embedding." + ABOUT_ROWS.format(columns="embedding")
CLASSIFY_EXAMPLES = examples(
    "lightmbert classify --task topic news.txt",
    "lightmbert classify --task sentiment reviews/ --column body -o labels.parquet",
    "lightmbert classify --labels 'rain,sun,snow' --multi-label weather.txt",
    "head -100 news.txt | lightmbert classify --task topic --top-k 1 | jq -r .label",
)
EMBED_EXAMPLES = examples(
    "lightmbert embed articles.parquet --column body -o vectors.parquet",
    "echo 'Habari za asubuhi' | lightmbert embed --dimensions 64",
)


@dataclass(frozen=True)
class How:
    """What does not change the answers."""

    output: Path | None
    column: str
    truncate: bool
    strict: bool
    restart: bool
    json: bool


def classify(
    paths: Paths = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which head; a model with one head needs no name.", autocompletion=tasks),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="In place of a head: labels of your own, such as rain,sun.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="What is said of a text that has a label, with {} for it.")
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Several of --labels may fit one text.")
    ] = False,
    top_k: Annotated[int | None, typer.Option(min=1, help="The best labels only.")] = None,
    output: Output = None,
    column: Column = "text",
    truncate: Truncate = False,
    strict: Strict = False,
    restart: Restart = False,
    json: Summary = False,
    model_dir: ModelDir = None,
    device: Device = None,
) -> None:
    settings = settings_from(model_dir=model_dir, device=device)
    from app.bulk import Classify, ZeroShot
    from app.zero_shot import TEMPLATE, choice

    question: Question = Classify(task, top_k)
    if labels is not None:
        if task is not None:
            raise CommandError("--task and --labels exclude each other")
        names = tuple(label.strip() for label in labels.split(","))
        template = TEMPLATE if template is None else template
        question = ZeroShot(names, template, multi_label, top_k)
        choice(names, template=template, multi_label=multi_label)  # before all work
    elif template is not None or multi_label:
        raise CommandError("--template and --multi-label say how --labels are read")
    how = How(output, column, truncate, strict, restart, json)
    _answer_files(question, settings, paths, how)


def embed(
    paths: Paths = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="The first so many, scaled to length 1.")
    ] = None,
    output: Output = None,
    column: Column = "text",
    truncate: Truncate = False,
    strict: Strict = False,
    restart: Restart = False,
    json: Summary = False,
    model_dir: ModelDir = None,
    device: Device = None,
) -> None:
    settings = settings_from(model_dir=model_dir, device=device)
    from app.bulk import Embed

    how = How(output, column, truncate, strict, restart, json)
    _answer_files(Embed(dimensions), settings, paths, how)


def _answer_files(
    question: "Question", settings: "Settings", paths: list[Path] | None, how: How
) -> None:
    from app.files import STDIN, FileError, Reader, find_files
    from app.unfinished import Stream, Unfinished

    if how.json and how.output is None:
        raise CommandError("--json needs --output: records go to standard output without it")
    files = find_files(paths or [STDIN])
    if STDIN in files and sys.stdin.isatty():
        typer.echo("type a text a line, and Ctrl-D at the end", err=True)
    if how.output is not None and how.output.resolve() in [file.resolve() for file in files]:
        raise FileError(f"{how.output} is read from; write to another file")
    reader = Reader(files, column=how.column)
    answers = Unfinished(how.output, restart=how.restart) if how.output else Stream()
    try:
        with answers:
            progress = _answer(reader, question, settings, answers, how)
    except BaseException:
        if answers.told:
            typer.echo(answers.told, err=True)
        raise
    typer.echo(progress.summary(), err=True)
    if how.json:
        print_json({"output": str(how.output), **progress.figures()})


def _answer(
    reader: "Reader",
    question: "Question",
    settings: "Settings",
    answers: "Unfinished | Stream",
    how: How,
) -> "Progress":
    from app.bulk import answer_all, engine_alone
    from app.files import FileError
    from app.progress import Progress

    engine = engine_alone(settings)
    asked = question.described(engine) | {"column": how.column, "truncate": how.truncate}
    rows = answers.remaining(reader, asked, question.columns)
    if answers.answered_before:
        typer.echo(f"going on after {answers.answered_before:,} rows", err=True)
    progress = Progress(
        reader,
        answers.counts,
        max_tokens=engine.manifest.max_tokens,
        bar=how.output is not None or not sys.stdout.isatty(),  # or records would run into it
    )
    with closing(answer_all(rows, question, engine, truncate=how.truncate)) as chunks, progress:
        for chunk in chunks:
            until = _first_without(chunk) if how.strict else len(chunk)
            answers.write(chunk[:until])
            progress.add(chunk[:until])
            if until < len(chunk):
                raise FileError(f"{progress.trouble(chunk[until])}; stopped, as --strict asks")
    return progress


def _first_without(chunk: "list[Answered]") -> int:
    """Where the first row without an answer is; the end where each has one."""
    places = (index for index, each in enumerate(chunk) if each.result is None)
    return next(places, len(chunk))
