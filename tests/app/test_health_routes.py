import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from serving import Client, gated, serving
from toy_student import sha256, write_graph, write_model_dir

from app import versions
from app.api.tei_info import TEIFacts
from app.engine import Engine
from app.errors import ModelError, error_types
from app.metrics import DROP_REASONS, PRIORITIES, ROUTES, STAGES, STATUSES, Metrics
from app.service import Service
from app.settings import Settings


async def test_probes_are_answered_while_the_model_loads(toy_model_dir: Path) -> None:
    may_load = threading.Event()

    def open_when_allowed(settings: Settings, metrics: Metrics) -> Engine:
        assert may_load.wait(5)
        return Engine(settings, metrics)

    async with serving(toy_model_dir, open_engine=open_when_allowed, loaded=False) as http:
        try:
            assert (await http.get("/livez")).status_code == 200
            assert (await http.get("/metrics")).status_code == 200
            for answer in (
                await http.get("/readyz"),
                await http.get("/info"),
                await http.embed("x"),
            ):
                assert answer.status_code == 503
                error = {"code": "not_ready", "message": "the model is loading"}
                assert answer.json() == {"error": error}
            assert (await http.embed("x")).headers["retry-after"] == "1"
            assert http.value("ready") == 0
        finally:
            may_load.set()
        await http.service.settled.wait()
        assert (await http.get("/readyz")).json() == {"state": "ready"}
        assert http.value("ready") == 1


