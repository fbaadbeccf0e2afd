"""Programs that check this folder's files where they are installed; else their tests skip."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import ROOT


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment or of the host; skip the test where there is none."""
    program = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if program is None:
        pytest.skip(f"{name} is not installed; deploy/README.md says where it comes from")
    return subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
