"""The service as a process of its own: what it imports, how it starts, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from toy_student import write_graph, write_model_dir

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60
"""A hang is a failure, and a busy machine is not: alone, a test here takes two or three seconds."""
TRAINING_ONLY = ("torch", "transformers", "datasets", "optimum", "sklearn", "onnx")
SERVE = """
from app.serve import serve
from app.settings import load_settings
raise SystemExit(serve(load_settings()))
"""
# The model runs when the parent writes a line, and says when it has begun.
SERVE_GATED = """
import sys
from app.runtime.session import StudentSession
run = StudentSession.run

def run_when_told(self, encoded):
    if encoded[0].tokens == 4:
        print("running", flush=True)
        sys.stdin.readline()
    return run(self, encoded)

StudentSession.run = run_when_told
"""


def test_the_service_starts_where_training_packages_do_not_exist() -> None:
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in TRAINING_ONLY)
    result = python(f"import sys; {block}; import app.main, app.runtime.session")
    assert result.returncode == 0, result.stderr


def test_what_distill_borrows_needs_no_web_framework() -> None:
    code = "import sys; sys.modules['fastapi'] = None; sys.modules['prometheus_client'] = None; "
    result = python(code + "import app.runtime.session, app.runtime.tokenizer")
    assert result.returncode == 0, result.stderr


def test_importing_the_service_leaves_onnxruntime_for_later() -> None:
    result = python("import sys, app.main; raise SystemExit('onnxruntime' in sys.modules)")
    assert result.returncode == 0, result.stderr


def test_the_model_is_being_opened_before_the_framework_is_imported(toy_model_dir: Path) -> None:
    result = python(
        "import sys\n"
        "from app.service import Service\n"
        "from app.serve import serve\n"
        "from app.settings import Settings\n"
        "def told(self): raise SystemExit(3 if 'fastapi' not in sys.modules else 4)\n"
        "Service.open = told\n"
        "serve(Settings(port=0))\n",
        LIGHTMBERT_MODEL_DIR=str(toy_model_dir),
    )
    assert result.returncode == 3, result.stderr


def test_sigterm_drains_and_ends_with_0(toy_model_dir: Path) -> None:
    answers: list[httpx.Response] = []
    with server(toy_model_dir, SERVE_GATED + SERVE) as (process, url):
        embedding = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url}/embed", json={"texts": "hund katt"}, timeout=PATIENCE_S)
            )
        )
        embedding.start()
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        wait_until_unready(url)
        refused = httpx.post(f"{url}/embed", json={"texts": "tax"}, timeout=PATIENCE_S)
        assert refused.status_code == 503
        process.stdin.write("go on\n")
        process.stdin.flush()
        embedding.join(PATIENCE_S)
        assert answers[0].status_code == 200
        assert process.wait(PATIENCE_S) == 0


def test_a_second_signal_does_not_wait(toy_model_dir: Path) -> None:
    with server(toy_model_dir, SERVE_GATED + SERVE) as (process, url):
        body = json.dumps({"texts": "hund katt"})
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            assert process.stdout.readline() == "running\n"
            process.send_signal(signal.SIGTERM)
            wait_until_unready(url)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
            assert "Traceback" not in log


def test_a_student_that_cannot_be_loaded_ends_the_process_with_one_line_of_reason(
    tmp_path: Path,
) -> None:
    folder = write_model_dir(tmp_path / "toy")
    write_graph(folder / "model.onnx", nudge=1.0)
    result = python(SERVE, LIGHTMBERT_MODEL_DIR=str(folder), LIGHTMBERT_PORT="0")
    assert result.returncode == 1
    events = [json.loads(line) for line in result.stderr.splitlines()]
    [reason] = [event for event in events if event["level"] == "critical"]
    assert "model.onnx has sha256" in reason["reason"]


def test_a_model_that_keeps_hanging_ends_the_process_with_1(toy_model_dir: Path) -> None:
    limits = {"LIGHTMBERT_RUN_TIMEOUT_S": "0.5", "LIGHTMBERT_FAULTS_UNTIL_EXIT": "2"}
    with server(toy_model_dir, SERVE_GATED + SERVE, **limits) as (process, url):
        for _ in range(2):
            answer = httpx.post(f"{url}/embed", json={"texts": "hund katt"}, timeout=PATIENCE_S)
            assert answer.status_code == 500
        assert process.wait(PATIENCE_S) == 1
        assert "the model fails again and again" in process.stderr.read()


def test_logs_are_json_lines_without_texts(toy_model_dir: Path) -> None:
    with server(toy_model_dir, SERVE) as (process, url):
        httpx.post(f"{url}/embed", json={"texts": ["confidential " * 99]}, timeout=PATIENCE_S)
        httpx.post(f"{url}/embed", json={"texts": {"confidential": 1}}, timeout=PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_S)
    assert "confidential" not in log
    events = [json.loads(line) for line in log.splitlines()]
    assert {"ready", "draining"} <= {event["event"] for event in events}


def python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@contextmanager
def server(
    model_dir: Path, code: str, **environment: str
) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """A service of its own on a free port, ready; it ends with the block at the latest."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"LIGHTMBERT_MODEL_DIR": str(model_dir), "LIGHTMBERT_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **variables, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(retries=7), timeout=PATIENCE_S
        ) as http:  # waits while it starts
            while http.get(f"{url}/readyz").status_code != 200:
                assert process.poll() is None
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_until_unready(url: str) -> None:
    while httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code != 503:
        pass
