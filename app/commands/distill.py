"""The commands under `lightmbert distill`, where the extra that holds it is installed."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.commands.group import Group, examples
from app.errors import LightMBERTError

VERBS = (
    ("tokenizer", "Train a tokenizer on text of many languages."),
    ("align", "Learn a multilingual embedding table in an English encoder's input space."),
    ("plan", "Tell what training will cost, before anything is loaded."),
    ("train", "Train a student from its teacher, or a teacher from translations."),
    ("average", "Average the weights of encoders that were trained from one another."),
    ("compare", "Train several ways and seeds, and measure them side by side."),
    ("finetune", "Fit classification heads on a frozen encoder, or fine-tune all of it."),
    ("study", "Compare KD at pre-training and at fine-tuning, language by language."),
    ("export", "Write a model folder: one ONNX graph with its heads, checked against torch."),
    ("quantize", "Add variants of lower precision to a model folder."),
    ("evaluate", "Measure model folders and encoders per language."),
    ("qat", "Let an encoder learn to be int8, where rounding it loses too much."),
    ("promote", "Put a model folder in the place of another, within limits per language."),
    ("trim", "Cut an encoder's vocabulary to what some languages need."),
)
"""Verbs of `distill`: modules of the same name with `run`, and what they do."""

OWN_EXTRAS = frozenset({"mteb"})
"""Packages that few recipes need, each an extra of its own."""

distill = typer.Typer(cls=Group, help="Make students from recipes.")
lir = typer.Typer(cls=Group, help="Take the language out of embeddings.")
distill.add_typer(lir, name="lir")

RecipeFile = Annotated[Path, typer.Argument(help="A TOML file.", show_default=False)]


class DistillError(LightMBERTError):
    """A command of `distill` cannot be run as it was called."""

    code = "bad_command"


@contextmanager
def _distill_installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("app.", "distill.")):
            raise
        package = (error.name or "").partition(".")[0]
        extra = package if package in OWN_EXTRAS else "distill"
        raise DistillError(
            f"distill needs {error.name}: pip install 'lightmbert[{extra}]'"
        ) from error


def _run_recipe(recipe: Path, module: str, function: str = "run") -> None:
    with _distill_installed():
        from distill.config import load_recipe

        loaded = load_recipe(recipe)
        getattr(importlib.import_module(f"distill.{module}"), function)(loaded)


def _add_verb(name: str, does: str) -> None:
    @distill.command(name, help=does, epilog=examples(f"lightmbert distill {name} recipe.toml"))
    def run(recipe: RecipeFile) -> None:
        _run_recipe(recipe, name)


for _name, _does in VERBS:
    if _name != "trim":
        _add_verb(_name, _does)


@distill.command(
    help=f"{dict(VERBS)['trim']} By a recipe, or by options in its place.",
    epilog=examples(
        "lightmbert distill trim recipe.toml",
        "lightmbert distill trim --encoder big --folder small --languages de,fr --corpus texts",
    ),
)
def trim(
    ctx: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="A TOML file.", show_default=False)] = None,
    encoder: Annotated[str | None, typer.Option(help="Folder or hub id.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the smaller one goes.")] = None,
    languages: Annotated[str | None, typer.Option(help="Such as de,fr.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="A folder of LANG.parquet, .jsonl, .csv or .txt.")
    ] = None,
    min_share: Annotated[
        float, typer.Option(help="Of a language's texts that a piece must occur in.")
    ] = 0.0005,
    texts: Annotated[int, typer.Option(help="At most so many are read of a language.")] = 100_000,
    piece_head: Annotated[
        bool, typer.Option("--piece-head", help="Carry the masked-language head too.")
    ] = False,
) -> None:
    needed = {"encoder": encoder, "folder": folder, "languages": languages, "corpus": corpus}
    lacking = [f"--{name}" for name, value in needed.items() if value is None]
    if recipe is not None:
        if [name for name in ctx.params if _is_given(ctx, name)] != ["recipe"]:
            raise DistillError("trim takes a recipe or options, not both")
        _run_recipe(recipe, "trim")
        return
    if lacking:
        raise DistillError(f"trim needs a recipe, or also {', '.join(lacking)}")
    with _distill_installed():
        importlib.import_module("distill.trim").run_options(
            **needed, min_share=min_share, texts_per_language=texts, piece_head=piece_head
        )


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@lir.command("fit", epilog=examples("lightmbert distill lir fit recipe.toml"))
def lir_fit(recipe: RecipeFile) -> None:
    """Find what all sentences of a language share, from the recipe's [lir] table."""
    _run_recipe(recipe, "lir", "fit")


@lir.command("apply", epilog=examples("lightmbert distill lir apply recipe.toml"))
def lir_apply(recipe: RecipeFile) -> None:
    """Take it out of the embeddings of a model folder, inside its graphs."""
    _run_recipe(recipe, "lir", "apply")


@lir.command("measure", epilog=examples("lightmbert distill lir measure recipe.toml"))
def lir_measure(recipe: RecipeFile) -> None:
    """Score retrieval and similarity with it and without it."""
    _run_recipe(recipe, "lir", "measure")
