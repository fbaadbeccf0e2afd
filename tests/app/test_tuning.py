import json
import logging
from pathlib import Path

import pytest
from toy_student import MAX_TOKENS

from app import tuning
from app.engine import Engine
from app.metrics import Metrics
from app.opened_model import OpenedModel
from app.runtime.artifact import load_manifest
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from app.settings import Settings
from app.tuning import Plan, candidates, threads_alone, tuned


class Machine:
    """Four CPUs on which each plan is as fast as it is said to be."""

    def __init__(self, folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.cache_dir = folder, cache_dir
        self.rates: dict[tuple[int, int], float] = {(2, 2): 100.0}
        self.measured: list[tuple[int, int]] = []
        self._threads: dict[int, int] = {}
        monkeypatch.setattr(tuning, "allowed_cpus", lambda: 4)
        monkeypatch.setattr(tuning, "texts_per_s", self._texts_per_s)

    def tuned(self, **options: object) -> tuple[int, int]:
        given = {"autotune": True, "cache_dir": self.cache_dir} | options
        rule = {"runners": 2, "intra_op_threads": 2}
        settings = Settings(model_dir=self.folder, **given)
        if not settings.model_fields_set & set(rule):  # this machine's own rule is not at stake
            settings = settings.model_copy(update=rule)
            settings.model_fields_set.difference_update(rule)
        opened = self._open(Plan(**{name: getattr(settings, name) for name in rule}))
        chosen = tuned(settings, self._open, self._tokenizer(), opened=opened)
        return chosen.runners, chosen.intra_op_threads

    @property
    def cache(self) -> Path:
        [file] = self.cache_dir.iterdir()
        return file

    def _open(self, plan: Plan) -> StudentSession:
        session = StudentSession.load(
            self.folder,
            load_manifest(self.folder),
            device="cpu",
            precision="auto",
            intra_op_threads=1,
        )
        self._threads[id(session)] = plan.intra_op_threads
        return session

    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.folder / "tokenizer.json", max_tokens=MAX_TOKENS)

    def _texts_per_s(self, session: StudentSession, runners: int, batches: object) -> float:
        plan = runners, self._threads[id(session)]
        if plan not in self.measured:
            self.measured.append(plan)
        return self.rates.get(plan, 50.0)


@pytest.fixture
def machine(toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(toy_model_dir, tmp_path / "cache", monkeypatch)


def test_the_plans_use_all_cpus_and_the_rule_comes_first() -> None:
    def plans(cpus: int, runners: int, threads: int) -> list[tuple[int, int]]:
        rule = Plan(runners=runners, intra_op_threads=threads)
        return [(p.runners, p.intra_op_threads) for p in candidates(rule, cpus=cpus)]

    assert plans(1, 1, 1) == [(1, 1)]
    assert plans(2, 2, 1) == [(2, 1), (1, 2)]
    assert plans(6, 3, 2) == [(3, 2), (6, 1), (1, 4)]
    assert plans(16, 4, 4) == [(4, 4), (16, 1), (8, 2), (2, 8), (1, 16)]


def test_the_plan_that_is_clearly_faster_is_chosen(machine: Machine) -> None:
    machine.rates = {(2, 2): 100.0, (4, 1): 120.0, (1, 4): 110.0}
    assert machine.tuned() == (4, 1)
    assert machine.measured == [(2, 2), (4, 1), (1, 4)]


def test_the_rule_stays_where_nothing_is_clearly_faster(machine: Machine) -> None:
    machine.rates = {(2, 2): 100.0, (4, 1): 104.0}
    assert machine.tuned() == (2, 2)


def test_what_is_given_is_not_measured(machine: Machine) -> None:
    assert machine.tuned(runners=3) == (3, Settings().intra_op_threads)
    assert machine.tuned(autotune=False) == (2, 2)
    on_cuda = machine.tuned(device="cuda")  # plans for CPUs say nothing of it
    assert on_cuda == machine.tuned(device="cuda", autotune=False)
    assert machine.measured == []
    assert not machine.cache_dir.exists()


def test_the_next_start_remembers(machine: Machine) -> None:
    machine.rates = {(4, 1): 120.0}
    assert machine.tuned() == (4, 1)
    machine.measured.clear()
    assert machine.tuned() == (4, 1)
    assert machine.measured == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        "[]",
        '{"runners": 4}',
        '{"runners": -1, "intra_op_threads": 1}',
        '{"runners": "4", "intra_op_threads": 1}',
        '{"runners": 400, "intra_op_threads": 1}',
        '{"runners": 4, "intra_op_threads": 1, "more": 1}',
        b"\xff\xfe",
    ],
)
def test_a_cache_that_makes_no_sense_is_measured_again(
    machine: Machine, content: str | bytes
) -> None:
    machine.rates = {(1, 4): 120.0}
    machine.tuned()
    machine.cache.write_bytes(content if isinstance(content, bytes) else content.encode())
    machine.measured.clear()
    assert machine.tuned() == (1, 4)
    assert machine.measured
    assert json.loads(machine.cache.read_text()) == {"runners": 1, "intra_op_threads": 4}


