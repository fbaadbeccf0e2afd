"""What the command line teaches: groups, examples, completion, one-line errors, exit statuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import lightmbert
from toy_student import write_model_dir

from app.cli import app

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("Serve", "Files in, files out", "Models and machine", "Make a student")


def leaves(command: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command that is not a group."""
    inside = getattr(command, "commands", None)
    if inside is None:
        return [path]
    return [leaf for name, each in inside.items() for leaf in leaves(each, (*path, name))]


COMMANDS = leaves(typer.main.get_command(app))


def test_help_shows_commands_in_groups_and_where_settings_come_from() -> None:
    told = lightmbert("--help").stdout
    places = [told.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    assert all(re.search(rf"^  {name} ", told, re.MULTILINE) for name, *_ in COMMANDS)
    assert "LIGHTMBERT_" in told
    assert "Exit status: 0 done" in told


@pytest.mark.parametrize(
    "command", [(), ("models",), ("distill",), ("distill", "lir")], ids=" ".join
)
def test_a_group_alone_shows_its_help(command: tuple[str, ...]) -> None:
    alone = lightmbert(*command)
    assert alone.exit_code == 0
    assert alone.stdout == lightmbert(*command, "--help").stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_a_command_ends_with_examples_of_itself(command: tuple[str, ...]) -> None:
    _, _, shown = lightmbert(*command, "--help").stdout.partition("Examples:\n")
    assert f"lightmbert {' '.join(command)}" in shown


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_wrong_with_a_command_line_is_told_in_one_line(command: tuple[str, ...]) -> None:
    result = lightmbert(*command, "--no-such-option")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("lightmbert: No such option: --no-such-option")
    assert line.endswith(f" {' '.join(command)} --help")


def test_a_misspelt_command_is_answered_with_the_right_one() -> None:
    result = lightmbert("clasify")
    assert result.exit_code == 2
    assert "Did you mean 'classify'?" in result.stderr


def test_the_version_is_told() -> None:
    assert re.fullmatch(
        r"lightmbert (\d+\.\d+\.\d+|\(not installed\))\n", lightmbert("--version").stdout
    )


def completed(*words: str, cwd: Path = ROOT) -> list[str]:
    """What bash would offer for the last of `words`."""
    environment = os.environ | {
        "_LIGHTMBERT_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("lightmbert", *words)),
        "COMP_CWORD": str(len(words)),
        "PYTHONPATH": str(ROOT),
    }
    code = "from app.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True
    )
    return result.stdout.split()


def test_commands_and_flags_are_completed() -> None:
    assert completed("cla") == ["classify"]
    assert completed("serve", "--max-q") == ["--max-queue-tokens", "--max-queue-bytes"]
    assert completed("serve", "--device", "c") == ["cpu", "cuda"]


def test_model_folders_are_completed_from_where_one_is(tmp_path: Path) -> None:
    write_model_dir(tmp_path / "mine" / "toy")
    (tmp_path / "mine" / "other").mkdir()
    assert completed("models", "show", "m", cwd=tmp_path) == ["mine/"]
    assert completed("models", "show", "mine/", cwd=tmp_path) == ["mine/other/", "mine/toy"]
    assert completed("serve", "--model-dir", f"{tmp_path}/mine/t") == [f"{tmp_path}/mine/toy"]


def test_files_that_can_be_read_and_tasks_are_completed(tmp_path: Path) -> None:
    write_model_dir(tmp_path / "toy")
    for name in ("a.txt", "b.md", "c.JSONL"):
        (tmp_path / name).touch()
    assert completed("embed", "", cwd=tmp_path) == ["a.txt", "c.JSONL", "toy/"]
    assert completed("embed", "a", cwd=tmp_path) == ["a.txt"]
    assert completed("classify", "--model-dir", "toy", "--task", "t", cwd=tmp_path) == ["topic"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_the_shell_is_shown(shell: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "app.cli", "--show-completion", shell],
        cwd=ROOT, env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "_LIGHTMBERT_COMPLETE" in shown.stdout, shown.stderr


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_output_that_nobody_reads_ends_quietly() -> None:
    shell = f"{sys.executable} -m app.cli models show models/lightmbert-mini | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, env=BUFFERED
    )
    assert (result.returncode, result.stderr) == (141, "")


def test_a_full_disk_behind_standard_output_is_told_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "app.cli", "models", "list"], cwd=ROOT, stdout=full,
            stderr=subprocess.PIPE, text=True, env=BUFFERED,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (1, "lightmbert: No space left on device\n")
