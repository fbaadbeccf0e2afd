import pytest
from pydantic import TypeAdapter, ValidationError
from tiny_objectives import ALL, CODIR, MINILM2, TINYBERT, objective
from tiny_world import LIGHTMBERT, SENTENCE

from distill.tables.objectives import Objectives

LISTED: TypeAdapter[Objectives] = TypeAdapter(Objectives)


def test_several_kinds_may_be_listed_in_their_order() -> None:
    found = LISTED.validate_python(
        [LIGHTMBERT, TINYBERT, ALL["distilbert"], MINILM2, CODIR, SENTENCE]
    )
    kinds = [table.kind for table in found]
    assert kinds == ["lightmbert", "tinybert", "distilbert", "minilm", "codir", "sentence"]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ([], "at least 1 item"),
        ([LIGHTMBERT, SENTENCE, LIGHTMBERT | {"weight": 0.5}], "lightmbert is listed more than"),
        ([ALL["minilm"], MINILM2], "minilm is listed more than once"),
        ([MINILM2 | {"version": 3}], "version.*1, 2"),
        ([ALL["minilm"] | {"relation_heads": 4}], "relation_heads"),
        ([LIGHTMBERT | {"weight": 0.0}], "greater than 0"),
        ([LIGHTMBERT | {"hidden_weight": -1.0}], "greater than or equal to 0"),
        ([LIGHTMBERT | {"attention": "logits"}], "'scores' or 'probabilities'"),
        ([TINYBERT | {"teacher_layers": [0, 2]}], "greater than 0"),
        ([CODIR | {"student_layers": []}], "at least 1 item"),
        ([CODIR | {"same_language": 1.1}], "less than or equal to 1"),
        ([CODIR | {"temperature": 0.0}], "greater than 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tables: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LISTED.validate_python(tables)


@pytest.mark.parametrize("kind", ALL)
def test_nothing_has_a_silent_default(kind: str) -> None:
    objective(ALL[kind])
    for key in ALL[kind]:
        without = {other: value for other, value in ALL[kind].items() if other != key}
        with pytest.raises(ValidationError, match=r"Field required|Unable to extract tag"):
            objective(without)
