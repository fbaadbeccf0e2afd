"""Several students in one process: each answers what is asked of it, and for itself."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from serving import gating, serving
from toy_student import meanings, write_model_dir, write_turned

TEXTS = ["hund", "katt", "katt katt hund", "tax hund"]


@pytest.fixture(scope="module")
def turned_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_turned(tmp_path_factory.mktemp("models") / "turned")


async def test_each_request_gets_the_numbers_of_the_model_it_names(
    toy_model_dir: Path, turned_dir: Path
) -> None:
    async with serving((toy_model_dir, turned_dir)) as http:
        models = [None, "toy", "turned"] * 20
        answers = await asyncio.gather(
            *(http.embed(TEXTS, model=model, normalize=False) for model in models)
        )
        for model, answer in zip(models, answers, strict=True):
            body = answer.json()
            assert body["model"] == (model or "toy")
            assert body["dimensions"] == (3 if model == "turned" else 4)
            expected = meanings(TEXTS, turn=int(model == "turned"))
            assert np.allclose(body["embeddings"], expected[:, : body["dimensions"]])


async def test_each_has_heads_of_its_own(toy_model_dir: Path, turned_dir: Path) -> None:
    async with serving((toy_model_dir, turned_dir)) as http:
        by_default = await http.classify("hund", task="topic")
        by_other = await http.classify("hund", model="turned")  # which has one head only
        refused = await http.classify([["hund", "dog"]], model="turned", task="same")
        accepted = await http.classify([["hund", "dog"]], task="same")
    assert by_default.json()["results"][0]["label"] == "animals"
    assert (by_other.json()["model"], by_other.json()["task"]) == ("turned", "topic")
    assert (refused.status_code, accepted.status_code) == (422, 200)


async def test_a_model_that_is_not_served_is_refused_naming_those_that_are(
    toy_model_dir: Path, turned_dir: Path
) -> None:
    async with serving((toy_model_dir, turned_dir)) as http:
        error = (await http.embed("hund", model="other")).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_model", "model")
    assert "toy, turned" in error["message"]


async def test_two_folders_of_one_name_are_refused(toy_model_dir: Path, tmp_path: Path) -> None:
    twin = write_model_dir(tmp_path / "twin")
    async with serving((toy_model_dir, twin)) as http:
        message = (await http.get("/readyz")).json()["error"]["message"]
        assert http.service.phase == "failed"
    assert f"{toy_model_dir} and {twin} are both named toy" in message


async def test_one_that_cannot_be_loaded_keeps_the_service_from_being_ready(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    folder = write_turned(tmp_path / "turned")
    (folder / "tokenizer.json").write_bytes(b"{}")
    async with serving((toy_model_dir, folder)) as http:
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.embed("hund")).status_code == 503


async def test_info_and_metrics_tell_of_all(toy_model_dir: Path, turned_dir: Path) -> None:
    async with serving((toy_model_dir, turned_dir)) as http:
        await http.embed("hund", model="turned")
        info = (await http.get("/info")).json()
        metrics = (await http.get("/metrics")).text
        counted = {
            model: http.value(
                "request_duration_seconds_count", route="/embed", task="embed", model=model
            )
            for model in ("toy", "turned")
        }
    assert info["model"]["name"] == "toy"
    shown = [(each["name"], each["embedding_dimension"], each["ready"]) for each in info["models"]]
    assert shown == [("toy", 4, True), ("turned", 3, True)]
    assert counted == {"toy": 0, "turned": 1}
    for model in ("toy", "turned"):
        assert f'lightmbert_model_info{{model="{model}"' in metrics


async def test_one_that_is_hopeless_does_not_take_the_other_down(
    toy_model_dir: Path, turned_dir: Path
) -> None:
    options = {"run_timeout_s": 1.0, "faults_until_exit": 1, "runners": 1}
    async with serving((toy_model_dir, turned_dir), open_engine=gating("toy"), **options) as http:
        assert (await http.embed("hund")).status_code == 500  # its run hangs
        toy = http.service.students.default
        async with asyncio.timeout(5):
            while not toy.engine.broken:
                await asyncio.sleep(0)
        refused = await http.embed("hund")
        assert refused.status_code == 503
        assert "must be restarted" in refused.json()["error"]["message"]
        assert (await http.embed("hund", model="turned")).status_code == 200
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"state": "ready, but not toy"})
        assert not http.service.leaving.is_set()
        toy.engine.session.gate.release(100)


async def test_before_the_body_is_read_only_what_all_would_refuse_is_refused(
    toy_model_dir: Path, turned_dir: Path
) -> None:
    async with serving((toy_model_dir, turned_dir), open_engine=gating("toy"), runners=1) as http:
        toy = http.service.students.default.engine
        toy._forecast.learn = lambda run: None
        toy._forecast.seconds_per_token = 1.0  # so that whoever comes second would wait for long
        first = asyncio.create_task(http.embed("hund"))
        await toy.has_begun()
        refused = await http.embed("katt")
        assert refused.status_code == 429  # after its body was read
        assert (await http.embed("katt", model="turned")).status_code == 200
        toy.session.gate.release(100)
        assert (await first).status_code == 200
