"""What a study learns from, told by content: its recipe names places, and what lies there changes.

A cell that was done with another student must not stand beside those of this one. Data that were
only moved change nothing.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson

from app.errors import LightMBERTError
from distill.labelled import Labelled
from distill.tables.study import StudyTeacherTable
from distill.task_rows import TaskRows
from distill.teacher import fingerprint_of, load_encoder, tokenizer_file

INPUTS_FILE = "inputs.json"


class StudyError(LightMBERTError):
    """A study cannot be run or gone on with."""

    code = "bad_study"


def inputs_of(
    teachers: Iterable[StudyTeacherTable],
    tasks: Mapping[str, TaskRows],
    measured: Mapping[str, Mapping[str, Labelled]],
) -> dict[str, str]:
    """Encoders and rows -> their fingerprints, each under a name that people understand.

    Raises:
        EncoderError: an encoder cannot be loaded.
    """
    found = {}
    for teacher in teachers:
        for what in ("encoder", "distilled", "plain"):
            if isinstance(place := getattr(teacher, what), Path):
                found[f"{what} of {teacher.name}"] = _fingerprint(place)
    for name, task in tasks.items():
        found[f"train of {name}"] = task.train.fingerprint()
        found[f"development of {name}"] = task.development.fingerprint()
        for language, rows in measured[name].items():
            found[f"measured {language} of {name}"] = rows.fingerprint()
    return found


def check_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Hold a run's folder to the inputs it was begun with; a new one is told of them.

    Raises:
        StudyError: they are others.
    """
    path = folder / INPUTS_FILE
    try:
        begun_with = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        _write(path, inputs)
        return
    except orjson.JSONDecodeError as error:
        raise StudyError(f"{path} is not JSON: {error}") from error
    if changed := [name for name, found in inputs.items() if begun_with.get(name) != found]:
        raise StudyError(
            f"{folder} was begun with other inputs: {', '.join(changed)}. Remove {folder} or "
            "name another run folder"
        )


def _write(path: Path, inputs: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(orjson.dumps(inputs, option=orjson.OPT_INDENT_2))
    partial.replace(path)


def _fingerprint(place: Path) -> str:
    """Of an encoder's weights and tokenizer, wherever it lies."""
    tokenizer = hashlib.sha256(tokenizer_file(str(place)).read_bytes()).hexdigest()[:16]
    return f"{fingerprint_of(load_encoder(str(place)))}+{tokenizer}"
