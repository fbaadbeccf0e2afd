"""What a head fitted on a few English examples is worth in other languages, by the command line.

    python -m tests.bench.few_shot --data path/to/sib200 [--examples 10] [--draws 5]

Beside the head that the student ships with. The folder holds LANG.parquet with text, label and
split; heads learn from `train` in English and are judged by `dev`, which is the same text in every
language and which the head that ships has not seen either.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LANGUAGES = ("en", "de", "sw", "zh", "ar", "hi")
TASK = "few_shot"


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def lightmbert(heads_dir: Path, *arguments: object) -> str:
    """What the command prints."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        check=True,
        env=os.environ | {"LIGHTMBERT_HEADS_DIR": str(heads_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout


def drawn(rows: list[dict[str, Any]], *, each: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    by_label = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row)
    return [
        rows_of_label[index]
        for _, rows_of_label in sorted(by_label.items())
        for index in random.choice(len(rows_of_label), each, replace=False)
    ]


def accuracies(judged: dict[str, Path], task: str, *, heads_dir: Path) -> dict[str, float]:
    """Per language, on the texts of its file."""
    told = lightmbert(heads_dir, "classify", "--task", task, "--top-k", 1, *judged.values())
    said = defaultdict(list)
    for record in map(json.loads, told.splitlines()):
        said[record["file"]].append(record["label"])
    return {
        language: float(
            np.mean([row["label"] for row in rows_of(file)] == np.array(said[str(file)]))
        )
        for language, file in judged.items()
    }


def one_draw(data: Path, judged: dict[str, Path], *, each: int, seed: int) -> dict[str, float]:
    """Per language the accuracy, and what was expected of it as `expected`."""
    known = [row for row in rows_of(data / "en.parquet") if row["split"] == "train"]
    with TemporaryDirectory() as folder:
        heads_dir, file = Path(folder) / "heads", Path(folder) / "examples.parquet"
        pq.write_table(pa.Table.from_pylist(drawn(known, each=each, seed=seed)), file)
        fitted = json.loads(lightmbert(heads_dir, "head", "fit", TASK, file, "--json"))
        found = accuracies(judged, TASK, heads_dir=heads_dir)
    return found | {"expected": fitted["expected"]["accuracy"]}


def held_back(data: Path, folder: Path) -> dict[str, Path]:
    """Per language a file of what no head has learned from, in any language."""
    judged = {}
    for language in LANGUAGES:
        rows = [row for row in rows_of(data / f"{language}.parquet") if row["split"] == "dev"]
        judged[language] = folder / f"{language}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), judged[language])
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=10)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        judged = held_back(options.data, Path(folder))
        shipped = accuracies(judged, "topic", heads_dir=Path(folder))
        draws = [
            one_draw(options.data, judged, each=options.examples, seed=seed)
            for seed in range(options.draws)
        ]
    print(f"| | shipped | {options.examples} of each label, mean and spread of {options.draws} |")
    print("|---|---|---|")
    for name in (*LANGUAGES, "expected"):
        scores = [draw[name] for draw in draws]
        beside = f"{shipped[name]:.3f}" if name in shipped else ""
        print(f"| {name} | {beside} | {np.mean(scores):.3f}, {np.std(scores):.3f} |")
    others = [np.mean([draw[name] for name in LANGUAGES[1:]]) for draw in draws]
    mean = np.mean([shipped[name] for name in LANGUAGES[1:]])
    print(f"| mean of others | {mean:.3f} | {np.mean(others):.3f}, {np.std(others):.3f} |")
    print(json.dumps({"shipped": shipped, "draws": draws}))


if __name__ == "__main__":
    main()
