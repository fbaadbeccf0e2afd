"""Every setting is a flag of `serve`, its own variable, and a line of its help; secrets are not."""

import os
import re
from pathlib import Path

import pytest
from commands import lightmbert
from toy_student import write_model_dir

from app.commands.flags import parameters, secrets
from app.settings import PREFIX, fields_by_name

README = (Path(__file__).resolve().parents[2] / "app" / "README.md").read_text(encoding="utf-8")
SECRETS = {"api_key", "admin_key"}


def flags() -> dict[str, str]:
    """The long flag of each setting."""
    return {each.name: each.opts[-1] for each in parameters()}


def help_of_serve() -> str:
    return " ".join(lightmbert("serve", "--help", terminal_width=500).stdout.split())


def test_every_setting_but_secrets_is_a_flag_of_its_name() -> None:
    assert set(flags()) == set(fields_by_name()) - SECRETS
    assert all(flag == "--" + name.replace("_", "-") for name, flag in flags().items())


def test_secrets_have_variables_only_and_help_names_them() -> None:
    assert set(secrets()) == {PREFIX + name.upper() for name in SECRETS}
    told = help_of_serve()
    assert all(variable in told for variable in secrets())


def test_help_says_of_every_flag_what_it_is_its_variable_and_its_default() -> None:
    told = help_of_serve().replace("- ", "-")
    for name in flags():
        field = fields_by_name()[name]
        assert field.description, name
        assert f"[{PREFIX}{name.upper()}=" in told
    assert "[LIGHTMBERT_PORT=8000]" in told
    assert "[LIGHTMBERT_THREADS_ALONE=none]" in told
    assert re.search(r"\[LIGHTMBERT_RUNNERS=\d+\]", told)


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--port", "70000", "port: Input should be less than or equal to 65535, not '70000'"),
        ("--max-wait-s", "soon", "max_wait_s: Input should be a valid number, .* not 'soon'"),
        ("--device", "tpu", "Invalid value for '--device': 'tpu' is not one of .*"),
    ],
)
def test_a_flag_is_checked_as_its_variable_is(flag: str, value: str, told: str) -> None:
    result = lightmbert("serve", flag, value)
    assert re.fullmatch(f"lightmbert: {told}\n", result.stderr), result.stderr


def test_a_flag_goes_before_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMBERT_MAX_WAIT_S", "-1")
    monkeypatch.setenv("LIGHTMBERT_PORT", "-2")
    result = lightmbert("serve", "--max-wait-s", "-3", "--no-autotune")
    assert "max_wait_s: Input should be greater than 0, not '-3'" in result.stderr
    assert "port: Input should be greater than or equal to 0, not '-2'" in result.stderr


@pytest.mark.parametrize("flag", ["--model", "--model-dir"])
def test_several_model_folders_are_given_by_one_flag_or_one_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: str
) -> None:
    folders = [str(write_model_dir(tmp_path / name)) for name in ("one one", "another")]
    by_flag = lightmbert("serve", flag, folders[0], flag, folders[1])
    monkeypatch.setenv("LIGHTMBERT_MODEL_DIR", os.pathsep.join(folders))
    by_variable = lightmbert("serve")
    told = f"lightmbert: {folders[0]} and {folders[1]} are both named toy\n"
    assert (by_flag.stderr, by_variable.stderr) == (told, told)


def test_the_table_of_settings_has_them_all_and_no_other() -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
    listed = [name.lower() for row in rows for name in re.findall(r"`([A-Z_]+)`", row)]
    assert sorted(listed) == sorted(fields_by_name())
