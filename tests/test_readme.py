"""Every block of the README is run here, in order, or is named below with who runs it instead.

A reader's folder is made for them: what the repository holds, a `.venv` of its own, and room for
the files that the commands write.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from served import ROOT, served

ADDRESS = "127.0.0.1:8000"

RUN_ELSEWHERE = {
    "make serve": "the service below is started as its last line does",
    "make test": "this is it",
    "make check": "continuous integration runs it before the tests",
    "make setup-distill": "the same environment as the tests'",
    ".venv/bin/pip install --quiet --constraint constraints.txt --editable '.[heads]'": (
        "those packages come with the extra distill"
    ),
    "docker compose up": "needs a container engine; tests/deploy checks what can be without one",
}


@dataclass(frozen=True)
class Block:
    """What a reader types, and what they are shown."""

    script: str
    kind: str
    """`json`, `jsonl`, `text`, or nothing where nothing is shown."""
    shown: str


def fences() -> list[tuple[str, str]]:
    """Each fenced block's language and content."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def blocks() -> list[Block]:
    """The shell's blocks, without what is run elsewhere."""
    found = []
    for (language, script), (kind, shown) in zip(fences(), [*fences()[1:], ("", "")], strict=True):
        lines = [line for line in script.splitlines() if command_of(line) not in RUN_ELSEWHERE]
        if language == "sh" and lines:
            kind = kind if kind in ("json", "jsonl", "text") else ""
            found.append(Block("\n".join(lines), kind, shown))
    return found


def command_of(line: str) -> str:
    """Without the comment behind it."""
    return re.sub(r"\s+# .*$", "", line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands: the repository, with `lightmbert` in its `.venv`."""
    folder = tmp_path_factory.mktemp("reader")
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    (folder / ".venv" / "bin").mkdir(parents=True)
    command = folder / ".venv" / "bin" / "lightmbert"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m app.cli "$@"\n')
    command.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """One whose home, and whose heads, are the reader's own."""
    own = {"HOME": str(folder), "LIGHTMBERT_HEADS_DIR": str(folder / "heads")}
    return os.environ | own


@pytest.fixture(scope="module")
def address(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Where a service with the embedded student listens, started as `make serve` does."""
    with served([".venv/bin/lightmbert"], cwd=folder, environment=environment) as service:
        yield service.address


def fitted_heads(address: str) -> set[str]:
    return set(httpx.get(f"http://{address}/info").json()["models"][0]["fitted_heads"])


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)  # the process has no other way to tell us


def test_every_block_of_the_readme_is_run_by_somebody() -> None:
    commands = {command_of(line) for _, script in fences() for line in script.splitlines()}
    assert set(RUN_ELSEWHERE) <= commands
    drawn = [language for language, _ in fences() if not language]
    assert len(drawn) == 1, "the tree, which test_layout.py checks; all else is run"
    assert {language for language, _ in fences() if language} == {
        "sh", "python", "json", "jsonl", "text",
    }  # fmt: skip
    assert len(blocks()) >= 8


def test_what_the_readme_shows_is_shown_behind_what_was_typed() -> None:
    languages = [language for language, _ in fences()]
    for before, after in zip(["", *languages], languages, strict=False):
        assert after not in ("json", "jsonl", "text") or before in ("sh", "python")


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.script.splitlines()[0][:50])
def test_a_block_of_the_readme_works(
    block: Block, address: str, folder: Path, environment: dict[str, str]
) -> None:
    if "curl" in block.script and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.script.replace(ADDRESS, address)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    if block.kind:
        assert_alike(read(block.kind, result.stdout), read(block.kind, block.shown))
    if fitted := re.search(r"head fit (\w+)", block.script):
        wait_until(
            lambda: fitted[1] in fitted_heads(address)
        )  # a second, on a machine that is idle


def read(kind: str, output: str) -> object:
    if kind == "json":
        return json.loads(output)
    if kind == "jsonl":
        return [json.loads(line) for line in output.splitlines()]
    words = re.split(r"(\s+)", output)
    return [float(word) if re.fullmatch(r"-?\d+\.\d+", word) else word for word in words]


def assert_alike(found: object, shown: object) -> None:
    """Equal, but for what int8 arithmetic may move from one processor to another."""
    if isinstance(shown, float):
        assert found == pytest.approx(shown, abs=0.1)
    elif isinstance(shown, dict):
        assert isinstance(found, dict)
        assert found.keys() == shown.keys()
        for key, value in shown.items():
            assert_alike(found[key], value)
    elif isinstance(shown, list):
        assert isinstance(found, list)
        assert len(found) == len(shown)
        for one, other in zip(found, shown, strict=True):
            assert_alike(one, other)
    else:
        assert found == shown
