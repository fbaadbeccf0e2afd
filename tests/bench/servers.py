"""Running services: started, paused while another is measured, and always stopped."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from .places import LOGS, PRODUCT, ROOT
from .processes import Memory, cpu_seconds, memory, send, tree
from .systems import System

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.02
SETTLE_TIMEOUT_S, SETTLE_POLL_S = 60.0, 0.25


class ServerError(Exception):
    """A system did not start, or did not answer as it should."""


class Server:
    """One running system, in a process group of its own."""

    def __init__(self, system: System) -> None:
        self.system = system
        if _answers(system.port):
            raise ServerError(f"port {system.port} is taken, perhaps by a server left over")
        self.log = LOGS / f"{system.name.replace(' ', '-')}.log"
        LOGS.mkdir(parents=True, exist_ok=True)
        self._started_at = time.perf_counter()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                system.command,
                cwd=PRODUCT if system.ours else ROOT,
                env={**_clean_environment(), **system.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, texts: Sequence[str]) -> float:
        """Ask until an answer is a 200.

        Returns:
            Seconds since the process was started.

        Raises:
            ServerError: it ended or took too long.
        """
        body = self.system.body(texts)
        while time.perf_counter() - self._started_at < START_TIMEOUT_S:
            if self._process.poll() is not None:
                raise ServerError(f"{self.system.name} ended; see {self._log_end()}")
            try:
                if self.ask(body)[0] == 200:
                    return time.perf_counter() - self._started_at
            except OSError:
                pass
            time.sleep(POLL_S)
        raise ServerError(f"{self.system.name} was not ready in {START_TIMEOUT_S:.0f} s")

    def ask(self, body: bytes, *, timeout_s: float = 30.0) -> tuple[int, bytes]:
        """Status and body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=timeout_s)
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", self.system.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def cpu_seconds(self) -> float:
        return cpu_seconds(tree(self.pid))

    def memory(self) -> Memory:
        return memory(tree(self.pid))

    def settle(self) -> None:
        """Wait until it has worked off what it still holds.

        Raises:
            ServerError: it does not come to rest.
        """
        for _ in range(round(SETTLE_TIMEOUT_S / SETTLE_POLL_S)):
            before = self.cpu_seconds()
            time.sleep(SETTLE_POLL_S)
            if self.cpu_seconds() - before < 0.1 * SETTLE_POLL_S:
                return
        raise ServerError(f"{self.system.name} was still busy after {SETTLE_TIMEOUT_S:.0f} s")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let it run for a while; it is paused before and after."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def pause(self) -> None:
        send(tree(self.pid), signal.SIGSTOP)

    def resume(self) -> None:
        send(tree(self.pid), signal.SIGCONT)

    def stop(self) -> None:
        """End it and all it started, by force if it must be."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGCONT)
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _log_end(self) -> str:
        return f"{self.log.name}: {self.log.read_text(errors='replace')[-1_500:]}"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def started(system: System) -> Iterator[Server]:
    server = Server(system)
    try:
        yield server
    finally:
        server.stop()


def _clean_environment() -> dict[str, str]:
    """Ours without settings that would change what is measured."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("LIGHTMBERT_", "INFINITY_"))}
