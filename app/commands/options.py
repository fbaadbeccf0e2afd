"""Options that several commands have, and the settings that follow from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from app.commands.group import CommandError

if TYPE_CHECKING:
    from app.settings import Settings


def model_folders(incomplete: str) -> list[str]:
    """Completion: model folders, and other folders as the way to one."""
    return [
        each.removesuffix("/") if Path(each, "manifest.json").is_file() else each
        for each in _paths(incomplete)
        if each.endswith("/")
    ]


def row_files(incomplete: str) -> list[str]:
    """Completion: folders, and files of a kind that can be read."""
    from app.files import KINDS

    return [each for each in _paths(incomplete) if each.lower().endswith((*KINDS, "/"))]


def _paths(incomplete: str) -> list[str]:
    """What there is that begins so, folders with a slash behind them."""
    folder, _, _ = incomplete.rpartition("/")
    here = Path(folder or ("/" if incomplete.startswith("/") else "."))
    inside = sorted(each for each in here.glob("*") if not each.name.startswith("."))
    typed = [f"{each}/" if each.is_dir() else str(each) for each in inside]
    return [each for each in typed if each.startswith(incomplete.removeprefix("./"))]


def tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completion: the heads of the model folder that is named, or of the embedded one."""
    from app.runtime.artifact import load_manifest

    settings = settings_from(model_dir=ctx.params.get("model_dir"))
    return [name for name in load_manifest(settings.model_dir).tasks if name.startswith(incomplete)]


ModelDir = Annotated[
    Path | None,
    typer.Option(
        help="The model folder; the embedded student by default.  [LIGHTMBERT_MODEL_DIR]",
        autocompletion=model_folders,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu or cuda; cpu by default.  [LIGHTMBERT_DEVICE]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def print_json(found: object) -> None:
    """One line on standard output."""
    typer.echo(orjson.dumps(found).decode())


def settings_from(**given: object) -> "Settings":
    """Settings from what was given, then from the environment, then by default.

    Raises:
        CommandError: a value is not valid, or a variable is not a setting.
    """
    from pydantic import ValidationError

    from app.settings import load_settings

    try:
        return load_settings(**given)
    except ValidationError as error:
        wrong = (each for each in error.errors() if each["type"] != "default_factory_not_called")
        told = "; ".join(f"{e['loc'][0]}: {e['msg']}, not {e['input']!r}" for e in wrong)
        raise CommandError(told) from None
    except ValueError as error:
        raise CommandError(str(error)) from None
