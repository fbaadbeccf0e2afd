import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toy_student import MAX_TOKENS, write_graph, write_model_dir

from app.errors import InferenceError, ManifestError, VariantError
from app.runtime.artifact import load_manifest
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from app.student import Student


class Watched:
    """A graph that says when it runs, and waits until it may."""

    def __init__(self, session: object) -> None:
        self._session = session
        self.runs = 0
        self.began, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    def run(self, names: list[str], feed: object) -> object:
        self.runs += 1
        self.began.set()
        assert self.may_end.wait(10)
        return self._session.run(names, feed)  # type: ignore[attr-defined]  # onnxruntime's


class Dead:
    """A graph that cannot run any more."""

    def run(self, names: list[str], feed: object) -> object:
        raise RuntimeError("device lost")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model_dir(tmp_path / "toy")


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder / "tokenizer.json", max_tokens=MAX_TOKENS)


@pytest.fixture
def open_session(folder: Path) -> Callable[[], StudentSession]:
    return lambda: StudentSession.load(
        folder, load_manifest(folder), device="cpu", precision="auto", intra_op_threads=1
    )


@pytest.fixture
def student(open_session: Callable[[], StudentSession], tokenizer: Tokenizer) -> Student:
    return Student(open_session, tokenizer)


def widened(
    student: Student, open_session: Callable[[], StudentSession]
) -> tuple[Watched, Watched]:
    """The graphs of both sessions."""
    wide = open_session()
    student.widen(lambda: wide)
    graphs = Watched(student.session._session), Watched(wide._session)
    student.session._session, wide._session = graphs
    return graphs


def test_each_text_has_a_row_of_its_own(student: Student, tokenizer: Tokenizer) -> None:
    hund, katt = student.run(tokenizer.encode(["hund", "katt"], truncate=False))
    assert hund.keys() == katt.keys() == {"pooled", "logits_topic", "logits_same"}
    np.testing.assert_allclose(hund["pooled"], [1 / 3, 0, 0, 0])
    np.testing.assert_allclose(katt["pooled"], [0, 1 / 3, 0, 0])


def test_a_student_that_is_well_stays(student: Student) -> None:
    before = student.session
    assert not student.heal(hung=False)
    assert student.session is before


def test_a_sick_student_is_opened_anew(student: Student, tokenizer: Tokenizer) -> None:
    student.session._session = Dead()
    assert student.heal(hung=False)
    assert student.run(tokenizer.encode(["hund"], truncate=False))


def test_one_that_hung_is_opened_anew_without_being_asked(student: Student) -> None:
    before = student.session
    assert student.heal(hung=True)
    assert student.session is not before


def test_what_cannot_be_opened_is_told_and_can_be_tried_again(
    student: Student, folder: Path
) -> None:
    whole = (folder / "model.onnx").read_bytes()
    write_graph(folder / "model.onnx", nudge=1e-3)  # altered on the disk meanwhile
    student.session._session = Dead()
    with pytest.raises(ManifestError, match="the manifest says"):
        student.heal(hung=False)
    (folder / "model.onnx").write_bytes(whole)
    assert student.heal(hung=False)


def test_a_text_alone_runs_wide_and_others_do_not(
    student: Student, open_session: Callable[[], StudentSession], tokenizer: Tokenizer
) -> None:
    narrow, wide = widened(student, open_session)
    one, two = (tokenizer.encode(texts, truncate=False) for texts in (["hund"], ["hund", "katt"]))
    alone = student.run(one)
    assert (narrow.runs, wide.runs) == (0, 1)
    student.run(two)
    assert (narrow.runs, wide.runs) == (1, 1)
    wide.began.clear()
    wide.may_end.clear()
    first = threading.Thread(target=student.run, args=(one,))
    first.start()
    assert wide.began.wait(10)
    beside = student.run(one)
    assert (narrow.runs, wide.runs) == (2, 2)
    wide.may_end.set()
    first.join(10)
    student.run(one)
    assert (narrow.runs, wide.runs) == (2, 3)
    np.testing.assert_allclose(alone[0]["pooled"], beside[0]["pooled"], rtol=1e-6)


def test_a_text_beside_which_another_student_runs_is_not_alone(
    student: Student, open_session: Callable[[], StudentSession], tokenizer: Tokenizer
) -> None:
    narrow, wide = widened(student, open_session)
    other = Student(open_session, tokenizer)
    other.session._session = busy = Watched(other.session._session)
    one = tokenizer.encode(["hund"], truncate=False)
    busy.may_end.clear()
    running = threading.Thread(target=other.run, args=(one,))
    running.start()
    assert busy.began.wait(10)
    student.run(one)
    assert (narrow.runs, wide.runs) == (1, 0)
    busy.may_end.set()
    running.join(10)
    student.run(one)
    assert (narrow.runs, wide.runs) == (1, 1)


def test_a_run_that_fails_is_no_company(
    student: Student, open_session: Callable[[], StudentSession], tokenizer: Tokenizer
) -> None:
    narrow, wide = widened(student, open_session)
    graph, student.session._session = student.session._session, Dead()
    with pytest.raises(InferenceError):
        student.run(tokenizer.encode(["hund", "katt"], truncate=False))
    student.session._session = graph
    student.run(tokenizer.encode(["hund"], truncate=False))
    assert (narrow.runs, wide.runs) == (0, 1)


def test_a_wide_session_that_is_sick_is_done_without(
    student: Student, open_session: Callable[[], StudentSession], tokenizer: Tokenizer
) -> None:
    wide = open_session()
    student.widen(lambda: wide)
    wide._session = Dead()
    one = tokenizer.encode(["hund"], truncate=False)
    with pytest.raises(InferenceError):
        student.run(one)
    assert student.heal(hung=False)
    assert student.run(one)


def test_what_is_unusable_is_not_kept(
    student: Student, open_session: Callable[[], StudentSession], tokenizer: Tokenizer
) -> None:
    def opened() -> StudentSession:
        raise VariantError("no room")

    with pytest.raises(VariantError):
        student.widen(opened)
    sick = open_session()
    sick._session = Dead()
    with pytest.raises(InferenceError):
        student.widen(lambda: sick)
    assert student.run(tokenizer.encode(["hund"], truncate=False))
