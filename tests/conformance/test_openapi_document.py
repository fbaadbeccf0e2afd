"""Schemathesis: whatever the OpenAPI document allows, and much that it forbids, is sent.

No answer may have a status, a content type or a body that the document does not give.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from live import Live

HERE = Path(__file__).resolve().parent
CHECKS = (
    "fails_only_by_a_deadline_of_the_callers",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


def cases_sent(server: Live, folder: Path, *options: str) -> int:
    """How many requests were made up, sent, and answered as documented.

    `folder` is where Schemathesis leaves what it remembers.
    """
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        *("run", f"{server.url}/openapi.json", "--checks", ",".join(CHECKS), "--no-color"),
        *("--suppress-health-check", "all", *options),
    ]
    found = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "fuzz_checks", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    generated = re.search(r"([\d,]+) generated", found.stdout)
    assert generated, found.stdout
    return int(generated[1].replace(",", ""))


def test_no_answer_surprises(server: Live, tmp_path: Path) -> None:
    """A short run; the same requests each time."""
    options = ("--phases", "examples,fuzzing", "-n", "10", "--generation-deterministic")
    assert cases_sent(server, tmp_path, *options) > 50


@pytest.mark.slow
def test_no_answer_surprises_among_five_thousand(server: Live, tmp_path: Path) -> None:
    options = ("-n", "400", "--generation-database", "none", "--continue-on-failure")
    assert cases_sent(server, tmp_path, *options) >= 5_000
