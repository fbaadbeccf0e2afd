"""`lightmbert head`: classifiers of one's own, from a dozen examples, on a served student."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.group import CommandError, Group, examples
from app.commands.options import Device, Json, ModelDir, print_json, settings_from
from app.errors import LightMBERTError

if TYPE_CHECKING:
    from app.fitting import ClassWeight
    from app.head_file import HeadError, HeadFile

head = typer.Typer(cls=Group)

HEAD_HELP = "Fit a classifier of your own on a few examples, and serve it."
FIT_EXAMPLES = examples(
    "lightmbert head fit pets examples.csv       columns text and label",
    "lightmbert head fit pets dogs.txt cats.txt  a text a line; a file's name is its label",
    "lightmbert head fit tags posts.jsonl --label-column tags --separator ','",
    "lightmbert head fit pets examples.csv --precision 0.95  answer only when so sure",
    "lightmbert classify --task pets new.txt     and a running service has it within a second",
)


def _known(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completion: the heads there are."""
    from app.head_folder import list_heads

    folder = settings_from(heads_dir=ctx.params.get("heads_dir")).heads_dir
    return [name for name in list_heads(folder) if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="What the task is called.", show_default=False)]
Known = Annotated[
    str, typer.Argument(help="A fitted head.", show_default=False, autocompletion=_known)
]
HeadsDir = Annotated[Path | None, typer.Option(help="Where heads are.  [LIGHTMBERT_HEADS_DIR]")]


@head.command(epilog=FIT_EXAMPLES)
def fit(
    name: Name,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Files and folders of csv, jsonl, parquet and txt.", show_default=False
        ),
    ],
    column: Annotated[str, typer.Option(help="Where files with columns hold the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Where they hold the label.")] = "label",
    separator: Annotated[
        str | None, typer.Option(help="Between labels, where a text may have several or none.")
    ] = None,
    class_weight: Annotated[
        str | None,
        typer.Option(help="balanced, or such as spam=3,ham=1: how much an example counts."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Give no label below this probability.")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Choose the threshold so that labels are so often right."),
    ] = None,
    heads_dir: HeadsDir = None,
    model_dir: ModelDir = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Fit a head on examples in any language; it answers in all that the model knows."""
    if threshold is not None and precision is not None:
        raise CommandError("--threshold and --precision exclude each other")
    settings = settings_from(heads_dir=heads_dir, model_dir=model_dir, device=device)
    from app.head_fitting import Wishes, check_new_name, fit_head
    from app.labelled_rows import Columns, read_examples

    check_new_name(name, settings)
    found = read_examples(paths, Columns(column, label_column, separator))
    wishes = Wishes(
        class_weight=_class_weight(class_weight, found.known),
        threshold=threshold,
        precision=precision,
    )
    fitted = fit_head(name, found, wishes, settings)
    if json:
        print_json({"head": name, "folder": str(fitted.folder), **fitted.figures})
        return
    for line in fitted.lines:
        typer.echo(line)


@head.command("list", epilog=examples("lightmbert head list"))
def list_(heads_dir: HeadsDir = None, json: Json = False) -> None:
    """List the fitted heads, and say which cannot be read."""
    from app.head_folder import list_heads

    folder = settings_from(heads_dir=heads_dir).heads_dir
    found = list_heads(folder)
    if json:
        print_json([{"head": name, **_told(each)} for name, each in found.items()])
        return
    for name, each in found.items():
        typer.echo(f"{name}  {_in_short(each)}")
    if not found:
        typer.echo(f"no heads in {folder}", err=True)


@head.command(epilog=examples("lightmbert head show pets"))
def show(name: Known, heads_dir: HeadsDir = None, json: Json = False) -> None:
    """Print what a fitted head says of itself."""
    from app.head_folder import read_head

    file = read_head(settings_from(heads_dir=heads_dir).heads_dir / name).file
    if json:
        print_json(_told(file))
        return
    expected = file.expected
    typer.echo(f"{name}  {_in_short(file)}")
    typer.echo(f"labels     {', '.join(file.task.labels)}")
    typer.echo(f"fitted     {file.created} on {expected.rows} texts")
    typer.echo(
        f"expected   accuracy {expected.accuracy:.2f} ({expected.accuracy_low:.2f} to "
        f"{expected.accuracy_high:.2f}), macro-F1 {expected.macro_f1:.2f}"
    )
    if file.task.threshold is not None:
        typer.echo(f"threshold  {file.task.threshold:.3f}, an answer for {expected.answered:.0%}")


@head.command(epilog=examples("lightmbert head remove pets"))
def remove(name: Known, heads_dir: HeadsDir = None) -> None:
    """Take a fitted head out of use, and delete it."""
    from app.head_folder import remove_head

    remove_head(settings_from(heads_dir=heads_dir).heads_dir, name)
    typer.echo(f"removed {name}", err=True)


def _class_weight(given: str | None, labels: tuple[str, ...]) -> "ClassWeight":
    if given is None or given == "balanced":
        return given
    weights = {}
    for part in given.split(","):
        label, _, number = part.rpartition("=")
        if label.strip() not in labels:
            known = ", ".join(labels)
            raise CommandError(f"--class-weight: no label {label.strip()!r}; there are: {known}")
        try:
            weights[label.strip()] = float(number)
        except ValueError:
            raise CommandError(f"--class-weight: {number!r} is no number") from None
        if not 0 < weights[label.strip()] < float("inf"):
            raise CommandError(f"--class-weight: {number} must be above 0")
    return weights


def _told(found: "HeadFile | HeadError") -> dict[str, Any]:
    if isinstance(found, LightMBERTError):
        return {"error": str(found)}
    return found.model_dump(mode="json", exclude={"name", "schema_version", "seal"})


def _in_short(found: "HeadFile | HeadError") -> str:
    if isinstance(found, LightMBERTError):
        return f"cannot be used: {found}"
    on, accuracy = found.fitted_on, found.expected.accuracy
    labels = f"{len(found.task.labels)} labels on {on.model} {on.revision}"
    return f"{labels}, accuracy {accuracy:.2f} expected"
