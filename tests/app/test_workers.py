"""Several workers behind one port, as processes: shared work, shared metrics, and every way to end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import serving
from toy_student import write_graph, write_model_dir

from app.serve import listen

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or len(os.sched_getaffinity(0)) < 2,
    reason="reads /proc, and two workers need two CPUs",
)
ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import socket, sys
from app.serve import serve
from app.settings import load_settings
raise SystemExit(serve(load_settings(), socket.socket(fileno=int(sys.argv[1]))))
"""


class Running:
    """A supervisor, its workers, and a client of the port they share."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, folder: Path) -> None:
        self.process = process
        self.url = url
        self.folder = folder

    @property
    def all_ready(self) -> bool:
        """Whether both workers are there, and the lesser of them is ready."""
        shown = list(self.folder.glob("lightmbert-*/gauge_livemin_*.db"))
        return len(shown) == 2 and self.value("ready") == 1

    @property
    def workers(self) -> set[int]:
        """Process ids of the children that live."""
        parents = {int(pid.name): stat(pid) for pid in Path("/proc").glob("[0-9]*")}
        return {pid for pid, fields in parents.items() if fields[1:2] == [str(self.process.pid)]}

    def status(self, path: str) -> int:
        return httpx.get(f"{self.url}{path}", timeout=10).status_code

    def embed(self) -> int:
        return httpx.post(f"{self.url}/embed", json={"texts": "hund"}, timeout=10).status_code

    def series(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return series(httpx.get(f"{self.url}/metrics", timeout=10).text)

    def value(self, name: str, **labels: str) -> float:
        return self.series()[f"lightmbert_{name}", frozenset(labels.items())]

    def end(self) -> tuple[int, str]:
        """The exit status and the log."""
        status = self.process.wait(timeout=20)
        return status, (self.folder / "log").read_text(encoding="utf-8")


@contextmanager
def running(model_dir: Path, folder: Path, **variables: str) -> Iterator[Running]:
    """Two workers; they end with the block at the latest."""
    environment = {"MODEL_DIR": str(model_dir), "WORKERS": "2", **variables}
    with listen("127.0.0.1", 0) as listening, (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(listening.fileno())],
            cwd=ROOT,
            env={
                **os.environ,
                **{f"LIGHTMBERT_{name}": value for name, value in environment.items()},
                "TMPDIR": str(folder),
            },
            pass_fds=[listening.fileno()],
            stderr=log,
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield Running(process, url, folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def shared(toy_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(toy_model_dir, tmp_path_factory.mktemp("shared")) as service:
        wait_until(lambda: service.all_ready)
        yield service


def test_long_connections_are_shared_out_evenly(shared: Running) -> None:
    with ExitStack() as clients:
        for _ in range(20):
            client = clients.enter_context(httpx.Client())
            assert client.get(f"{shared.url}/livez").status_code == 200
        one, other = (connections(pid) for pid in shared.workers)
    assert abs(one - other) <= 4  # one more or less, and those of before that were just ending


def test_each_worker_keeps_to_its_own_cpus(shared: Running) -> None:
    one, other = (os.sched_getaffinity(pid) for pid in shared.workers)
    assert one
    assert one.isdisjoint(other)
    assert one | other == os.sched_getaffinity(0)


def test_any_worker_tells_the_counts_of_all(shared: Running) -> None:
    before = shared.value("requests_total", route="/embed", status="200")
    with ExitStack() as clients:
        several = [clients.enter_context(httpx.Client()) for _ in range(4)]
        for client in several:  # held open, so they are spread over both
            assert client.post(f"{shared.url}/embed", json={"texts": "hund"}).status_code == 200
        told = {client.get(f"{shared.url}/metrics").text.count("\n") for client in several}
        assert len(told) == 1
        for client in several:
            found = series(client.get(f"{shared.url}/metrics").text)
            labels = frozenset({"route": "/embed", "status": "200"}.items())
            assert found["lightmbert_requests_total", labels] == before + 4


async def test_series_are_those_of_one_process(shared: Running, toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        alone = series((await http.get("/metrics")).text)
    assert set(shared.series()) == set(alone)


def test_a_worker_that_is_killed_is_replaced_and_its_counts_stay(shared: Running) -> None:
    before = shared.workers
    counted = shared.value("requests_total", route="/embed", status="200")
    cpu_s = shared.series()["process_cpu_seconds_total", frozenset()]
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: shared.embed() == 200)  # by the other, once this one is known to be gone
    wait_until(lambda: killed not in shared.workers and shared.all_ready)
    assert len(shared.workers) == 2
    assert shared.value("requests_total", route="/embed", status="200") == counted + 1
    assert shared.series()["process_cpu_seconds_total", frozenset()] >= cpu_s
    assert {shared.embed() for _ in range(4)} == {200}
    assert shared.value("in_flight_requests") == 0


def test_what_a_killed_worker_was_doing_is_not_counted_for_ever(shared: Running) -> None:
    address = ("127.0.0.1", int(shared.url.rpartition(":")[2]))
    with ExitStack() as callers:
        for _ in range(4):  # each keeps a worker waiting for its body
            caller = callers.enter_context(socket.create_connection(address))
            caller.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        wait_until(lambda: shared.value("in_flight_requests") == 4)
        killed = min(shared.workers)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in shared.workers and shared.all_ready)
        assert shared.value("in_flight_requests") in (1, 2, 3)


@pytest.mark.slow
def test_sigterm_turns_unready_first_and_drains_all(toy_model_dir: Path, tmp_path: Path) -> None:
    with running(toy_model_dir, tmp_path, DRAIN_DELAY_S="1") as service:
        wait_until(lambda: service.all_ready)
        workers = service.workers
        service.process.send_signal(signal.SIGTERM)
        with httpx.Client() as client:
            wait_until(lambda: client.get(f"{service.url}/readyz").status_code == 503)
            answer = client.post(f"{service.url}/embed", json={"texts": "hund"})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        status, log = service.end()
    assert status == 0
    assert {pid for pid in workers if Path(f"/proc/{pid}").exists()} == set()
    assert list(tmp_path.glob("lightmbert-*")) == []
    drained = [event for event in events(log) if event["event"] == "draining"]
    assert sorted(event["worker"] for event in drained) == [0, 1]
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_second_signal_does_not_wait(toy_model_dir: Path, tmp_path: Path) -> None:
    with running(toy_model_dir, tmp_path, DRAIN_DELAY_S="60") as service:
        wait_until(lambda: service.status("/readyz") == 200)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.status("/readyz") == 503)
        service.process.send_signal(signal.SIGTERM)
        assert service.end()[0] == 0
    assert list(tmp_path.glob("lightmbert-*")) == []


@pytest.mark.slow
def test_no_worker_outlives_a_supervisor_that_is_killed(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    with running(toy_model_dir, tmp_path) as service:
        wait_until(lambda: service.status("/readyz") == 200)
        workers = service.workers
        service.process.kill()
        service.process.wait()
        try:
            wait_until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])
        finally:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert list(tmp_path.glob("lightmbert-*")) == []


@pytest.mark.slow
def test_workers_that_keep_dying_end_the_service(toy_model_dir: Path, tmp_path: Path) -> None:
    with running(toy_model_dir, tmp_path) as service:
        wait_until(lambda: service.all_ready)
        seen: set[int] = set()
        while len(seen) < 5:
            wait_until(lambda: service.workers - seen)
            victim = min(service.workers - seen)
            os.kill(victim, signal.SIGKILL)
            seen.add(victim)
        status, log = service.end()
    assert status == 1
    [reason] = [event["reason"] for event in events(log) if event["level"] == "critical"]
    assert reason == "5 workers ended within 60.0 s"


def test_a_student_that_cannot_be_loaded_ends_all(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "toy")
    write_graph(folder / "model.onnx", nudge=1.0)
    with running(folder, tmp_path) as service:
        status, log = service.end()
    assert status == 1
    reasons = {event["reason"] for event in events(log) if event["level"] == "critical"}
    assert "no worker could start" in reasons
    assert any("model.onnx has sha256" in reason for reason in reasons)


def stat(process: Path) -> list[str]:
    """State, parent and so on; nothing for a process that has gone or is a zombie."""
    try:
        fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def connections(pid: int) -> int:
    """Sockets that a process has open."""
    links = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(each))
        except FileNotFoundError:
            continue
    return sum(link.startswith("socket:") for link in links)


def series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def events(log: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in log.splitlines()]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)
