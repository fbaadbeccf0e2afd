"""The `lightmbert` command. What is heavy is imported by the command that needs it."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from app.distilling import distill
from app.errors import LightMBERTError

if TYPE_CHECKING:
    from app.bulk import Question
    from app.settings import Settings


class _OneLineErrors(TyperGroup):
    """Errors raised on purpose are told in one line; a traceback is for those that are not."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as in the parent
        try:
            return super().invoke(ctx)
        except LightMBERTError as error:
            _fail(str(error))


app = typer.Typer(
    cls=_OneLineErrors,
    help="Serve, run and make distilled multilingual students.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they show local variables, and so texts
)
models = typer.Typer(help="Look into model folders.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(distill, name="distill")

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
ModelDir = Annotated[Path | None, typer.Option(help="Instead of LIGHTMBERT_MODEL_DIR.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda, instead of LIGHTMBERT_DEVICE.")]
Host = Annotated[str | None, typer.Option(help="Instead of LIGHTMBERT_HOST.")]
Port = Annotated[int | None, typer.Option(help="Instead of LIGHTMBERT_PORT; 0 for any free one.")]
Workers = Annotated[int | None, typer.Option(help="Processes, instead of LIGHTMBERT_WORKERS.")]
Folder = Annotated[Path, typer.Argument(help="A model folder.", show_default=False)]

BULK_HELP = """

Each row gives one record, in order: file, row (from 1), status, and {columns}.
status is ok, truncated, blank or too_long; the last two have null for an answer and are
told on standard error. Exit status 1 where a text was too long.
"""


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    model_dir: ModelDir = None,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Run the HTTP service until it is told to stop."""
    settings = _settings(host=host, port=port, model_dir=model_dir, device=device, workers=workers)
    from app.runtime.artifact import load_manifest
    from app.serve import listen
    from app.serve import serve as serve_until_stopped

    load_manifest(settings.model_dir)  # what is wrong here is said before anything starts
    try:
        listening = listen(settings.host, settings.port)
    except OSError as error:
        _fail(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}")
    url = _url(settings.host, listening.getsockname()[1])
    typer.echo(f"docs     {url}/docs")
    typer.echo(f"metrics  {url}/metrics")
    typer.echo(
        f"try      curl {url}/embed -H 'content-type: application/json' "
        """-d '{"texts": "Habari za asubuhi"}'"""
    )
    raise typer.Exit(serve_until_stopped(settings, listening))


@app.command(
    help="Give each row of text its labels." + BULK_HELP.format(columns="label, score, scores")
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
    settings = _settings(model_dir=model_dir, device=device)
    from app.bulk import Classify

    _answer_files(
        Classify(task, top_k), settings, paths, output=output, column=column, truncate=truncate
    )


@app.command(help="Give each row of text its embedding." + BULK_HELP.format(columns="embedding"))
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
    settings = _settings(model_dir=model_dir, device=device)
    from app.bulk import Embed

    _answer_files(
        Embed(dimensions), settings, paths, output=output, column=column, truncate=truncate
    )


@models.command()
def show(folder: Folder) -> None:
    """Print what a model folder says of itself."""
    from app.inspection import description

    for line in description(folder):
        typer.echo(line)


@models.command()
def verify(folder: Folder) -> None:
    """Check every hash of a model folder, and the golden outputs of what this machine can run."""
    from app.inspection import verification

    for line in verification(folder):
        typer.echo(line)


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


def _settings(**given: object) -> "Settings":
    from pydantic import ValidationError

    from app.settings import load_settings

    try:
        return load_settings(**given)
    except ValidationError as error:
        wrong = (each for each in error.errors() if each["type"] != "default_factory_not_called")
        _fail("; ".join(f"{e['loc'][0]}: {e['msg']}, not {e['input']!r}" for e in wrong))
    except ValueError as error:
        _fail(str(error))


def _url(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _fail(message: str) -> NoReturn:
    typer.echo(f"lightmbert: {' '.join(message.split())}", err=True)
    raise typer.Exit(1)


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
