r"""Names of everyday things in many languages, as pairs to train on: LANG.parquet in a folder.

    python -m distill.phrases OUT --languages he,sw,vi \
        --annotations cldr-annotations-full/annotations --names cldr-localenames-full/main \
        --presets id-tagging-schema/dist/translations

Documentation and courses, of which most public translations are, lack words as plain as
"hospital" or "referee" in many languages. Unicode CLDR names and describes every emoji, and names
languages and countries (Unicode licence); OpenStreetMap's tagging schema names what stands on a map
(ISC licence). All three are npm packages of those names, which unpack to these folders.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import typer

SCHEMA = pa.schema([("text", pa.string()), ("text_en", pa.string()), ("source", pa.string())])
Names = dict[str, str]
"""A sign or code, the same in every language -> what it is called."""


def main(
    out: Path,
    languages: Annotated[str, typer.Option(help="Such as he,sw,vi; English is the other side.")],
    annotations: Annotated[Path, typer.Option(help="LANG/annotations.json of CLDR.")],
    names: Annotated[Path, typer.Option(help="LANG/territories.json and languages.json of CLDR.")],
    presets: Annotated[Path, typer.Option(help="LANG.json of OpenStreetMap's tagging schema.")],
) -> None:
    """Write a file for each language, with the columns text, text_en and source."""
    out.mkdir(parents=True, exist_ok=True)
    english = dict(_sources("en", annotations, names, presets))
    for language in languages.split(","):
        rows = [
            {"text": text, "text_en": english[source][what], "source": source}
            for source, named in _sources(language, annotations, names, presets)
            for what, text in named.items()
            # What is called alike was left untranslated, or needs no learning.
            if english[source].get(what, text) != text
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out / f"{language}.parquet")
        typer.echo(f"{language} {len(rows):,}")


def _sources(
    language: str, annotations: Path, names: Path, presets: Path
) -> Iterator[tuple[str, Names]]:
    told = orjson.loads((annotations / language / "annotations.json").read_bytes())
    emoji = told["annotations"]["annotations"]
    named = {sign: each for sign, each in emoji.items() if "tts" in each}  # its name, as spoken
    yield "cldr-emoji", {sign: each["tts"][0] for sign, each in named.items()}
    yield "cldr-keywords", {sign: _described(each) for sign, each in named.items()}
    yield "cldr-countries", _of_codes("territories", language, names)
    yield "cldr-languages", _of_codes("languages", language, names)
    of_map = orjson.loads((presets / f"{language}.json").read_bytes())[language]
    things = of_map.get("presets", {}).get("presets", {})  # hardly begun in some languages
    yield "osm-presets", {what: each["name"] for what, each in things.items() if "name" in each}


def _described(emoji: dict[str, list[str]]) -> str:
    """Its name and what else comes to mind: "soccer ball, ball, football, sport"."""
    return ", ".join(dict.fromkeys([*emoji["tts"], *emoji.get("default", [])]))


def _of_codes(kind: str, language: str, names: Path) -> Names:
    told = orjson.loads((names / language / f"{kind}.json").read_bytes())
    found: Names = told["main"][language]["localeDisplayNames"][kind]
    return {code: name for code, name in found.items() if name != code}


if __name__ == "__main__":
    typer.run(main)
