"""A service in a process of its own, on the embedded student unless it is told otherwise."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
LIGHTMBERT = (sys.executable, "-m", "app.cli")
START_S = 60


@dataclass(frozen=True)
class Service:
    """One that is ready."""

    address: str
    """Host and port."""
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@contextmanager
def served(
    command: Sequence[str] = LIGHTMBERT,
    *,
    cwd: Path = ROOT,
    environment: Mapping[str, str] = os.environ,
    **settings: object,
) -> Iterator[Service]:
    """`lightmbert serve` with these `LIGHTMBERT_*` settings; killed at the end, if it still runs."""
    named = {f"LIGHTMBERT_{name.upper()}": str(value) for name, value in settings.items()}
    with (
        tempfile.NamedTemporaryFile() as log,  # a pipe that nobody reads would stop it when full
        subprocess.Popen(
            [*command, "serve", "--port", "0"],
            cwd=cwd,
            env={**environment, "PYTHONUNBUFFERED": "1"} | named,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield Service(_ready_address(process, Path(log.name)), process)
        finally:
            process.kill()


def _ready_address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Where it answers; a process has no other way to say so than its log and its port."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        told = log.read_text()
        assert process.poll() is None, f"the service ended with {process.returncode}: {told}"
        found = re.search(r"http://(127\.0\.0\.1:\d+)", told)
        if found and _is_ready(found[1]):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"not ready within {START_S} s: {told}")


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/readyz", timeout=START_S).status_code == 200
    except httpx.TransportError:
        return False
