"""Fitted heads are used as soon as they are whole, and whatever lies in their folder harms nobody."""

import asyncio
import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fitted import WORDS, described, heads_of, publish, reweighted
from serving import ADMIN_KEY, BEARING, Client, serving
from toy_student import write_model_dir

from app import heads as heads_module
from app.bulk import Classify
from app.head_file import HeadError, HeadFile
from app.head_folder import read_head, remove_head
from app.head_watch import HeadWatch
from app.metrics import Metrics


@asynccontextmanager
async def with_heads(model_dir: Path, heads_dir: Path, **options: object) -> AsyncIterator[Client]:
    async with serving(model_dir, heads_dir=heads_dir, admin_key=ADMIN_KEY, **options) as client:
        yield client


async def reload(http: Client) -> dict[str, Any]:
    answer = await http.post("/heads/reload", headers=BEARING)
    assert answer.status_code == 200, answer.text
    return answer.json()["models"]["toy"]


def softmax(first: float, second: float) -> float:
    return 1 / (1 + math.exp(second - first))


async def test_a_fitted_head_reads_the_unit_embedding(toy_model_dir: Path, tmp_path: Path) -> None:
    publish(tmp_path, described(temperature=0.5), strength=2)
    async with with_heads(toy_model_dir, tmp_path) as http:
        answer = await http.classify(["hund katt katt", "katt"], task="pets")
        assert answer.status_code == 200, answer.text
        assert answer.json()["task"] == "pets"
        results = answer.json()["results"]
        expected = softmax(4 * 2 / math.sqrt(5), 4 / math.sqrt(5))
        assert results[0]["label"] == "cat"
        assert results[0]["score"] == pytest.approx(expected, abs=1e-6)
        assert results[1]["score"] == pytest.approx(softmax(4, 0), abs=1e-6)
        [raw] = (await http.classify("katt", task="pets", output="logits")).json()["results"]
        assert {each["label"]: each["score"] for each in raw["scores"]} == {"cat": 2, "dog": 0}


