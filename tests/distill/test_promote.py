"""A candidate takes its place only where it keeps to every limit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import write_model_dir
from tiny_world import recipe

from app.errors import ManifestError
from app.runtime.artifact import load_manifest, save_manifest
from distill import promote as verb
from distill.promote import PromotionError, promote
from distill.tables.promote import PromoteTable

SCORES = {"topic": {"en": 0.80, "sw": 0.60}, "tatoeba_to_english": {"sw": 0.70}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A candidate with three variants."""
    return write_model_dir(tmp_path_factory.mktemp("promote"), revision="2")


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A folder with a candidate, an older model folder and an evaluation."""
    shutil.copytree(made, tmp_path / "candidate")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text("the older one")
    measure(tmp_path, SCORES)
    return tmp_path


def measure(place: Path, int8: dict[str, dict[str, float]]) -> None:
    """Say that the candidate's int8 variant has these scores, and the reference SCORES."""
    evaluation = {"student": SCORES, "fp32": SCORES, "int8": int8}
    (place / "evaluation.json").write_text(json.dumps(evaluation))
    manifest = load_manifest(place / "candidate")
    told = manifest.provenance.model_copy(update={"metrics": {"fp32": SCORES, "int8": int8}})
    save_manifest(place / "candidate", manifest.model_copy(update={"provenance": told}))


def table(place: Path, **changes: object) -> PromoteTable:
    settings = {
        "candidate": place / "candidate",
        "folder": place / "model",
        "evaluation": place / "evaluation.json",
        "reference": "student",
        "max_loss": {"topic": 0.01, "tatoeba_to_english": 0.02},
        "min_cosine": 0.9,
        "max_probability_error": 0.5,
    }
    return PromoteTable.model_validate(settings | changes)


def contents(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }


def test_a_candidate_within_its_limits_takes_the_place_whole(place: Path) -> None:
    measure(place, {"topic": {"en": 0.795, "sw": 0.60}, "tatoeba_to_english": {"sw": 0.69}})
    verb.run(recipe(place, promote=table(place).model_dump(mode="json")))
    names = {path.name for path in (place / "candidate").iterdir()}
    assert {path.name for path in (place / "model").iterdir()} == names
    assert load_manifest(place / "model") == load_manifest(place / "candidate")
    assert sorted(path.name for path in place.iterdir()) == [
        "candidate", "evaluation.json", "model",
    ]  # fmt: skip


def test_a_place_where_nothing_is_yet_is_taken(place: Path) -> None:
    promote(table(place, folder=place / "new"))
    assert load_manifest(place / "new").revision == "2"


def test_every_score_over_its_limit_is_named(place: Path) -> None:
    measure(place, {"topic": {"en": 0.785, "sw": 0.61}, "tatoeba_to_english": {"sw": 0.65}})
    before = contents(place)
    with pytest.raises(PromotionError) as refused:
        promote(table(place))
    said = str(refused.value)
    assert "int8, topic, en: 0.7850 is 0.0150 lower; at most 0.01" in said
    assert "int8, tatoeba_to_english, sw: 0.6500 is 0.0500 lower; at most 0.02" in said
    assert "topic, sw" not in said
    assert contents(place) == before


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"min_cosine": 1.0}, r"student-int8-avx2\.onnx, golden texts: texts\[\d\] has cosine"),
        ({"max_probability_error": 0.0}, r"student-int8-avx2\.onnx, golden texts.*strays"),
    ],
)
def test_a_variant_too_far_from_golden_outputs_is_named(
    place: Path, limits: dict[str, float], said: str
) -> None:
    before = contents(place)
    with pytest.raises(PromotionError, match=said):
        promote(table(place, **limits))
    assert contents(place) == before


def a_lost_language(place: Path) -> None:
    measure(place, {"topic": {"en": 0.8}, "tatoeba_to_english": {"sw": 0.7}})


def a_lost_benchmark(place: Path) -> None:
    measure(place, {"topic": SCORES["topic"]})


def another_evaluation(place: Path) -> None:
    evaluation = {"student": SCORES, "fp32": SCORES, "int8": SCORES | {"topic": {"en": 0.9}}}
    (place / "evaluation.json").write_text(json.dumps(evaluation))


def no_evaluation(place: Path) -> None:
    (place / "evaluation.json").unlink()


def a_broken_evaluation(place: Path) -> None:
    (place / "evaluation.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (a_lost_language, "int8, topic, sw: no score"),
        (a_lost_benchmark, "no 'tatoeba_to_english' of int8; it has: topic"),
        (another_evaluation, "other scores of int8 than .*: evaluate it again"),
        (no_evaluation, r"evaluation\.json does not exist; run evaluate first"),
        (a_broken_evaluation, r"is not an evaluation\.json"),
    ],
)
def test_what_was_not_measured_is_not_promoted(
    place: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(place)
    before = contents(place)
    with pytest.raises(PromotionError, match=said):
        promote(table(place))
    assert contents(place) == before


def test_a_system_that_was_not_measured_is_named(place: Path) -> None:
    with pytest.raises(PromotionError, match="no scores of 'teacher'; it has: student, fp32, int8"):
        promote(table(place, reference="teacher"))


def test_a_candidate_that_was_altered_or_is_none_is_refused(place: Path) -> None:
    with (place / "candidate" / "student-fp32.onnx").open("ab") as graph:
        graph.write(b"\0")
    with pytest.raises(ManifestError, match="sha256"):
        promote(table(place))
    with pytest.raises(ManifestError, match="none"):
        promote(table(place, candidate=place / "none"))
    with pytest.raises(ValueError, match="candidate and folder are both"):
        table(place, folder=place / "candidate")


@pytest.mark.parametrize("killed_before", [False, True])
def test_a_place_that_cannot_be_written_leaves_what_was_there(
    place: Path, monkeypatch: pytest.MonkeyPatch, killed_before: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(place)
    if killed_before:
        (place / "model").rename(place / "model.former")
    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match="No space left"):
        promote(table(place))
    assert contents(place) == before
