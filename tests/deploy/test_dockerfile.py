"""What both images promise: no root, no torch, no compiler, pinned parts, a truthful health check."""

import re
import tomllib
from fnmatch import fnmatch

import pytest
from dockerfile import ROOT, inherited, parent_of, read_dockerfile
from outside_tools import run_tool

TARGETS = ("cpu", "gpu")
INSTRUCTIONS = read_dockerfile()
FINAL_STAGES = ("runtime", *TARGETS)


def _environment(target: str) -> dict[str, str]:
    pairs = re.findall(r'(\w+)=("[^"]*"|\S+)', " ".join(inherited(target, "ENV")))
    return {name: value.strip('"') for name, value in pairs}


def test_hadolint_has_nothing_to_say() -> None:
    result = run_tool("hadolint", "--no-color", "Dockerfile")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_the_service_does_not_run_as_root(target: str) -> None:
    users = inherited(target, "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1])
    last = [i for i in INSTRUCTIONS if i.stage == target][-1]
    assert last.keyword == "USER", (
        "nothing may run as root after the user is set, and nothing before"
    )


@pytest.mark.parametrize("target", TARGETS)
def test_the_service_is_process_one_and_is_told_to_stop(target: str) -> None:
    assert inherited(target, "CMD") == ['["lightmbert", "serve"]']
    assert inherited(target, "ENTRYPOINT") == []
    assert inherited(target, "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_environment_names_only_settings_that_exist(target: str) -> None:
    from app.settings import PREFIX, Settings

    given = {name: value for name, value in _environment(target).items() if name.startswith(PREFIX)}
    settings = Settings.model_validate(
        {name[len(PREFIX) :].lower(): v for name, v in given.items()}
    )
    assert settings.host == "0.0.0.0"
    assert settings.device == {"cpu": "cpu", "gpu": "cuda"}[target]
    assert f"{settings.port}" in inherited(target, "EXPOSE")
    (student,) = [v for v in inherited(target, "COPY") if v.startswith("models/")]
    assert student.split() == ["models/lightmbert-mini", str(settings.model_dir)]


@pytest.mark.parametrize("target", TARGETS)
def test_final_stages_start_from_the_plain_base(target: str) -> None:
    assert parent_of(target) == "runtime"
    assert parent_of("runtime") == "${PYTHON_IMAGE}"
    (base,) = [i.value for i in INSTRUCTIONS if i.stage == "" and i.keyword == "ARG"]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11-slim-\w+", base)


def test_nothing_installs_torch_or_a_compiler() -> None:
    for instruction in INSTRUCTIONS:
        if instruction.keyword == "RUN":
            forbidden = r"\b(torch|transformers|distill|gcc|build-essential|apt-get|curl|wget)\b"
            assert not re.search(forbidden, instruction.value), instruction
        if instruction.keyword == "COPY":
            assert "distill" not in instruction.value, instruction


@pytest.mark.parametrize("target", TARGETS)
def test_dependencies_are_constrained_and_never_see_the_code(target: str) -> None:
    stage = f"dependencies-{target}"
    assert inherited(stage, "COPY") == ["pyproject.toml constraints.txt ./"]
    install = inherited(stage, "RUN")[-1].split()
    assert install[install.index("install") + 1 :][:3] == [
        "--constraint",
        "constraints.txt",
        f'".[{target}]"',
    ]
    assert any(value.startswith(f"--from={stage} ") for value in inherited(target, "COPY"))


def test_the_health_check_asks_readyz_without_curl() -> None:
    (check,) = [i for i in INSTRUCTIONS if i.keyword == "HEALTHCHECK"]
    assert check.stage == "runtime"
    program, flag, code = check.exec_form
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "/readyz" in code


def test_the_label_tells_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"VERSION={project['version']}" in inherited("cpu", "ARG")
    (labels,) = inherited("cpu", "LABEL")
    assert f'licenses="{project["license"]}"' in labels


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert ignore[1] == "*"
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source
        for i in INSTRUCTIONS
        if i.keyword == "COPY" and not i.value.startswith("--from")
        for source in i.value.split()[:-1]
    }
    assert {source.removeprefix("./") for source in copied} == let_in
    assert not any(fnmatch("distill/train.py", pattern) for pattern in let_in)