async def test_one_that_is_unsure_abstains_at_its_threshold(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    publish(tmp_path, described(threshold=0.7))
    async with with_heads(toy_model_dir, tmp_path) as http:
        results = (await http.classify(["hund", "tax"], task="pets")).json()["results"]
        assert [result["label"] for result in results] == ["dog", None]


async def test_several_labels_and_more_than_two(toy_model_dir: Path, tmp_path: Path) -> None:
    publish(tmp_path, described("words", WORDS, problem_type="multi", threshold=0.6), bias=0.1)
    async with with_heads(toy_model_dir, tmp_path) as http:
        [result] = (await http.classify("hund tax", task="words")).json()["results"]
        expected = 1 / (1 + math.exp(-(1 / math.sqrt(2) + 0.1)))
        assert {each["label"]: each["score"] for each in result["scores"]} == {
            "hund": pytest.approx(expected, abs=1e-6),
            "tax": pytest.approx(expected, abs=1e-6),
        }


async def test_reload_takes_in_what_is_fitted_replaced_and_removed(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    async with with_heads(toy_model_dir, tmp_path / "heads") as http:
        assert await reload(http) == {"loaded": [], "refused": {}}
        publish(tmp_path / "heads")
        assert (await reload(http))["loaded"] == ["pets"]
        publish(tmp_path / "heads", described(labels=("hund", "katt")))
        await reload(http)
        [result] = (await http.classify("hund", task="pets")).json()["results"]
        assert result["label"] == "hund"
        remove_head(tmp_path / "heads", "pets")
        assert (await reload(http))["loaded"] == []
        answer = await http.classify("hund", task="pets")
        assert answer.json()["error"]["message"] == (
            "task 'pets' is unknown; this model's tasks: same, topic"
        )
        assert http.value("head_reads_total", outcome="loaded") == 2
        assert http.value("head_reads_total", outcome="removed") == 1


async def test_the_service_looks_by_itself(toy_model_dir: Path, tmp_path: Path) -> None:
    async with with_heads(toy_model_dir, tmp_path) as http:
        publish(tmp_path)
        while (await http.classify("hund", task="pets")).status_code != 200:
            await asyncio.sleep(0.02)  # it looks every second, and the test ends after ten


async def test_info_tells_what_is_fitted_and_what_is_refused(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    publish(tmp_path, described(threshold=0.7))
    (publish(tmp_path, described("bad")) / "head.json").write_text("{}")
    async with with_heads(toy_model_dir, tmp_path) as http:
        [model] = (await http.get("/info")).json()["models"]
    assert model["fitted_heads"] == {
        "pets": {
            "labels": ["dog", "cat"],
            "problem_type": "single",
            "pair": False,
            "threshold": 0.7,
            "revision": "1",
            "rows": 12,
            "expected_accuracy": 0.9,
            "created": "2026-11-21",
        }
    }
    assert list(model["refused_heads"]) == ["bad"]
    assert sorted(model["tasks"]) == ["same", "topic"]


async def test_only_the_admin_key_reloads(toy_model_dir: Path, tmp_path: Path) -> None:
    async with with_heads(toy_model_dir, tmp_path) as http:
        assert (await http.post("/heads/reload")).status_code == 401
    async with serving(toy_model_dir, heads_dir=tmp_path) as http:
        assert (await http.post("/heads/reload", headers=BEARING)).status_code == 403


async def test_no_request_is_lost_or_mixed_while_a_head_is_replaced(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    """Two heads of one name that disagree on everything: each answer is of one of them, whole."""
    heads = [
        (described(labels=("dog", "cat")), 1.0),
        (described(labels=("one", "two", "three")), 3.0),
    ]
    publish(tmp_path, heads[0][0], strength=heads[0][1])
    best = {"dog": softmax(1, 0), "one": math.exp(3) / (math.exp(3) + 2)}
    seen: set[str] = set()
    done = asyncio.Event()

    async def ask(http: Client) -> int:
        asked = 0
        while not done.is_set():
            answer = await http.classify("hund", task="pets")
            assert answer.status_code == 200, answer.text
            [result] = answer.json()["results"]
            assert result["score"] == pytest.approx(best[result["label"]], abs=1e-6)
            seen.add(result["label"])
            asked += 1
        return asked

    async with with_heads(toy_model_dir, tmp_path) as http:
        asking = [asyncio.create_task(ask(http)) for _ in range(8)]
        for turn in range(20):
            file, strength = heads[turn % 2]
            await asyncio.to_thread(publish, tmp_path, file, strength=strength)
            assert (await reload(http))["loaded"] == ["pets"]
        done.set()
        assert sum(await asyncio.gather(*asking)) > 20
        assert http.value("head_reads_total", outcome="refused") == 0
    assert seen == set(best)


def rewritten(alter: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        found = json.loads((folder / "head.json").read_text())
        alter(found)
        (folder / "head.json").write_text(json.dumps(found))

    return spoil


def with_weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        [weights] = folder.glob("*.safetensors")
        weights.write_bytes(change(weights.read_bytes()))

    return spoil


def republished(file: HeadFile) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        publish(folder.parent, file)

    return spoil


def on(**changed: object) -> HeadFile:
    whole = described()
    return whole.model_copy(update={"fitted_on": whole.fitted_on.model_copy(update=changed)})


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "labels swapped": (
        rewritten(lambda head: head["task"]["labels"].reverse()),
        "was altered: its seal does not hold",
    ),
    "a threshold taken out": (
        rewritten(lambda head: head["task"].update(temperature=9)),
        "was altered: its seal does not hold",
    ),
    "an unknown key": (rewritten(lambda head: head.update(more=1)), "is not a head: more: "),
    "no JSON": (lambda folder: (folder / "head.json").write_bytes(b"\x00"), "is not a head: it: "),
    "weights altered": (with_weights(lambda raw: raw[:-1] + b"\x7f"), "its sha256 is not the one"),
    "weights cut": (with_weights(lambda raw: raw[:40]), "its sha256 is not the one"),
    "weights gone": (
        lambda folder: next(folder.glob("*.safetensors")).unlink(),
        "does not exist",
    ),
    "weights elsewhere": (
        rewritten(lambda head: head["weights"].update(file="../../secret")),
        "must be a relative path inside",
    ),
    "another revision": (
        republished(on(revision="2")),
        "it was fitted on revision 2 of toy; this is 1. Fit it again",
    ),
    "another model": (republished(on(model="other")), "it was fitted on other; this is toy"),
    "another dimension": (
        republished(on(dimension=3)),
        "it reads 3 dimensions; toy gives 4",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_spoilt_head_is_refused_and_the_one_before_stays(
    toy_model_dir: Path, tmp_path: Path, how: str
) -> None:
    spoil, reason = SPOILT[how]
    folder = publish(tmp_path)
    async with with_heads(toy_model_dir, tmp_path) as http:
        spoil(folder)
        found = await reload(http)
        assert found["loaded"] == ["pets"]
        assert reason in found["refused"]["pets"]
        [result] = (await http.classify("hund", task="pets")).json()["results"]
        assert (result["label"], result["score"]) == ("dog", pytest.approx(softmax(1, 0)))
        publish(tmp_path, described(labels=("hund", "katt")))
        assert await reload(http) == {"loaded": ["pets"], "refused": {}}
    spoil(folder)
    async with with_heads(toy_model_dir, tmp_path) as http:  # with none before
        assert (await reload(http))["loaded"] == []
        assert (await http.classify("hund", task="topic")).status_code == 200


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"weight": np.zeros((3, 4), np.float32)}, "expected float32 of"),
        ({"weight": np.zeros((2, 4))}, "expected float32 of"),
        ({"bias": np.full(2, np.nan, np.float32)}, "undefined numbers"),
        ({"more": np.zeros(1, np.float32)}, "expected float32 of"),
    ],
)
def test_weights_that_are_no_such_head_are_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray], reason: str
) -> None:
    whole = {"weight": np.zeros((2, 4), np.float32), "bias": np.zeros(2, np.float32)}
    folder = publish(tmp_path)
    written = safetensors.numpy.save(whole | tensors)
    reweighted(folder, written)
    with pytest.raises(HeadError, match=reason):
        read_head(folder)


