"""The table of clients in app/api/README.md says what these tests show, and nothing else."""

import ast
import re
from importlib import metadata

from served import ROOT

HERE = ROOT / "tests" / "conformance"


OURS = {
    "test_clients_table.py",
    "test_connections.py",
    "test_openapi_document.py",
    "test_published_shapes.py",
    "test_readme_python.py",
}
"""Files that test no client."""


def rows() -> list[list[str]]:
    """Client, version, call, what to set, test: the cells of each row, without their code marks."""
    readme = (ROOT / "app" / "api" / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Clients\n(.*?)(?=^## |\Z)", readme, re.DOTALL | re.MULTILINE)
    assert section, "there is no section of clients"
    lines = [line for line in section[1].splitlines() if line.startswith("| `")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def defined() -> dict[str, str]:
    """Each test of this folder, and the file that holds it."""
    return {
        node.name: path.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def pins() -> dict[str, str]:
    text = (HERE / "clients.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def imported(file: str) -> set[str]:
    """The packages, by the names they are installed by, whose modules a file imports."""
    modules = set()
    for node in ast.walk(ast.parse((HERE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    owners = metadata.packages_distributions()
    return {owner for module in modules for owner in owners.get(module.partition(".")[0], ())}


def test_every_row_names_a_test_of_that_client() -> None:
    there = defined()
    packages = {file: imported(file) for file in set(there.values())}
    for client, _, _, _, name in rows():
        assert name in there, name
        assert client in packages[there[name]], f"{there[name]} does not import {client}"


def test_every_version_is_the_one_that_is_pinned_and_installed() -> None:
    pinned = pins()
    for client, version, *_ in rows():
        assert pinned[client] == version, client
        assert metadata.version(client) == version, client


def test_every_client_that_is_tested_has_a_row() -> None:
    assert {defined()[row[4]] for row in rows()} == set(defined().values()) - OURS
