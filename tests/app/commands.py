"""The command line, in this process."""

from typer.testing import CliRunner, Result

from app.cli import app


def lightmbert(*arguments: object, stdin: str | bytes | None = None, **how: object) -> Result:
    """What `lightmbert` makes of these words; `how` are options of `CliRunner.invoke`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, **how)
