"""An evaluation of three systems, to be made into tables."""

from pathlib import Path

from distill.suite import Evaluation, Results, System
from distill.tables.evaluate import EvaluateTable

TEACHER: Results = {"topic": {"en": 0.9, "de": 0.8, "sw": 0.4}, "sts": {"en": 0.7}}
STUDENT: tuple[Results, ...] = (
    {"topic": {"en": 0.8, "de": 0.6, "sw": 0.2}, "sts": {"en": 0.65}},
    {"topic": {"en": 0.8, "de": 0.6, "sw": 0.4}, "sts": {"en": 0.65}},
)
"""Two seeds."""
INT8: Results = {"topic": {"en": 0.75, "de": 0.5}}


def an_evaluation() -> Evaluation:
    systems = (
        System("teacher", (TEACHER,)),
        System("student", STUDENT),
        System("int8", (INT8,)),
    )
    chances = {"topic": dict.fromkeys(("en", "de", "sw"), 0.25), "sts": {"en": 0.0}}
    return Evaluation(systems, chances)


def a_table(**changes: object) -> EvaluateTable:
    nowhere = Path("none")
    settings = {
        "model_dir": nowhere,
        "encoders": {"teacher": "t", "student": "s"},
        "teacher": "teacher",
        "languages": ("en", "sw", "de", "zh"),
        "source_language": "en",
        "split": "dev",
        "topic": nowhere,
        "sts": nowhere,
        "max_sts_pairs": 100,
        "max_tokens": 8,
        "description": "A small student.",
        "weaknesses": ("Swahili", "long texts"),
        "report": nowhere,
    }
    return EvaluateTable.model_validate(settings | changes)
