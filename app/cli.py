"""The `lightmbert` command: what there is, in groups. What is heavy is imported by who needs it."""

from typing import Annotated

import typer

from app.commands.bench import BENCH_EXAMPLES, bench
from app.commands.distill import distill
from app.commands.group import Group, examples
from app.commands.heads import HEAD_HELP, head
from app.commands.info import INFO_EXAMPLES, info
from app.commands.models import models
from app.commands.rows import (
    CLASSIFY_EXAMPLES,
    CLASSIFY_HELP,
    EMBED_EXAMPLES,
    EMBED_HELP,
    classify,
    embed,
)
from app.commands.serve import SERVE_EXAMPLES, ServeCommand, serve
from app.commands.similar import SIMILAR_EXAMPLES, similar

SERVE, FILES, MODELS, MAKE = "Serve", "Files in, files out", "Models and machine", "Make a student"
EPILOG = (
    examples(
        "lightmbert serve                           then open the address it prints",
        "lightmbert classify --task topic news.txt  a label for each line, in any language",
        "lightmbert embed news.txt -o news.parquet  a vector for each line",
        "lightmbert COMMAND --help                  what else there is, with examples",
    )
    + "\n\nSettings come from flags, then from LIGHTMBERT_... variables, then from what suits the "
    "machine; lightmbert serve --help lists all. Tab completes after lightmbert "
    "--install-completion.\n\nExit status: 0 done, 1 it could not be done, 2 wrong command line, "
    "130 interrupted, 141 nobody reads the output."
)

app = typer.Typer(
    name="lightmbert",
    cls=Group,
    help="Serve, run and make distilled multilingual students: train in one language, answer in all.",
    epilog=EPILOG,
    rich_markup_mode=None,  # boxes cut the names of variables
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,  # they show local variables, and so texts
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from app.versions import own_version

        typer.echo(f"lightmbert {own_version()}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
]


@app.callback()
def options(version: Version = False) -> None:
    """Options of the command as a whole."""


app.command(cls=ServeCommand, epilog=SERVE_EXAMPLES, rich_help_panel=SERVE)(serve)
app.command(epilog=BENCH_EXAMPLES, rich_help_panel=SERVE)(bench)
app.command(help=CLASSIFY_HELP, epilog=CLASSIFY_EXAMPLES, rich_help_panel=FILES)(classify)
app.command(help=EMBED_HELP, epilog=EMBED_EXAMPLES, rich_help_panel=FILES)(embed)
app.command(epilog=SIMILAR_EXAMPLES, rich_help_panel=FILES)(similar)
app.add_typer(
    models, name="models", help="List, show and verify model folders.", rich_help_panel=MODELS
)
app.add_typer(head, name="head", help=HEAD_HELP, rich_help_panel=MODELS)
app.command(epilog=INFO_EXAMPLES, rich_help_panel=MODELS)(info)
app.add_typer(distill, name="distill", rich_help_panel=MAKE)


def main() -> None:
    """The entry point."""
    app(prog_name="lightmbert")


if __name__ == "__main__":
    main()
