"""A real Prometheus scrapes a real service: does every panel of the dashboard have something to show?"""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile import ROOT
from expressions import dashboard_expressions

pytestmark = pytest.mark.slow
DEADLINE_S = 60


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _process(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)


def _post(url: str, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()


def _query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=5) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def _has_a_number(found: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(series["value"][1])) for series in found)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, toy_model_dir: Path
) -> Iterator[tuple[str, str]]:
    """Addresses of a service with a toy student and of a Prometheus that scrapes it each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed; deploy/README.md says where it comes from")
    folder = tmp_path_factory.mktemp("prometheus")
    service, prometheus = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "1s",
    }
    config["rule_files"] = [str(ROOT / "deploy" / "rules" / "*.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [service]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    serve = "from app.serve import serve; from app.settings import load_settings; serve(load_settings())"
    scrape = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
    ]
    with (
        _process(
            [sys.executable, "-c", serve],
            folder / "service.log",
            LIGHTMBERT_PORT=service.split(":")[1],
            LIGHTMBERT_MODEL_DIR=str(toy_model_dir),
        ),
        _process([*scrape, f"--web.listen-address={prometheus}"], folder / "prometheus.log"),
    ):
        yield f"http://{service}", f"http://{prometheus}"


def test_every_panel_has_something_to_show(stack: tuple[str, str]) -> None:
    service, prometheus = stack
    waiting = {
        place: expression.replace("$__rate_interval", "30s").replace("$instance", ".*")
        for place, expression in dashboard_expressions().items()
        if place.startswith("panel")
    }
    give_up = time.monotonic() + DEADLINE_S
    while waiting and time.monotonic() < give_up:
        try:
            _post(f"{service}/embed", {"texts": ["hund", "katt hund"]})
            _post(f"{service}/classify", {"texts": ["tax"], "task": "topic"})
            waiting = {p: e for p, e in waiting.items() if not _has_a_number(_query(prometheus, e))}
        except OSError:
            pass  # one of the two is still starting
        time.sleep(0.5)
    assert not waiting