def test_what_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    reweighted(folder, b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(HeadError, match="cannot be read"):
        read_head(folder)


def test_a_name_of_the_models_own_is_refused(toy_model_dir: Path, tmp_path: Path) -> None:
    publish(tmp_path, described("topic"))
    heads = heads_of(toy_model_dir, tmp_path)
    assert "toy ships with a head 'topic'; choose another name" in str(heads.refused["topic"])
    assert heads.named("topic").fitted is None


def test_there_are_no_more_than_a_process_can_show(
    toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads_module, "MAX_HEADS", 2)
    monkeypatch.setattr(heads_module, "MAX_NAMES", 3)
    for name in ("a", "b", "c"):
        publish(tmp_path, described(name))
    heads = heads_of(toy_model_dir, tmp_path)
    assert list(heads.fitted) == ["a", "b"]
    assert "2 fitted heads are in use" in str(heads.refused["c"])
    remove_head(tmp_path, "a")
    heads.refresh()
    assert list(heads.fitted) == ["b", "c"]
    remove_head(tmp_path, "b")
    publish(tmp_path, described("d"))
    heads.refresh()
    assert list(heads.fitted) == ["c"]
    assert "had 3 names" in str(heads.refused["d"])
    publish(tmp_path, described("b"))  # a name that has a series already
    heads.refresh()
    assert sorted(heads.fitted) == ["b", "c"]


def test_a_refused_head_is_told_once_and_taken_when_it_is_mended(
    toy_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = publish(tmp_path)
    [weights] = folder.glob("*.safetensors")
    weights.rename(tmp_path / "later")  # as when a folder is being copied
    heads = heads_of(toy_model_dir, tmp_path, metrics := Metrics())
    for _ in range(3):
        heads.refresh()
    assert [record.message for record in caplog.records] == ["a head was refused"]
    (tmp_path / "later").rename(weights)
    heads.refresh()
    assert list(heads.fitted) == ["pets"]
    assert not heads.refused
    assert (
        metrics.registry.get_sample_value("lightmbert_head_reads_total", {"outcome": "refused"})
        == 1
    )


def test_an_unreadable_folder_changes_nothing(
    toy_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path / "heads")
    heads = heads_of(toy_model_dir, tmp_path / "heads")
    (tmp_path / "heads").rename(tmp_path / "aside")
    (tmp_path / "heads").write_text("not a folder")
    with caplog.at_level(logging.ERROR):
        heads.refresh()
        heads.refresh()
    assert list(heads.fitted) == ["pets"]
    assert [record.message for record in caplog.records] == ["the folder of heads cannot be read"]


def test_what_is_replaced_while_it_is_read_is_read_whole(tmp_path: Path) -> None:
    """Weights and labels of different heads never come together."""
    stop = threading.Event()
    publish(tmp_path, strength=2)

    def replace() -> None:
        turn = 2
        while not stop.is_set():
            turn += 1
            labels = tuple(f"{turn}-{index}" for index in range(turn % 3 + 2))
            publish(tmp_path, described(labels=labels), strength=turn)

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        seen = set()
        while len(seen) < 10:
            head = read_head(tmp_path / "pets")
            told = head.file.task.labels[0].partition("-")[0]
            assert head.weight[0, 0] == (2 if told == "dog" else int(told))
            seen.add(told)
    finally:
        stop.set()
        replacing.join()


async def test_an_unnamed_task_means_what_it_meant_before_heads_were_fitted(
    tmp_path: Path,
) -> None:
    def one_head(manifest: dict[str, Any]) -> None:
        del manifest["tasks"]["same"]

    def no_head(manifest: dict[str, Any]) -> None:
        manifest["tasks"] = {}
        manifest["golden"][0]["probabilities"] = {}

    publish(tmp_path / "heads")
    one = write_model_dir(tmp_path / "one", one_head)
    async with with_heads(one, tmp_path / "heads") as http:
        assert (await http.classify("hund")).json()["task"] == "topic"
    async with with_heads(one, tmp_path / "heads", default_task="pets") as http:
        assert (await http.classify("hund")).json()["task"] == "topic"
    none = write_model_dir(tmp_path / "none", no_head)
    async with with_heads(none, tmp_path / "heads") as http:
        assert (await http.classify("hund")).json()["task"] == "pets"


async def test_the_default_task_may_be_a_fitted_one(toy_model_dir: Path, tmp_path: Path) -> None:
    publish(tmp_path)
    async with with_heads(toy_model_dir, tmp_path, default_task="pets") as http:
        assert (await http.classify("hund")).json()["task"] == "pets"


def test_a_look_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    looked = threading.Semaphore(0)

    def refresh() -> None:
        looked.release()
        raise RuntimeError("a bug")

    watch = HeadWatch(refresh, every_s=0.001)
    watch.start()
    for _ in range(3):
        assert looked.acquire(timeout=5)
    watch.stop()
    assert "heads could not be read" in caplog.text


async def test_a_run_over_files_goes_on_with_the_head_it_began_with_only(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    publish(tmp_path)
    async with with_heads(toy_model_dir, tmp_path) as http:
        engine = http.service.engine
        before = Classify("pets", None).described(engine)
        assert before == Classify("pets", None).described(engine)
        publish(tmp_path, strength=2)
        await reload(http)
        assert before != Classify("pets", None).described(engine)
        assert "head" not in Classify("topic", None).described(engine)
