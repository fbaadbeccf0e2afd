from pathlib import Path

import numpy as np
import pytest
from toy_student import MAX_TOKENS, write_graph, write_model_dir

from app.errors import ManifestError
from app.runtime.artifact import load_manifest
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Tokenizer
from app.student import Student


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
def student(folder: Path, tokenizer: Tokenizer) -> Student:
    return Student(
        lambda: StudentSession.load(
            folder, load_manifest(folder), device="cpu", precision="auto", intra_op_threads=1
        ),
        tokenizer,
    )


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
