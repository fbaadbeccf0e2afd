"""The command as a process, and the commands that run no rows."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import lightmbert
from toy_student import write_graph, write_model_dir

from app.commands.distill import VERBS, DistillError, _distill_installed
from app.settings import EMBEDDED_STUDENT

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("onnxruntime", "numpy", "fastapi", "pydantic", "torch", "rich.progress")

PRELUDE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit another

class Absent:
    def find_spec(name, *_):
        if name in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent)
"""


@contextmanager
def process(*arguments: object, without: tuple[str, ...] = ()) -> "Iterator[subprocess.Popen[str]]":
    """`lightmbert` in a process of its own, in which the modules `without` do not exist."""
    code = f"{PRELUDE.format(names=without)}\nfrom app.cli import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def as_json(*arguments: object) -> Any:  # noqa: ANN401 - whatever is told
    result = lightmbert(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(only_line(result.stdout))


def only_line(text: str) -> str:
    [line] = text.splitlines()
    return line


def test_help_needs_nothing_heavy() -> None:
    code = f"import sys, app.cli; raise SystemExit(str([m for m in {HEAVY} if m in sys.modules]))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr == "[]\n"


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with process("embed", tmp_path, without=("pyarrow",)) as running:
        assert only_line(running.communicate()[1]) == (
            "lightmbert: parquet needs pyarrow: pip install 'lightmbert[parquet]'"
        )
    assert running.returncode == 1


def test_an_interrupt_while_input_is_awaited_ends_at_once_and_leaves_no_file(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    command = ("embed", "--output", tmp_path / "out.jsonl", "--model-dir", toy_model_dir)
    with process(*command) as running:
        running.stdin.write("hund\n" * 2_000)
        running.stdin.flush()
        wait_for(lambda: [file for file in tmp_path.iterdir() if file.stat().st_size])
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert only_line(running.stderr.read()) == "lightmbert: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_every_verb_of_distill_is_a_command() -> None:
    verbs = {
        path.stem
        for path in (ROOT / "distill").glob("*.py")
        if re.search(r"^def run\(loaded: LoadedRecipe\)", path.read_text(), re.MULTILINE)
    }
    assert {name for name, _ in VERBS} == verbs
    listed = lightmbert("distill", "--help").stdout
    assert all(name in listed for name in verbs)


def test_a_verb_runs_its_module(tmp_path: Path) -> None:
    recipe = tmp_path / "empty.toml"
    recipe.write_text('[run]\nname = "a"\nfolder = "a"\nseed = 1\nthreads = 1\n')
    result = lightmbert("distill", "tokenizer", recipe)
    assert result.exit_code == 1
    assert "this recipe has no [tokenizer] table" in only_line(result.stderr)


def test_a_recipe_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    result = lightmbert("distill", "train", tmp_path / "gone.toml")
    assert result.exit_code == 1
    assert only_line(result.stderr).endswith("gone.toml cannot be read: No such file or directory")


@pytest.mark.parametrize("missing", ["torch", "distill"])
def test_a_verb_without_its_packages_names_the_extra(missing: str, tmp_path: Path) -> None:
    recipe = tmp_path / "empty.toml"
    recipe.write_text('[run]\nname = "a"\nfolder = "a"\nseed = 1\nthreads = 1\n')
    with process("distill", "train", recipe, without=(missing,)) as running:
        assert only_line(running.communicate()[1]) == (
            f"lightmbert: distill needs {missing}: pip install 'lightmbert[distill]'"
        )
    assert running.returncode == 1


def test_a_package_with_an_extra_of_its_own_names_that() -> None:
    said = r"needs mteb: pip install 'lightmbert\[mteb\]'"
    with pytest.raises(DistillError, match=said), _distill_installed():
        raise ModuleNotFoundError(name="mteb")


def test_a_model_folder_is_shown(toy_model_dir: Path) -> None:
    shown = lightmbert("models", "show", toy_model_dir).stdout
    assert "toy 1, Apache-2.0" in shown
    assert "languages  2: sv en" in shown
    assert "task       same of pairs: yes, no" in shown


def test_a_model_folder_that_holds_is_verified(toy_model_dir: Path) -> None:
    result = lightmbert("models", "verify", toy_model_dir)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "tokenizer.json: the hash holds",
        "model.onnx: the hash holds; 2 golden outputs hold",
    ]


def test_what_is_said_of_model_folders_can_be_read_by_machines(toy_model_dir: Path) -> None:
    [listed] = as_json("models", "list", toy_model_dir.parent)
    assert (listed["name"], listed["tasks"], listed["precisions"]) == (
        "toy",
        ["topic", "same"],
        ["fp32"],
    )
    assert as_json("models", "show", toy_model_dir)["embedding_dimension"] == 4
    verified = as_json("models", "verify", toy_model_dir)
    assert verified["holds"]
    assert [each["file"] for each in verified["files"]] == ["tokenizer.json", "model.onnx"]


def test_a_folder_that_does_not_hold_is_told_to_machines_too(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path)
    write_graph(folder / "model.onnx", nudge=1.0)
    result = lightmbert("models", "verify", folder, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["holds"]) == (1, False)
    assert "the manifest says" in told["error"]


def test_folders_are_listed_with_those_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_dir(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("{}")
    good, bad = lightmbert("models", "list", tmp_path).stdout.splitlines()
    assert good == f"{tmp_path}/a  toy 1: 2 languages, topic, same, fp32, 0.0 MB"
    assert bad.startswith(
        f"{tmp_path}/b  cannot be used: {tmp_path}/b/manifest.json is not a valid"
    )
    monkeypatch.setenv("LIGHTMBERT_MODELS_ROOT", str(tmp_path))
    assert lightmbert("models", "list").stdout.splitlines() == [good, bad]
    empty = lightmbert("models", "list", tmp_path / "b" / "c")
    assert "holds no model folder" in only_line(empty.stderr)


def test_info_tells_versions_and_settings_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMBERT_API_KEY", "hush")
    monkeypatch.setenv("LIGHTMBERT_PORT", "7001")
    told = as_json("info")
    assert {"onnxruntime", "tokenizers"} <= set(told["versions"])
    settings = {each["variable"]: (each["value"], each["set"]) for each in told["settings"]}
    assert settings["LIGHTMBERT_PORT"] == (7001, True)
    assert settings["LIGHTMBERT_DEFAULT_TASK"] == (None, False)
    assert settings["LIGHTMBERT_MODEL_DIR"] == (str(EMBEDDED_STUDENT), False)
    assert settings["LIGHTMBERT_HOST"] == ("127.0.0.1", False)
    assert settings["LIGHTMBERT_API_KEY"] == ("**********", True)
    assert "hush" not in lightmbert("info").stdout
    assert "set        LIGHTMBERT_PORT=7001" in lightmbert("info").stdout


def test_a_variant_for_another_machine_is_checked_but_not_run(tmp_path: Path) -> None:
    def for_cuda(described: dict) -> None:
        described["variants"] += [described["variants"][0] | {"target": "cuda"}]

    result = lightmbert("models", "verify", write_model_dir(tmp_path, for_cuda))
    assert result.exit_code == 0
    assert "model.onnx: the hash holds; not run: device cuda needs" in result.stdout


@pytest.mark.parametrize("target", ["cpu", "cpu-vnni"])
def test_an_altered_variant_is_told_even_where_it_cannot_run(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.runtime.session.cpu_features", lambda: frozenset())

    def aim(described: dict) -> None:
        described["variants"][0]["target"] = target

    folder = write_model_dir(tmp_path, aim)
    write_graph(folder / "model.onnx", nudge=1.0)
    result = lightmbert("models", "verify", folder)
    assert result.exit_code == 1
    assert "the manifest says" in only_line(result.stderr)


def test_golden_outputs_that_do_not_hold_are_told(tmp_path: Path) -> None:
    def spoil(described: dict) -> None:
        described["golden"][0]["embedding"] = [0, 0, 1, 0]

    result = lightmbert("models", "verify", write_model_dir(tmp_path, spoil))
    assert result.exit_code == 1
    assert "golden[0]" in only_line(result.stderr)


def test_the_service_says_where_it_is_and_ends_with_0(toy_model_dir: Path) -> None:
    with process("serve", "--port", 0, "--model-dir", toy_model_dir) as running:
        page, docs, metrics, example = (running.stdout.readline() for _ in range(4))
        url = page.split()[1].removesuffix("/")
        wait_for(lambda: is_ready(url))
        assert "<!doctype html>" in httpx.get(f"{url}/").text.lower()
        assert httpx.get(docs.split()[1]).status_code == 200
        assert "lightmbert_ready 1.0" in httpx.get(metrics.split()[1]).text
        _, curl, target, _, header, _, body = shlex.split(example)
        name, _, value = header.partition(": ")
        answer = httpx.post(target, headers={name: value}, content=body)
        assert (curl, answer.status_code) == ("curl", 200)
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0


def test_a_port_that_is_taken_is_told_in_one_line(toy_model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = lightmbert("serve", "--port", port, "--model-dir", toy_model_dir)
    assert result.exit_code == 1
    assert only_line(result.stderr) == (
        f"lightmbert: cannot listen on 127.0.0.1 port {port}: Address already in use"
    )


def test_a_model_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    result = lightmbert("serve", "--port", 0, "--model-dir", tmp_path)
    assert result.exit_code == 1
    assert "manifest.json does not exist" in only_line(result.stderr)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LIGHTMBERT_PROT", "1", "unknown settings: LIGHTMBERT_PROT; known: LIGHTMBERT_.*"),
        ("LIGHTMBERT_PORT", "70000", "port: .* less than or equal to 65535, not '70000'"),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    result = lightmbert("serve")
    assert result.exit_code == 2
    assert re.fullmatch(f"lightmbert: {message}", only_line(result.stderr))


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
