"""`lightmbert info`."""

from dataclasses import asdict

import typer

from app.commands.group import examples
from app.commands.options import Json, print_json, settings_from

INFO_EXAMPLES = examples("lightmbert info", "lightmbert info --json | jq .versions")


def info(json: Json = False) -> None:
    """Print versions, processor and settings, to send with a question."""
    settings = settings_from()
    from app.machine import described

    machine = described(settings)
    if json:
        print_json(asdict(machine))
        return
    packages = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    typer.echo(f"versions   Python {machine.python}, {packages}")
    typer.echo(f"processor  {machine.cpu}, {machine.cpus} CPUs")
    typer.echo(f"devices    {', '.join(machine.devices)}")
    for each in machine.settings:
        typer.echo(f"{'set      ' if each.set else 'default  '}  {each.variable}={each.value}")
