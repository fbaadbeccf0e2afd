"""The Python of the README, run as it stands against a live server."""

import re
import subprocess
import sys

import pytest
from live import Live
from served import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)


def test_every_block_of_python_shows_what_comes_of_it() -> None:
    assert len(BLOCKS) == README.count("```python\n") > 0


@pytest.mark.parametrize(("script", "shown"), BLOCKS)
def test_a_block_of_python_prints_what_is_shown(script: str, shown: str, server: Live) -> None:
    here = script.replace("http://127.0.0.1:8000", server.url)
    assert here != script
    result = subprocess.run(
        [sys.executable, "-c", here], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (0, shown), result.stderr
