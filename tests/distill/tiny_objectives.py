"""A table of each kind of objective, as a recipe would hold it, fit for two tiny encoders."""

from pydantic import TypeAdapter
from tiny_world import LIGHTMBERT, SENTENCE

from distill.tables.objectives import Objective, ObjectiveTable

TINYBERT = {
    "kind": "tinybert",
    "weight": 1.0,
    "attention_weight": 1.0,
    "hidden_weight": 1.0,
    "prediction_weight": 0.0,
    "prediction_temperature": 1.0,
    "projection": "none",
}
DISTILBERT = {
    "kind": "distilbert",
    "weight": 1.0,
    "temperature": 2.0,
    "tokens": "masked",
    "pieces_weight": 5.0,
    "masked_language_weight": 2.0,
    "direction_weight": 1.0,
}
MINILM = {
    "kind": "minilm",
    "weight": 1.0,
    "version": 1,
    "teacher_layer": 4,
    "attention_weight": 1.0,
    "values_weight": 1.0,
}
MINILM2 = {
    "kind": "minilm",
    "weight": 1.0,
    "version": 2,
    "teacher_layer": 3,
    "relation_heads": 8,
    "queries_weight": 1.0,
    "keys_weight": 1.0,
    "values_weight": 1.0,
}
CODIR = {
    "kind": "codir",
    "weight": 1.0,
    "loss": "infonce",
    "pooling": "mean",
    "student_layers": [1, 2],
    "teacher_layers": [2, 4],
    "dimensions": 16,
    "temperature": 0.07,
    "negatives": 20,
    "same_language": 0.5,
    "queue": 30,
}
ALL = {
    "lightmbert": LIGHTMBERT,
    "tinybert": TINYBERT,
    "distilbert": DISTILBERT,
    "minilm": MINILM,
    "minilm2": MINILM2,
    "codir": CODIR,
    "sentence": SENTENCE,
}


def objective(table: dict[str, object], **changes: object) -> ObjectiveTable:
    found: ObjectiveTable = TypeAdapter(Objective).validate_python(table | changes)
    return found
