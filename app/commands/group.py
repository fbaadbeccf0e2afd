"""How every command ends: in one line where it cannot go on, and with a status that says why.

0 done, 1 it could not be done, 2 the command line is wrong, 130 interrupted, 141 nobody reads
the output any more.
"""

import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from app.errors import LightMBERTError

INTERRUPTED = 130
NOBODY_READS = 141
"""128 and the signal's number, as a shell counts them."""


class CommandError(LightMBERTError):
    """A command cannot be run as it was called, or not with the variables that are set."""

    code = "bad_command"


class Group(TyperGroup):
    """Commands whose errors are one line; a traceback is for what nobody foresaw.

    Without a command it shows its help.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as in the parent
        return super().parse_args(ctx, args or ["--help"])

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as in the parent
        titled: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            title = getattr(command, "rich_help_panel", None) or "Commands"
            titled.setdefault(title, []).append((name, command.get_short_help_str(limit=72)))
        for title, rows in titled.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as in the parent
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # what cannot be written is found while it can still be told
            return result
        except BrokenPipeError:
            _abandon_stdout()
            raise typer.Exit(NOBODY_READS) from None
        except OSError as error:
            _abandon_stdout()
            where = f"{error.filename}: " if error.filename else ""
            raise LightMBERTError(f"{where}{error.strerror or error}") from error

    def main(self, *args: Any, **extra: Any) -> NoReturn:  # noqa: ANN401 - as in the parent
        extra["standalone_mode"] = False
        try:
            status = super().main(*args, **extra) or 0
            if status == INTERRUPTED:
                _tell("interrupted")
        except LightMBERTError as error:
            _tell(str(error))
            status = 2 if isinstance(error, CommandError) else 1
        except TyperException as error:
            said = error.format_message().replace("Value error, ", "")  # typer asks pydantic
            _tell(f"{said}{_see_help(error)}")
            status = error.exit_code
        sys.exit(status)


def examples(*lines: str) -> str:
    """The end of a help text, with its lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _tell(message: str) -> None:
    typer.echo(f"lightmbert: {' '.join(message.split())}", err=True)


def _see_help(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" See: {context.command_path} --help" if context else ""


def _abandon_stdout() -> None:
    """Or Python tries once more to write it when it ends, and complains."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