async def test_probes_may_ask_for_the_head_alone(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        for probe in ("/livez", "/readyz", "/health", "/ping"):
            assert (await http.head(probe)).status_code == 200
        await http.service.stop()
        assert (await http.head("/livez")).status_code == 200
        assert (await http.head("/readyz")).status_code == 503


async def test_a_path_with_a_slash_too_many_is_unknown_and_not_elsewhere(
    toy_model_dir: Path,
) -> None:
    async with serving(toy_model_dir) as http:
        for path in ("/embed/", "/classify/"):
            assert (await http.post(path, json={"texts": "hund"})).status_code == 404


async def test_before_it_drains_it_works_on_while_probes_see_it_leave(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, drain_delay_s=60) as http:
        stopping = asyncio.create_task(http.service.stop())
        await asyncio.sleep(0)
        assert (await http.get("/readyz")).status_code == 503
        assert http.value("ready") == 0
        assert (await http.embed("hund")).status_code == 200
        stopping.cancel()


async def test_a_student_that_fails_its_golden_test_never_gets_ready(tmp_path: Path) -> None:
    def other_weights(manifest: dict[str, Any]) -> None:
        graph = tmp_path / "toy" / "model.onnx"
        write_graph(graph, nudge=0.25)
        manifest["variants"][0]["sha256"] = sha256(graph)

    async with serving(write_model_dir(tmp_path / "toy", other_weights)) as http:
        ready = await http.get("/readyz")
        assert ready.status_code == 503
        assert "golden[0]: model.onnx gives cosine 0.80" in ready.json()["error"]["message"]
        assert (await http.get("/livez")).status_code == 503
        assert (await http.embed("hund")).status_code == 503
        assert http.service.leaving.is_set()


async def test_a_tampered_file_is_refused(tmp_path: Path) -> None:
    folder = write_model_dir(tmp_path / "toy")
    with (folder / "model.onnx").open("ab") as graph:
        graph.write(b"\0")
    async with serving(folder) as http:
        assert "the manifest says" in (await http.get("/readyz")).json()["error"]["message"]


async def test_a_service_whose_runs_hang_asks_for_a_restart_and_leaves(toy_model_dir: Path) -> None:
    async with gated(toy_model_dir, run_timeout_s=0.2, faults_until_exit=2) as (http, _):
        for _ in range(2):
            assert (await http.embed("hund")).status_code == 500
        async with asyncio.timeout(5):
            await http.service.leaving.wait()
        for probe in ("/livez", "/readyz"):
            answer = await http.get(probe)
            assert answer.status_code == 503
            assert "must be restarted" in answer.json()["error"]["message"]
        assert http.service.phase == "failed"  # which makes the exit status 1
        assert http.value("ready") == 0


async def test_info_tells_model_runtime_and_every_limit(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, max_texts_per_request=7) as http:
        info = (await http.get("/info")).json()
    assert info["model"] == {
        "name": "toy",
        "revision": "1",
        "license": "Apache-2.0",
        "languages": ["sv", "en"],
        "embedding_dimension": 4,
        "tasks": {
            "topic": {
                "labels": ["animals", "money"],
                "problem_type": "single",
                "pair": False,
                "threshold": None,
            },
            "same": {
                "labels": ["yes", "no"],
                "problem_type": "multi",
                "pair": True,
                "threshold": None,
            },
        },
    }
    assert info["runtime"]["provider"] == "CPUExecutionProvider"
    assert info["runtime"]["precision"] == "fp32"
    assert {"onnxruntime", "tokenizers", "numpy"} <= set(info["versions"])
    assert info["limits"]["max_tokens"] == 8
    assert info["limits"]["max_texts_per_request"] == 7
    bounds = {name for name in Settings.model_fields if "max_" in name}
    timeouts = {name for name in Settings.model_fields if name.endswith("_timeout_s")}
    assert bounds | timeouts | {"max_tokens"} == set(info["limits"])


async def test_every_series_exists_before_the_first_request(toy_model_dir: Path) -> None:
    tasks = (("/embed", "embed"), ("/classify", "topic"), ("/classify", "same"))
    model = {"model": "toy"}
    series: list[tuple[str, dict[str, str]]] = [
        *(("requests_total", {"route": r, "status": s}) for r in ROUTES for s in STATUSES),
        *(("request_duration_seconds_count", {"route": r, "task": t, **model}) for r, t in tasks),
        *(("stage_duration_seconds_count", {"stage": stage}) for stage in STAGES),
        *(("errors_total", {"code": kind.code}) for kind in error_types()),
        *(("tokens_total", {"kind": kind}) for kind in ("real", "padded")),
        *((name, {}) for name in ("queue_tokens", "queue_texts", "in_flight_requests")),
        *((name, {}) for name in ("batch_texts_count", "batch_tokens_count")),
        *(("dropped_texts_total", {"reason": reason}) for reason in DROP_REASONS),
        *(("predicted_wait_seconds", {"priority": each, **model}) for each in PRIORITIES),
        *(("cache_texts_total", {"outcome": outcome}) for outcome in ("hit", "miss")),
        *((name, {}) for name in ("truncated_texts_total", "shared_texts_total", "cache_bytes")),
    ]
    async with serving(toy_model_dir) as http:
        for name, labels in series:
            assert http.value(name, **labels) == 0, (name, labels)
        text = (await http.get("/metrics")).text
        assert 'lightmbert_model_info{model="toy"' in text
        assert "process_resident_memory_bytes" in text
        assert "_created" not in text


async def test_a_request_leaves_its_traces_and_no_new_series(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as http:
        before = await series(http)
        await http.embed(["hund", "katt"])
        await http.classify("tax", task="topic")
        await http.classify("tax", task="no such task")
        await http.get("/embed")
        await http.get("/nowhere")
        assert await series(http) == before
        assert http.value("requests_total", route="/embed", status="200") == 1
        assert http.value("requests_total", route="/embed", status="405") == 1
        for route, task in (("/embed", "embed"), ("/classify", "topic")):
            labels = {"route": route, "task": task, "model": "toy"}
            assert http.value("request_duration_seconds_count", **labels) == 1
        for stage in ("tokenize", "queue", "serialize"):
            assert http.value("stage_duration_seconds_count", stage=stage) == 2
        assert http.value("errors_total", code="unknown_task") == 1
        assert http.value("in_flight_requests") == 0


async def series(http: Client) -> set[str]:
    lines = (await http.get("/metrics")).text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


async def test_two_applications_in_one_process_count_apart(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir) as one, serving(toy_model_dir) as other:
        await one.embed("hund")
        counts = [
            http.value("requests_total", route="/embed", status="200") for http in (one, other)
        ]
    assert counts == [1, 0]


async def test_shutdown_while_loading_waits_for_the_load_and_lets_go(toy_model_dir: Path) -> None:
    may_load = threading.Event()

    def open_when_allowed(settings: Settings, metrics: Metrics) -> Engine:
        assert may_load.wait(5)
        return Engine(settings, metrics)

    async with serving(toy_model_dir, open_engine=open_when_allowed, loaded=False) as http:
        stopping = asyncio.create_task(http.service.stop())
        await asyncio.sleep(0)
        may_load.set()
        await stopping
        assert not http.service.ready


async def test_opening_may_begin_early_and_nothing_is_measured_until_loading(
    toy_model_dir: Path,
) -> None:
    told: list[str] = []

    class Telling(Engine):
        def __init__(self, settings: Settings, metrics: Metrics) -> None:
            super().__init__(settings, metrics)
            told.append("opened")

        def warm_up(self) -> None:
            told.append("measured")
            super().warm_up()

    service = Service(Settings(model_dir=toy_model_dir), open_engine=Telling)
    service.open()
    service._opening.result(timeout=5)
    assert told == ["opened"]
    await service.load()
    assert told == ["opened", "measured"]
    assert service.ready
    await service.stop()


async def test_a_process_that_may_not_start_a_thread_fails_and_says_so(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    service = Service(Settings(model_dir=toy_model_dir))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        service.open()
    await service.load()
    assert "can't start new thread" in service.state
    assert service.leaving.is_set()
    await service.stop()


async def test_what_fails_early_is_told_by_loading(tmp_path: Path) -> None:
    service = Service(Settings(model_dir=tmp_path / "nothing"))
    service.open()
    await service.load()
    assert not service.alive
    assert "does not exist; is this a model folder?" in service.state
    await service.stop()


@pytest.mark.parametrize("missing", ["manifest.json", "tokenizer.json", "model.onnx"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_model_dir(tmp_path / "toy")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        Engine.load(Settings(model_dir=folder), Metrics())


async def test_info_says_the_same_in_teis_words(toy_model_dir: Path) -> None:
    async with serving(toy_model_dir, max_texts_per_request=7, max_queue_tokens=80) as http:
        info = (await http.get("/info")).json()
    told = {name: info[name] for name in TEIFacts.model_fields if name != "version"}
    assert told == {
        "model_id": "toy",
        "model_sha": "1",
        "model_dtype": "float32",
        "served_model_name": "toy",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": 10,
        "max_input_length": 8,
        "max_batch_tokens": info["limits"]["max_batch_tokens"],
        "max_batch_requests": None,
        "max_client_batch_size": 7,
        "auto_truncate": True,
        "tokenization_workers": 2,
        "sha": None,
        "docker_label": None,
    }


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_health_is_readiness_in_other_servers_words(toy_model_dir: Path, path: str) -> None:
    async with serving(toy_model_dir, api_key="key") as http:
        well = await http.get(path)
        assert well.status_code == 200
        assert well.json()["unix"] == pytest.approx(time.time(), abs=60)
        await http.service.stop()
        leaving = await http.get(path)
        assert leaving.status_code == 503
        assert leaving.json() == {
            "error": "the service is shutting down",
            "error_type": "Unhealthy",
        }


async def test_versions_are_read_from_disk_once(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(toy_model_dir) as http:
        before = (await http.get("/info")).json()["versions"]
        monkeypatch.setattr(versions.metadata, "version", None)  # not to be called again
        assert (await http.get("/info")).json()["versions"] == before


class _Watching(trace.TracerProvider):
    """Somebody's, set up for other libraries of the process."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_tracer(self, name: str, *_: object, **__: object) -> trace.Tracer:
        self.asked.append(name)
        return trace.NoOpTracer()


async def test_the_framework_traces_nothing(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI does by default, for whoever has a provider in its process."""
    provider = _Watching()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    async with serving(toy_model_dir) as http:
        assert (await http.get("/livez")).status_code == 200
        assert (await http.embed("hund")).status_code == 200
    assert provider.asked == []
