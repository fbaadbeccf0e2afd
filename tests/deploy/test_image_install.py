"""The cpu image's own install steps, run without an image: COPY and RUN lines as they stand.

Absolute paths move under a temporary root, which all stages share; mounts and steps that are not
Python's (users, labels) are left out. What this cannot show is the base image and the engine.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import ROOT, Instruction, inherited, read_dockerfile

pytestmark = pytest.mark.slow

STAGES = ("build", "dependencies-cpu", "wheel", "cpu")
INSTALL_STEPS = ("-m venv", "pip wheel", " install ")
TRAINING_ONLY = ("torch", "transformers", "optimum", "datasets", "sklearn", "distill")
MOST_BYTES = 250_000_000


def _moved(text: str, root: Path) -> str:
    """Put absolute paths under `root`."""
    return re.sub(r"""(^|[\s="'])/(?=\w)""", rf"\1{root}/", text)


def _copy(instruction: Instruction, *, work: Path, root: Path) -> None:
    if instruction.value.startswith("--from="):
        return  # all stages share one root: it is there already
    *sources, target = instruction.value.split()
    for source in sources:
        into = Path(_moved(target, root)) if target.startswith("/") else work / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, into)


def _run(instruction: Instruction, *, work: Path, root: Path) -> None:
    command = _moved(re.sub(r"--mount=\S+\s*", "", instruction.value), root)
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LIGHTMBERT_"))
    }
    environment["VIRTUAL_ENV"] = str(root / "opt" / "lightmbert")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cpu image has under its root, as far as it is ours."""
    root = tmp_path_factory.mktemp("root")
    work = root / "build"
    work.mkdir()
    ran = 0
    for stage in STAGES:
        for instruction in [i for i in read_dockerfile() if i.stage == stage]:
            if instruction.keyword == "COPY":
                _copy(instruction, work=work, root=root)
            elif instruction.keyword == "RUN" and any(
                s in instruction.value for s in INSTALL_STEPS
            ):
                _run(instruction, work=work, root=root)
                ran += 1
    assert ran == 4, "environment, dependencies, wheel, installation"
    return root


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    """The image's ENV lines and nothing of this process."""
    pairs = re.findall(r"(\w+)=(\S+)", " ".join(inherited("cpu", "ENV")))
    given = {name: _moved(value, root) for name, value in pairs}
    return {
        **given,
        "PATH": f"{root}/opt/lightmbert/bin:/usr/bin:/bin",
        "LIGHTMBERT_HOST": "127.0.0.1",
    }


def _python(environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    # -I: the current folder lends the environment nothing that it lacks.
    command = [f"{environment['VIRTUAL_ENV']}/bin/python", "-I", "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_service_imports_from_what_the_image_installs(environment: dict[str, str]) -> None:
    result = _python(environment, "import app.main, sys; print(app.__file__)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(environment["VIRTUAL_ENV"])


@pytest.mark.parametrize("package", TRAINING_ONLY)
def test_the_image_has_no_training_package(environment: dict[str, str], package: str) -> None:
    result = _python(environment, f"import importlib.util as u; print(u.find_spec({package!r}))")
    assert result.stdout.strip() == "None", result.stderr


def test_the_environment_is_small(environment: dict[str, str]) -> None:
    files = [path for path in Path(environment["VIRTUAL_ENV"]).rglob("*") if not path.is_symlink()]
    assert sum(path.stat().st_size for path in files if path.is_file()) < MOST_BYTES


def test_the_command_serves_the_student_until_it_is_told_to_stop(
    environment: dict[str, str],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment["LIGHTMBERT_PORT"] = str(free.getsockname()[1])
    instructions = {i.keyword: i for i in read_dockerfile() if i.stage == "runtime"}
    program, *arguments = instructions["CMD"].exec_form
    probe = instructions["HEALTHCHECK"].exec_form[-1]
    assert _python(environment, probe).returncode == 1, "nothing answers yet"

    command = [f"{environment['VIRTUAL_ENV']}/bin/{program}", *arguments]
    with subprocess.Popen(
        command, env=environment, cwd="/", stderr=subprocess.PIPE, text=True
    ) as service:
        try:
            healthy = any(_python(environment, probe).returncode == 0 for _ in range(40))
            assert healthy, "the health check never passed"
            service.send_signal(getattr(signal, instructions["STOPSIGNAL"].value))
            assert service.wait(timeout=20) == 0
        finally:
            service.kill()
