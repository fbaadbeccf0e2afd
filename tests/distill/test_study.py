import shutil
from pathlib import Path

import orjson
import pytest
from safetensors.torch import load_file, save_file
from tiny_encoder import write_bert
from tiny_tasks import SCHEDULE, rows_of, write_polyglot, write_topics
from tiny_world import World, recipe
from tokenizers import Tokenizer

from distill.cells import Cell, CellResult, Study
from distill.config import LoadedRecipe
from distill.reading import CorpusError
from distill.study import run
from distill.study_inputs import StudyError
from distill.study_report import Matrix, findings, matrix_markdown
from distill.teacher import EncoderError

ARMS = ("teacher", "none", "pre-training", "fine-tuning", "both")


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("tasks") / "topics")


@pytest.fixture(scope="module")
def students(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of two layers and what stands for its student, of one."""
    folder = tmp_path_factory.mktemp("students")
    write_polyglot(folder / "teacher", world)
    tokenizer = Tokenizer.from_file(str(world.teacher / "tokenizer.json"))
    write_bert(folder / "distilled", tokenizer, num_hidden_layers=1)
    return folder


def study_table(students: Path, topics: Path, **changes: object) -> dict[str, object]:
    return {
        "teachers": [
            {
                "name": "tiny",
                "encoder": students / "teacher",
                "distilled": students / "distilled",
                "plain": {"layers": 1, "initialisation": "bottom", "embeddings": "trained"},
            }
        ],
        "tasks": [
            {
                "name": "doing",
                "train": rows_of(topics / "en.parquet", where={"split": "train"}),
                "development": {"share": 0.2},
                "measured": {
                    "folder": topics,
                    "text_column": "text",
                    "label_column": "label",
                    "where": {"split": "dev"},
                },
            }
        ],
        "seeds": [1, 2],
        "source_language": "en",
        "languages": ["en", "de", "ru"],
        "max_tokens": 32,
        "teacher_schedule": SCHEDULE | {"epochs": 1},
        "schedule": SCHEDULE | {"epochs": 1},
        "task_kd": {
            "divergence": "kl",
            "temperature": 2.0,
            "hard_weight": 0.5,
            "soft_weight": 0.5,
        },
    } | changes


def a_recipe(folder: Path, students: Path, topics: Path, **changes: object) -> LoadedRecipe:
    return recipe(folder, study=study_table(students, topics, **changes))


def test_the_matrix_is_run_cell_by_cell_and_gone_on_with(
    students: Path,
    topics: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = a_recipe(tmp_path, students, topics)
    ran: list[str] = []
    really = Study.run

    def killed_after_six(self: Study, cell: Cell) -> CellResult:
        if len(ran) == 6:
            raise KeyboardInterrupt
        ran.append(cell.name)
        return really(self, cell)

    monkeypatch.setattr(Study, "run", killed_after_six)
    with pytest.raises(KeyboardInterrupt):
        run(loaded)
    written = {path.stem: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    assert (
        set(written)
        == set(ran)
        == {f"tiny.doing.{arm}.1" for arm in ARMS} | {"tiny.doing.teacher.2"}
    )
    assert not (tmp_path / "study.md").exists()

    again: list[str] = []
    monkeypatch.setattr(
        Study, "run", lambda self, cell: again.append(cell.name) or really(self, cell)
    )
    run(loaded)
    assert again == [f"tiny.doing.{arm}.2" for arm in ARMS[1:]]
    for name, content in written.items():
        assert (tmp_path / "cells" / f"{name}.json").read_bytes() == content
    printed = capsys.readouterr().out
    assert "warning: task KD on source-language text alone" in printed
    assert "tiny.doing.none.1: source" in printed
    check_report(tmp_path)


def check_report(folder: Path) -> None:
    """Figures of the report are those of the cells."""
    [told] = orjson.loads((folder / "study.json").read_bytes())
    text = (folder / "study.md").read_text()
    scores = []
    for seed in (1, 2):
        cell = orjson.loads((folder / "cells" / f"tiny.doing.both.{seed}.json").read_bytes())
        assert {language: len(right) for language, right in cell["hits"].items()} == {
            "en": 24,
            "de": 24,
            "ru": 24,
        }
        scores.append({lang: right.count("1") / 24 for lang, right in cell["hits"].items()})
    both = told["arms"]["both"]
    others = [(run["de"] + run["ru"]) / 2 for run in scores]
    assert both["mean_of_the_others"]["mean"] == pytest.approx(sum(others) / 2)
    gaps = [run["en"] - other for run, other in zip(scores, others, strict=True)]
    assert both["gap"]["mean"] == pytest.approx(sum(gaps) / 2)
    assert f"| both | {(scores[0]['en'] + scores[1]['en']) / 2:.3f} ±" in text
    assert told["findings"][0] in text
    assert "One seed" not in text


def test_cells_of_another_recipe_are_refused(students: Path, topics: Path, tmp_path: Path) -> None:
    table = study_table(students, topics, seeds=[1])
    study = Study(recipe(tmp_path, study=table).recipe.study, tmp_path, sha256="a" * 64, seed=1)
    cell = tmp_path / "cells" / "tiny.doing.teacher.1.json"
    cell.parent.mkdir()
    result = CellResult(
        recipe_sha256="b" * 64,
        development_score=0.5,
        best_epoch=1,
        temperature=1.0,
        hits={"en": "1"},
    )
    cell.write_text(result.model_dump_json())
    with pytest.raises(StudyError, match="was written by another recipe"):
        run(recipe(tmp_path, "a" * 64, study=table))
    cell.write_text("{}")
    with pytest.raises(StudyError, match=r"teacher\.1\.json is not a cell"):
        run(recipe(tmp_path, "a" * 64, study=table))
    assert study is not None


def test_cells_of_another_student_are_refused(students: Path, topics: Path, tmp_path: Path) -> None:
    def begin(folder: Path) -> None:
        table = recipe(tmp_path, study=study_table(folder, topics)).recipe.study
        Study(table, tmp_path, sha256="0" * 64, seed=1)

    begin(students)
    moved = Path(shutil.copytree(students, tmp_path / "moved"))
    begin(moved)  # the same by content
    weights = moved / "distilled" / "model.safetensors"
    tensors = load_file(weights)
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(StudyError, match=r"with other inputs: distilled of tiny\. Remove"):
        begin(moved)
    (tmp_path / "inputs.json").write_text("{")
    with pytest.raises(StudyError, match=r"inputs\.json is not JSON"):
        begin(students)


def test_texts_longer_than_an_encoder_reads_are_refused_before_anything_trains(
    students: Path, topics: Path, tmp_path: Path
) -> None:
    with pytest.raises(EncoderError, match="max_tokens 64 exceeds the 48 positions of"):
        run(a_recipe(tmp_path, students, topics, max_tokens=64))
    assert not (tmp_path / "cells").exists()


def test_students_of_two_shapes_are_refused_before_anything_trains(
    students: Path, topics: Path, tmp_path: Path
) -> None:
    table = study_table(students, topics)
    table["teachers"][0]["plain"]["layers"] = 2
    with pytest.raises(StudyError, match="with pre-training KD has depth 1, the one without 2"):
        run(recipe(tmp_path, study=table))
    tokenizer = Tokenizer.from_file(str(students / "teacher" / "tokenizer.json"))
    narrow = tmp_path / "narrow"
    write_bert(narrow, tokenizer, num_hidden_layers=1, intermediate_size=32)
    table["teachers"][0]["plain"] = narrow
    with pytest.raises(StudyError, match="KD has parameters in its layers 8544, the one without"):
        run(recipe(tmp_path, study=table))
    assert not (tmp_path / "cells").exists()


def test_a_language_without_a_file_is_refused_before_anything_trains(
    students: Path, topics: Path, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=r"sw\.parquet does not exist"):
        run(a_recipe(tmp_path, students, topics, languages=["en", "sw"]))
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [1, 1]}, "two seeds are called '1'"),
        ({"languages": ["de", "ru"]}, "must have source_language 'en'"),
        ({"languages": ["en"]}, "and others"),
        (
            {
                "task_kd": {
                    "divergence": "kl",
                    "temperature": 2.0,
                    "hard_weight": 1,
                    "soft_weight": 0,
                }
            },
            "nothing is learned from the teacher: soft_weight is 0",
        ),
    ],
)
def test_a_study_that_says_nothing_is_refused(
    students: Path, topics: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        a_recipe(tmp_path, students, topics, **changes)


def results(**hits: str) -> list[CellResult]:
    return [
        CellResult(
            recipe_sha256="0" * 64, development_score=1, best_epoch=1, temperature=1, hits=hits
        )
    ]


def test_findings_follow_the_figures() -> None:
    none = results(en="1111100000", de="1110000000", sw="1111000000")
    matrix = Matrix(
        "t",
        "doing",
        "en",
        {
            "teacher": none,
            "none": none,
            "pre-training": results(en="1111111100", de="1111111110", sw="1111111111"),
            "fine-tuning": results(en="1111111110", de="1100000000", sw="0000000000"),
            "both": results(en="1111111111", de="1111110000", sw="1111110000"),
        },
    )
    # others: none .35, pre-training .95, fine-tuning .1, both .6. Rows of one number are averaged
    # over German and Swahili: fine-tuning differs by -.5, -.5, -1, -.5 and six zeros, mean -.25,
    # variance (3 * .25 + 1 - 10 * .0625) / 9 = .125, over ten rows.
    found = matrix.others_change("none", "fine-tuning")
    assert (found.mean, found.error) == (pytest.approx(-0.25), pytest.approx(0.0125**0.5))
    assert findings(matrix)[1:] == [
        "Pre-training KD against fine-tuning KD: +0.850 ±0.076; pre-training KD was the stronger.",
        "Fine-tuning KD by itself lowered the mean of the others; languages that it moved down: sw.",
    ]
    assert "at pre-training +0.600 ±0.145, at fine-tuning -0.250 ±0.112" in findings(matrix)[0]
    assert "One seed was run: what another would change is in no error." in matrix_markdown(matrix)
    lines = matrix_markdown(matrix).splitlines()
    assert "| none | 0.500 | 0.350 | 0.150 |  |  |  |" in lines
    assert "| pre-training | 0.800 | 0.950 | -0.150 | +0.600 ±0.145 | 2 | 0 |" in lines
    assert "| fine-tuning | 0.900 | 0.100 | 0.800 | -0.250 ±0.112 | 0 | 1 |" in lines
    assert "| sw | 0.400 | 0.400 | 1.000 ↑ | 0.000 ↓ | 0.600 |" in lines


def test_what_cannot_be_told_apart_is_not_called_stronger() -> None:
    one, other = results(en="11", de="110", sw="10"), results(en="11", de="101", sw="10")
    arms = {"teacher": one, "none": one, "pre-training": one, "fine-tuning": other, "both": one}
    matrix = Matrix("t", "doing", "en", arms)
    told = findings(matrix)
    # the change that is told is that of the mean that is told, whatever a language's rows
    raised = Matrix("t", "doing", "en", arms | {"both": results(en="11", de="110", sw="11")})
    moved = raised.others("both").mean - raised.others("none").mean
    assert raised.others_change("none", "both").mean == pytest.approx(moved) == 0.25
    assert "neither can be told to be the stronger" in told[1]
    assert "did not move the mean of the others; languages that it moved down: none" in told[2]
