"""Every command of the README is run here, or is named below with who runs it instead."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "127.0.0.1:8000"
LIGHTMBERT = f"{sys.executable} -m app.cli"

RUN_ELSEWHERE = {
    "make serve": "the service below is started as its last line does",
    "make test": "this is it",
    "make check": "continuous integration runs it before the tests",
    "make setup-distill": "the same environment as the tests'",
    "docker compose up": "needs a container engine; tests/deploy checks what can be without one",
}


def blocks() -> list[tuple[list[str], str]]:
    """Each shell block's commands, with the JSON block that shows what comes of them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(.*?)```(?:\n\n```json\n(.*?)```)?", text, re.DOTALL)
    return [(commands_in(shell), shown) for shell, shown in found]


def commands_in(shell: str) -> list[str]:
    lines = shell.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*$", "", line) for line in lines if line.strip()]


def runnable() -> list[tuple[str, str]]:
    return [
        (command, shown)
        for commands, shown in blocks()
        for command in commands
        if command not in RUN_ELSEWHERE
    ]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a service with the embedded student listens, started as `make serve` does."""
    with subprocess.Popen(
        [*LIGHTMBERT.split(), "serve", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield listening_address(process)
        finally:
            process.terminate()


def listening_address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(r"http://(127\.0\.0\.1:\d+)", line):
            wait_until_ready(match[1])
            return match[1]
    raise AssertionError("the service ended before it listened")


def wait_until_ready(address: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"http://{address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)  # the process has no other way to tell us
    raise AssertionError("not ready within a minute")


def test_the_readme_has_commands_and_each_exception_is_one_of_them() -> None:
    commands = {command for commands, _ in blocks() for command in commands}
    assert set(RUN_ELSEWHERE) <= commands
    assert len(runnable()) >= 5


@pytest.mark.parametrize(("command", "shown"), runnable())
def test_a_command_of_the_readme_works(command: str, shown: str, address: str) -> None:
    if command.startswith("curl") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    result = subprocess.run(
        command.replace(ADDRESS, address).replace(".venv/bin/lightmbert", LIGHTMBERT),
        cwd=ROOT,
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    if shown:
        assert_alike(json.loads(result.stdout), json.loads(shown))


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
