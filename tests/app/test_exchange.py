"""Students loaded, swapped and unloaded under load: no request fails, and none sees a mixture."""

import asyncio
import gc
import os
import shutil
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from serving import ADMIN_KEY, Admin, Client, gating, serving
from toy_student import meanings, write_graph, write_model_dir, write_turned

from app.engine import Engine
from app.metrics import Metrics
from app.runtime.session import StudentSession
from app.settings import EMBEDDED_STUDENT, Settings
from app.students import OpenEngine


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of one model, and another model. Nobody may write to it."""
    root = tmp_path_factory.mktemp("root")
    write_model_dir(root / "toy-1")
    write_turned(root / "toy-2", name="toy", revision="2", dimensions=4)
    write_turned(root / "group" / "turned", turn=2)
    return root


@asynccontextmanager
async def administered(
    root: Path,
    open_engine: OpenEngine = Engine,
    *,
    also: tuple[str, ...] = (),
    **options: object,
) -> AsyncIterator[tuple[Client, Admin]]:
    """A service of toy-1, and of what else is named, that may be changed."""
    folders = tuple(root / name for name in ("toy-1", *also))
    options = {"models_root": root, "admin_key": ADMIN_KEY, "runners": 1, **options}
    async with serving(folders, open_engine=open_engine, **options) as http:
        yield http, Admin(http)


async def test_no_request_fails_while_revisions_are_swapped_and_each_has_one_of_them(
    root: Path,
) -> None:
    revisions: Counter[int] = Counter()
    swapped = asyncio.Event()

    async def call(http: Client, number: int) -> None:
        while not swapped.is_set():
            texts = ["hund", "katt", "tax", "katt hund"] * (1 + number % 3)
            answer = await http.embed(texts, normalize=False)
            assert answer.status_code == 200, answer.text
            vectors = answer.json()["embeddings"]
            [revision] = [turn for turn in (0, 1) if np.allclose(vectors, meanings(texts, turn))]
            revisions[revision] += 1

    async with (
        administered(root, runners=2, within_s=30) as (http, admin),
        asyncio.TaskGroup() as callers,
    ):
        for number in range(12):
            callers.create_task(call(http, number))
        for folder in ("toy-2", "toy-1", "toy-2"):
            before = revisions.total()
            assert (await admin.load(folder)).status_code == 200
            while revisions.total() < before + 60:
                await asyncio.sleep(0)
        swapped.set()
    assert revisions.total() >= 180
    assert min(revisions.values()) >= 60


async def test_what_began_on_a_revision_ends_on_it_and_then_its_memory_is_free(root: Path) -> None:
    async with administered(root, gating("toy-1"), runners=2) as (http, admin):
        [old] = http.service.students
        session = weakref.ref(old.engine.session)
        begun = asyncio.create_task(http.embed("hund", normalize=False))
        await old.engine.has_begun()
        waiting = asyncio.create_task(http.embed("katt", normalize=False))
        await old.engine.has_begun()
        answer = (await admin.load("toy-2")).json()
        assert (answer["loaded"]["revision"], answer["replaced"]["revision"]) == ("2", "1")
        assert np.allclose(
            (await http.embed("hund", normalize=False)).json()["embeddings"], meanings(["hund"], 1)
        )
        assert await admin.models() == {"models": [("toy", "2", 0)], "leaving": [("toy", "1", 2)]}
        old.engine.session.gate.release(100)
        for text, request in (("hund", begun), ("katt", waiting)):
            assert np.allclose((await request).json()["embeddings"], meanings([text], 0))
        await gone(session)  # though this test, as somebody might, still knows of `old`
        assert old.requests == 0
        assert await admin.models() == {"models": [("toy", "2", 0)], "leaving": []}


async def test_a_request_that_is_not_run_yet_ends_where_it_began(root: Path) -> None:
    async with administered(root, gating("toy-1")) as (http, admin):
        [old] = http.service.students
        requests = [asyncio.create_task(http.embed(text)) for text in ("hund", "katt", "tax")]
        await old.engine.has_begun()  # the first; the others wait in its queue
        assert (await admin.load("toy-2")).status_code == 200
        old.engine.session.gate.release(100)
        answers = await asyncio.gather(*requests)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert answers[1].json()["embeddings"] == [[0.0, 1.0, 0.0, 0.0]]


async def test_who_holds_a_student_may_ask_it_as_often_as_it_likes(root: Path) -> None:
    async with administered(root) as (http, admin):
        [old] = http.service.students
        old.enter()
        assert (await admin.load("toy-2")).status_code == 200
        for _ in range(3):  # with nothing of it queued in between
            await asyncio.sleep(0.02)
            embedded = await old.engine.embed(["hund"])
            assert embedded.vectors.tolist() == [[1.0, 0.0, 0.0, 0.0]]
        assert (await admin.models())["leaving"] == [("toy", "1", 1)]
        old.leave()
        while (await admin.models())["leaving"]:
            await asyncio.sleep(0.01)


async def test_a_model_is_loaded_beside_the_others_and_unloaded_while_it_works(root: Path) -> None:
    async with administered(root, gating("turned")) as (http, admin):
        assert (await http.embed("hund", model="turned")).status_code == 422
        assert (await admin.load("group/turned")).json()["replaced"] is None
        assert 'model_info{model="turned"' in (await http.get("/metrics")).text
        served = http.service.students.named("turned")
        session = weakref.ref(served.engine.session)
        begun = asyncio.create_task(http.embed("hund", model="turned"))
        await served.engine.has_begun()

        assert (await admin.unload("turned")).json()["unloaded"]["requests"] == 1
        refused = await http.embed("hund", model="turned")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unknown_model")
        assert (await http.embed("hund")).status_code == 200
        served.engine.session.gate.release(100)
        del served
        assert (await begun).json()["embeddings"] == [[0.0, 0.0, 1.0]]
        await gone(session)
        told = (await http.get("/metrics")).text
        assert 'lightmbert_model_info{model="toy"' in told
        assert 'lightmbert_model_info{model="turned"' not in told
        assert 'model="turned",priority' not in told


@pytest.mark.parametrize("broken", ["hash", "golden", "manifest", "nothing"])
async def test_a_load_that_fails_changes_nothing_and_says_why(tmp_path: Path, broken: str) -> None:
    write_model_dir(tmp_path / "toy-1")
    folder = write_turned(tmp_path / "new", name="toy", revision="2", dimensions=4)
    if broken == "hash":
        write_graph(folder / "model.onnx", nudge=0.5)
    elif broken == "golden":
        shutil.rmtree(folder)
        write_model_dir(
            folder, lambda described: described["golden"][0].update(embedding=[0, 1, 1, 0])
        )
    elif broken == "manifest":
        (folder / "manifest.json").write_text("{}")
    else:
        shutil.rmtree(folder)
    reasons = {
        "hash": ("bad_manifest", "the manifest says"),
        "golden": ("self_test_failed", "golden[0]"),
        "manifest": ("bad_manifest", "not a valid manifest"),
        "nothing": ("bad_manifest", "does not exist"),
    }
    async with administered(tmp_path) as (http, admin):
        before = (await http.get("/info")).json()
        answer = await admin.load("new")
        code, told = reasons[broken]
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
        assert told in answer.json()["error"]["message"]
        assert (await http.get("/info")).json() == before
        assert (await http.embed("hund")).json()["embeddings"] == [[1.0, 0.0, 0.0, 0.0]]
        assert 'model="toy",onnxruntime' in (await http.get("/metrics")).text


async def test_whatever_goes_wrong_in_a_load_is_told_and_the_next_one_works(root: Path) -> None:
    failures: list[Exception] = [MemoryError("no room")]

    def load(settings: Settings, metrics: Metrics) -> Engine:
        if settings.model_dir.name == "toy-2" and failures:
            raise failures.pop()
        return Engine(settings, metrics)

    async with administered(root, load) as (_, admin):
        failed = await admin.load("toy-2")
        assert (failed.status_code, failed.json()["error"]["code"]) == (422, "model_unusable")
        assert "MemoryError('no room')" in failed.json()["error"]["message"]
        assert (await admin.load("toy-2")).status_code == 200


async def test_one_change_at_a_time(root: Path) -> None:
    with held_back("toy-2") as (load, begun, may_load):
        async with administered(root, load, also=("group/turned",)) as (http, admin):
            loading = asyncio.create_task(admin.load("toy-2"))
            assert await asyncio.to_thread(begun.wait, 5)
            for refused in (await admin.load("toy-2"), await admin.unload("turned")):
                assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
                assert "toy-2 is being loaded" in refused.json()["error"]["message"]
            assert (await http.embed("hund")).status_code == 200
            may_load.set()
            assert (await loading).status_code == 200
            assert (await admin.unload("turned")).status_code == 200


async def test_the_default_cannot_be_unloaded_nor_what_is_not_there(root: Path) -> None:
    async with administered(root) as (_, admin):
        refused = await admin.unload("toy")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert (await admin.unload("other")).json()["error"]["code"] == "unknown_model"
        assert (await admin.models())["models"] == [("toy", "1", 0)]


async def test_a_student_beyond_repair_is_loaded_anew(root: Path) -> None:
    options = {"run_timeout_s": 1.0, "faults_until_exit": 1}
    async with administered(root, gating("turned"), also=("group/turned",), **options) as (
        http,
        admin,
    ):
        turned = http.service.students.named("turned")
        assert (await http.embed("hund", model="turned")).status_code == 500  # its run hangs
        while not turned.engine.broken:
            await asyncio.sleep(0.01)
        assert (await http.get("/readyz")).json() == {"state": "ready, but not turned"}
        turned.engine.session.gate.release(100)
        assert (await admin.load("group/turned")).status_code == 200
        http.service.students.named("turned").engine.session.gate.release(100)
        assert (await http.embed("hund", model="turned")).status_code == 200
        assert (await http.get("/readyz")).json() == {"state": "ready"}


async def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path: Path) -> None:
    write_model_dir(tmp_path / "toy-1")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "manifest.json")
    async with administered(tmp_path) as (_, admin):
        answer = await admin.load("pipe")
        assert answer.status_code == 422
        assert "is no regular file" in answer.json()["error"]["message"]


async def test_a_drain_does_not_wait_for_a_load_to_tell_its_caller(root: Path) -> None:
    with held_back("toy-2") as (load, begun, may_load):
        async with administered(root, load) as (http, admin):
            loading = asyncio.create_task(admin.load("toy-2"))
            assert await asyncio.to_thread(begun.wait, 5)
            stopping = asyncio.create_task(http.service.stop())
            answer = await loading
            assert answer.status_code == 503
            assert "shutting down" in answer.json()["error"]["message"]
            await asyncio.sleep(0.05)
            assert not stopping.done()  # the thread cannot be stopped
            may_load.set()
            await stopping
            assert [each.engine.manifest.revision for each in http.service.students] == ["1"]


async def test_a_load_that_hangs_does_not_keep_the_service_from_ending(root: Path) -> None:
    with held_back("toy-2") as (load, begun, _):
        async with administered(root, load, drain_timeout_s=0.1) as (http, admin):
            loading = asyncio.create_task(admin.load("toy-2"))
            assert await asyncio.to_thread(begun.wait, 5)
            await http.service.stop()
            assert (await loading).status_code == 503


async def test_a_service_that_ends_ends_what_was_leaving(root: Path) -> None:
    async with administered(root, gating("toy-1"), drain_timeout_s=0.1) as (http, admin):
        [old] = http.service.students
        begun = asyncio.create_task(http.embed("hund"))
        await old.engine.has_begun()
        await admin.load("toy-2")
        await http.service.stop()
        assert (await begun).status_code == 503
        old.engine.session.gate.release(100)


@pytest.mark.slow
async def test_memory_is_given_back(tmp_path: Path) -> None:
    other = (EMBEDDED_STUDENT / "manifest.json").read_text().replace("lightmbert-mini", "other", 1)
    shutil.copytree(EMBEDDED_STUDENT, tmp_path / "other")
    (tmp_path / "other" / "manifest.json").write_text(other)
    shutil.copytree(EMBEDDED_STUDENT, tmp_path / "toy-1")
    async with administered(tmp_path, within_s=60) as (http, admin):
        sizes = []
        for _ in range(4):
            assert (await admin.load("other")).status_code == 200
            await http.embed(["Habari za asubuhi"] * 64, model="other")
            loaded = resident_mb()
            assert (await admin.unload("other")).status_code == 200
            while (await admin.models())["leaving"]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # for what is given back in a thread
            sizes.append((loaded, resident_mb()))
    assert all(loaded - left > 20 for loaded, left in sizes[1:]), sizes
    assert sizes[-1][1] < sizes[0][1] + 10, sizes


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("Linux says how much")


async def gone(session: "weakref.ref[StudentSession]") -> None:
    """Return when nothing refers to it, without a collection of cycles."""
    gc.disable()
    try:
        while session() is not None:
            await asyncio.sleep(0.01)
    finally:
        gc.enable()


@contextmanager
def held_back(name: str) -> Iterator[tuple[OpenEngine, threading.Event, threading.Event]]:
    """A load of that folder says when it has begun, and waits until it may end."""
    begun, may_load = threading.Event(), threading.Event()

    def load(settings: Settings, metrics: Metrics) -> Engine:
        if settings.model_dir.name == name:
            begun.set()
            assert may_load.wait(5)
        return Engine(settings, metrics)

    try:
        yield load, begun, may_load
    finally:
        may_load.set()
