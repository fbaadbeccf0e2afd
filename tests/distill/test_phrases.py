from pathlib import Path

import orjson
import pyarrow.parquet as pq
from typer import Typer
from typer.testing import CliRunner

from distill.phrases import main

WORDS = {
    "en": {"hospital": "hospital", "doctor": "doctor", "GR": "Greece", "el": "Greek"},
    "el": {"hospital": "νοσοκομείο", "doctor": "γιατρός", "GR": "Ελλάδα", "el": "ελληνικά"},
}


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(content))


def write_language(root: Path, language: str, *, presets: bool = True) -> None:
    words = WORDS[language]
    emoji = {
        "🏥": {"tts": [words["hospital"]], "default": [words["doctor"], words["hospital"]]},
        "🇽": {"default": ["no name"]},
    }
    write(root / f"a/{language}/annotations.json", {"annotations": {"annotations": emoji}})
    for kind, codes in {
        "territories": {"GR": words["GR"], "ZZ": "ZZ"},
        "languages": {"el": words["el"], "xx": "Xx"},
    }.items():
        names = {"main": {language: {"localeDisplayNames": {kind: codes}}}}
        write(root / f"n/{language}/{kind}.json", names)
    things = {"amenity/doctors": {"name": words["doctor"]}, "amenity/pub": {"terms": "bar"}}
    told = {"presets": {"presets": things}} if presets else {}
    write(root / f"p/{language}.json", {language: told})


def pairs(root: Path) -> dict[str, list[tuple[str, str]]]:
    app = Typer()
    app.command()(main)
    folders = ["--annotations", f"{root}/a", "--names", f"{root}/n", "--presets", f"{root}/p"]
    result = CliRunner().invoke(app, [f"{root}/out", "--languages", "el", *folders])
    assert result.exit_code == 0, result.output
    found: dict[str, list[tuple[str, str]]] = {}
    for row in pq.read_table(root / "out/el.parquet").to_pylist():
        found.setdefault(row["source"], []).append((row["text"], row["text_en"]))
    return found


def test_what_has_a_name_in_both_languages_becomes_a_pair(tmp_path: Path) -> None:
    write_language(tmp_path, "en")
    write_language(tmp_path, "el")
    assert pairs(tmp_path) == {
        "cldr-emoji": [("νοσοκομείο", "hospital")],
        "cldr-keywords": [("νοσοκομείο, γιατρός", "hospital, doctor")],
        "cldr-countries": [("Ελλάδα", "Greece")],  # and no ZZ, which is but a code
        "cldr-languages": [("ελληνικά", "Greek")],  # and no Xx, which is left as it was
        "osm-presets": [("γιατρός", "doctor")],
    }


def test_a_language_that_nobody_has_named_the_map_in_yet_has_the_rest(tmp_path: Path) -> None:
    write_language(tmp_path, "en")
    write_language(tmp_path, "el", presets=False)
    found = pairs(tmp_path)
    assert "osm-presets" not in found
    assert found["cldr-emoji"]
