"""`lightmbert models`: what lies in model folders, and whether it is whole."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.commands.group import Group, examples
from app.commands.options import Json, model_folders, print_json, settings_from
from app.errors import LightMBERTError

models = typer.Typer(cls=Group)

Folder = Annotated[
    Path,
    typer.Argument(help="A model folder.", show_default=False, autocompletion=model_folders),
]
Root = Annotated[
    Path | None,
    typer.Argument(
        help="Where to look.", show_default="LIGHTMBERT_MODELS_ROOT, or beside the embedded student"
    ),
]


@models.command("list", epilog=examples("lightmbert models list"))
def list_(root: Root = None, json: Json = False) -> None:
    """List the model folders in a folder."""
    from app.inspection import listed
    from app.settings import EMBEDDED_STUDENT

    found = listed(root or settings_from().models_root or EMBEDDED_STUDENT.parent)
    if json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        typer.echo(each)


@models.command(epilog=examples("lightmbert models show models/lightmbert-mini"))
def show(folder: Folder, json: Json = False) -> None:
    """Print what a model folder says of itself; as JSON, its whole manifest."""
    from app.inspection import description
    from app.runtime.artifact import load_manifest

    manifest = load_manifest(folder)
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    for line in description(manifest):
        typer.echo(line)


@models.command(epilog=examples("lightmbert models verify models/lightmbert-mini"))
def verify(folder: Folder, json: Json = False) -> None:
    """Check every hash of a model folder, and the golden outputs of what this machine can run."""
    from app.inspection import verification

    held = []
    wrong: str | None = None
    try:
        for each in verification(folder):
            held.append(asdict(each))
            if not json:
                typer.echo(each)
    except LightMBERTError as error:
        wrong = str(error)
        raise
    finally:
        if json:
            print_json(
                {"folder": str(folder), "holds": wrong is None, "files": held, "error": wrong}
            )
