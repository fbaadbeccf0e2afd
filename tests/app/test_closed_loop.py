"""What `bench` counts, and that it measures a service of ours or says why not."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path

import pytest
from commands import lightmbert
from test_cli import is_ready, process, wait_for

from app.closed_loop import Asked, Load, ask_engine, bodies, cell
from app.errors import OverloadedError

QUICK = ("--seconds", "0.2", "--callers", "1,2", "--words", "2,4")


def load(**given: int) -> Load:
    return Load(**{"words": 3, "callers": 2, "texts": 1, "seconds": 0.1} | given)


def test_figures_are_of_what_was_answered() -> None:
    asked = [Asked(seconds=i / 1000, tokens=10) for i in range(1, 101)]
    failed = [Asked(seconds=9, tokens=None)] * 3
    found = cell(load(texts=2), [*reversed(asked), *failed], seconds=4)
    assert (found.requests_per_s, found.texts_per_s, found.tokens) == (25, 50, 5)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == pytest.approx((50, 95, 99))
    assert found.failed == 3


def test_nothing_answered_is_no_throughput() -> None:
    found = cell(load(), [Asked(seconds=1, tokens=None)], seconds=1)
    assert (found.requests_per_s, found.p99_ms, found.failed) == (0, 0, 1)


def test_callers_send_texts_of_that_length_and_not_each_others() -> None:
    drawn = [[text for [text] in islice(bodies(load(words=8), caller), 500)] for caller in (0, 1)]
    assert {len(text.split()) for texts in drawn for text in texts} == {8}
    assert len({*drawn[0], *drawn[1]}) == 1_000
    assert drawn[0] == [text for [text] in islice(bodies(load(words=8), 0), 500)]


async def test_a_caller_asks_again_when_it_is_answered_and_not_before() -> None:
    at_once = most = asked = 0

    async def answer(texts: list[str]) -> int:
        nonlocal at_once, most, asked
        at_once, asked = at_once + 1, asked + 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        if asked % 2:
            raise OverloadedError("full", retry_after_s=1)
        return 7

    found = await ask_engine(load(callers=5), answer)
    assert most == 5
    assert found.tokens == 7
    assert found.failed > 0
    assert found.requests_per_s > 0


def test_a_model_folder_is_measured_in_this_process(toy_model_dir: Path) -> None:
    result = lightmbert("bench", *QUICK, "--model-dir", toy_model_dir, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["kind"], told["model"]) == ("closed loop", "toy")
    assert [(each["words"], each["callers"]) for each in told["cells"]] == [
        (2, 1), (2, 2), (4, 1), (4, 2),
    ]  # fmt: skip
    assert [each["tokens"] for each in told["cells"]] == [4, 4, 6, 6]
    assert all(each["texts_per_s"] > 0 == each["failed"] for each in told["cells"])


def test_a_service_is_measured_and_no_figure_goes_without_what_it_is_not(
    toy_model_dir: Path,
) -> None:
    with process("serve", "--port", 0, "--model-dir", toy_model_dir) as running:
        url = running.stdout.readline().split()[1].removesuffix("/")
        wait_for(lambda: is_ready(url))
        result = lightmbert("bench", *QUICK, "--url", url, "--texts", 2)
    assert result.exit_code == 0, result.stderr
    told, _, head, *rows = result.stdout.splitlines()
    assert "not systems, which are compared by tests/bench" in told
    assert (head.split()[0], len(rows)) == ("words", 4)
    assert [row.split()[-1] for row in rows] == ["0"] * 4


def test_a_service_that_wants_a_key_gets_it_from_the_environment(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTMBERT_API_KEY", "hush")
    with process("serve", "--port", 0, "--model-dir", toy_model_dir) as running:
        url = running.stdout.readline().split()[1].removesuffix("/")
        wait_for(lambda: is_ready(url))
        assert lightmbert("bench", *QUICK, "--url", url).exit_code == 0
        monkeypatch.delenv("LIGHTMBERT_API_KEY")
        refused = lightmbert("bench", *QUICK, "--url", url)
    assert refused.exit_code == 1
    assert "some requests were never answered" in refused.stderr


class Other(BaseHTTPRequestHandler):
    """A service of somebody else's."""

    def do_GET(self) -> None:
        body = b'{"model_id": "other"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def others_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_another_system_is_not_measured(others_url: str) -> None:
    result = lightmbert("bench", "--url", others_url)
    assert result.exit_code == 1
    assert f"{others_url} is no LightMBERT service" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1 does not answer: "),
        (("--words", "8,x"), 2, "--words takes whole numbers from 1, such as 1,4,16, not '8,x'"),
        (("--callers", "0"), 2, "--callers takes whole numbers from 1, such as 1,4,16, not '0'"),
        (("--url", "a", "--device", "cpu"), 2, "--url says where the model runs"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    arguments: tuple[str, ...], status: int, told: str
) -> None:
    result = lightmbert("bench", *arguments)
    assert result.exit_code == status
    [line] = result.stderr.splitlines()
    assert line.startswith(f"lightmbert: {told}")