def test_another_processor_is_measured_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.tuned()
    machine.measured.clear()
    monkeypatch.setattr(tuning, "cpu_model", lambda: "another")
    machine.tuned()
    assert machine.measured


def test_a_cache_that_cannot_be_written_is_no_failure(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    machine.rates = {(4, 1): 120.0}
    with caplog.at_level(logging.INFO):
        assert machine.tuned() == (4, 1)
    assert "tuning is not kept" in caplog.text


def test_when_the_time_is_up_nothing_more_is_tried(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "BUDGET_S", 0.0)
    machine.rates = {(4, 1): 120.0}
    assert machine.tuned() == (2, 2)
    assert machine.measured == [(2, 2)]


def test_an_engine_runs_as_it_was_tuned(
    toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "WINDOW_S", 0.005)
    settings = Settings(model_dir=toy_model_dir, autotune=True, cache_dir=tmp_path)
    engine = Engine.load(settings, Metrics())
    [cache] = tmp_path.iterdir()
    kept = json.loads(cache.read_text())
    assert kept == engine.settings.model_dump(include=set(kept))


@pytest.mark.parametrize(
    ("runners", "threads", "opened"), [(1, 1, [1]), (3, 1, [1, 1]), (3, 2, [1, 2])]
)
def test_a_model_is_opened_again_only_for_another_plan(
    toy_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runners: int,
    threads: int,
    opened: list[int],
) -> None:
    asked: list[int] = []
    load = StudentSession.load

    def loaded(*given: object, intra_op_threads: int, **named: object) -> StudentSession:
        asked.append(intra_op_threads)
        return load(*given, intra_op_threads=intra_op_threads, **named)

    monkeypatch.setattr(StudentSession, "load", loaded)
    plan = Plan(runners=runners, intra_op_threads=threads)
    monkeypatch.setattr(tuning, "candidates", lambda rule, *, cpus: [plan])
    monkeypatch.setattr(tuning, "read", lambda cache: plan)
    monkeypatch.setattr("app.settings.allowed_cpus", lambda: 1)
    model = OpenedModel(Settings(model_dir=toy_model_dir, autotune=True, cache_dir=tmp_path))
    model.measure()
    assert asked == opened
    assert len(model.students) == runners
    assert len(set(model.students)) == 1


def test_a_session_is_opened_for_as_many_runs_as_it_has_at_a_time(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    load = StudentSession.load

    def loaded(
        *given: object, intra_op_threads: int, runners: int, **named: object
    ) -> StudentSession:
        asked.append((runners, intra_op_threads))
        return load(*given, intra_op_threads=intra_op_threads, runners=runners, **named)

    monkeypatch.setattr(StudentSession, "load", loaded)
    OpenedModel(
        Settings(model_dir=toy_model_dir, runners=3, intra_op_threads=1, threads_alone=2)
    ).widen()
    assert asked == [(3, 1), (1, 2)]


def test_each_runner_of_a_gpu_has_a_session_of_its_own(
    toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = StudentSession.load

    def loaded(*given: object, device: str, runners: int, **named: object) -> StudentSession:
        assert (device, runners) == ("cuda", 1)
        return load(*given, device="cpu", runners=runners, **named)

    monkeypatch.setattr(StudentSession, "load", loaded)
    model = OpenedModel(Settings(model_dir=toy_model_dir, device="cuda", runners=3))
    students = list(model.students)
    model.measure()
    assert list(model.students) == students
    assert len({student.session for student in students}) == 3


@pytest.mark.parametrize(
    ("given", "precision", "threads"),
    [
        ({"runners": 2, "intra_op_threads": 1}, "fp32", 4),
        ({"runners": 2, "intra_op_threads": 6}, "fp32", 6),
        ({"runners": 2, "intra_op_threads": 1}, "int8", 1),
        ({"runners": 2, "intra_op_threads": 1, "threads_alone": 3}, "int8", 3),
        ({"runners": 1, "intra_op_threads": 2}, "fp32", 2),
        ({"runners": 2, "intra_op_threads": 1, "device": "cuda"}, "fp16", 1),
    ],
)
def test_a_text_alone_gets_all_cpus_where_that_helps(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, int],
    precision: str,
    threads: int,
) -> None:
    monkeypatch.setattr(tuning, "allowed_cpus", lambda: 8)
    session = machine._open(Plan(runners=1, intra_op_threads=1))
    session.variant = session.variant.model_copy(update={"precision": precision})
    assert threads_alone(Settings(**given), session) == threads
