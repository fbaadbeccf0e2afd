"""`lightmbert serve`."""

from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand

from app.commands.group import examples
from app.commands.options import settings_from
from app.errors import LightMBERTError

SERVE_EXAMPLES = (
    examples(
        "lightmbert serve",
        "lightmbert serve --port 9000 --workers 2",
        "lightmbert serve --model models/a --model models/b   requests name the one they mean",
        "LIGHTMBERT_API_KEY=secret lightmbert serve --host 0.0.0.0",
    )
    + "\n\nIn brackets: the variable that says the same, and its value on this machine where "
    "nobody sets it. A flag goes before its variable. Keys have no flag, because anybody can "
    "list the arguments of processes: LIGHTMBERT_API_KEY, LIGHTMBERT_ADMIN_KEY."
)


class ServeCommand(TyperCommand):
    """A command with a flag for each setting, which are looked up when somebody needs them."""

    @cached_property
    def _flags(self) -> list[Any]:
        from app.commands.flags import parameters

        return parameters()

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - as in the parent
        return [*self._flags, *super().get_params(ctx)]

    def invoke(self, ctx: Any) -> None:  # noqa: ANN401 - as in the parent
        ctx.meta["flags"], ctx.params = ctx.params, {}
        super().invoke(ctx)


def serve(ctx: typer.Context) -> None:
    """Run the HTTP service until it is told to stop."""
    settings = settings_from(**ctx.meta["flags"])
    from app.runtime.artifact import load_manifests
    from app.serve import listen
    from app.serve import serve as serve_until_stopped

    load_manifests(settings.model_dirs)  # what is wrong here is said before anything starts
    try:
        listening = listen(settings.host, settings.port)
    except OSError as error:
        raise LightMBERTError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}"
        ) from None
    url = _url(settings.host, listening.getsockname()[1])
    typer.echo(f"page     {url}/")
    typer.echo(f"docs     {url}/docs")
    typer.echo(f"metrics  {url}/metrics")
    typer.echo(
        f"try      curl {url}/embed -H 'content-type: application/json' "
        """-d '{"texts": "Habari za asubuhi"}'"""
    )
    raise typer.Exit(serve_until_stopped(settings, listening))


def _url(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
