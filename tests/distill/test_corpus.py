import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from distill.corpus import Corpus, load_corpus
from distill.reading import CorpusError, read_table
from distill.tables.text import CorpusTable

ROWS = [("eins", "one", "a"), ("zwei", "two", "b"), ("drei", "three", "a")]


def write_rows(path: Path, rows: Sequence[tuple[str | None, ...]] = ROWS) -> Path:
    columns = dict(zip(("text", "text_en", "source"), zip(*rows, strict=True), strict=True))
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".csv":
        path.write_text("\n".join([",".join(columns), *(",".join(row) for row in rows)]) + "\n")
    else:
        path.write_text("".join(f"{row[0]}\n" for row in rows))
    return path


def load(*tables: CorpusTable, exponent: float = 1.0) -> Corpus:
    return load_corpus(tables, exponent=exponent)


def texts_of(corpus: Corpus) -> list[str]:
    return [str(text) for text in corpus.text.to_pylist()]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_table_is_read_with_its_translations_and_groups(kind: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / f"rows.{kind}")
    corpus = load(
        CorpusTable(path=path, language="de", pair_column="text_en", group_column="source")
    )
    assert texts_of(corpus) == ["eins", "zwei", "drei"]
    assert corpus.english is not None
    assert corpus.english.to_pylist() == ["one", "two", "three"]
    assert corpus.languages == ("de",)
    assert sorted(group.tolist() for group in corpus.groups) == [[0, 2], [1]]


def test_a_txt_file_holds_a_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes("eins\r\n\n  \nzwei\u2028noch zwei\x0czwei\ndrei".encode())
    corpus = load(CorpusTable(path=path))
    assert texts_of(corpus) == ["eins", "zwei\u2028noch zwei\x0czwei", "drei"]
    assert corpus.english is None
    assert corpus.languages == ("und",)


def test_a_text_of_several_lines_is_one_text_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = 60_000  # more than a megabyte, which is read in parts
    path.write_text("text,source\n" + "".join(f'"Zeile\n{i}, und weiter",a\n' for i in range(rows)))
    assert path.stat().st_size > 1 << 20
    texts = texts_of(load(CorpusTable(path=path)))
    assert texts == [f"Zeile\n{i}, und weiter" for i in range(rows)]


def test_an_article_of_megabytes_is_one_text_in_jsonl(tmp_path: Path) -> None:
    article = "viele Wörter " * 200_000
    path = write_rows(tmp_path / "rows.jsonl", [*ROWS, (article, "many words", "a")])
    assert path.stat().st_size > 2 << 20
    assert texts_of(load(CorpusTable(path=path)))[3] == article


def test_numbers_are_texts_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,source\n1984,7\n2001,8\n")
    corpus = load(CorpusTable(path=path, group_column="source"))
    assert texts_of(corpus) == ["1984", "2001"]
    assert len(corpus.groups) == 2


def test_a_folder_holds_a_language_per_file_of_any_kind(tmp_path: Path) -> None:
    for name in ("de.parquet", "sv.jsonl", "tr.csv", "sw.txt", "notes.md"):
        write_rows(tmp_path / name)
    corpus = load(CorpusTable(path=tmp_path))
    assert sorted(corpus.languages) == ["de", "sv", "sw", "tr"]
    some = load(CorpusTable(path=tmp_path, languages=("tr", "sw")))
    assert sorted(some.languages) == ["sw", "tr"]
    assert len(some) == 6


def test_several_tables_of_a_language_are_one_language(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first.jsonl")
    second = write_rows(tmp_path / "second.csv", [("vier", "four", "c")])
    corpus = load(*(CorpusTable(path=path, language="de") for path in (first, second)))
    assert corpus.languages == ("de",)
    assert texts_of(corpus) == ["eins", "zwei", "drei", "vier"]


def test_rows_that_lack_a_side_are_dropped(tmp_path: Path) -> None:
    rows = [(None, "one"), ("", "two"), (" \t\u3000", "three"), ("vier", None), ("fünf", " ")]
    path = tmp_path / "rows.parquet"
    text, english = zip(*rows, ("sechs", "six"), strict=True)
    pa.parquet.write_table(pa.table({"text": text, "text_en": english}), path)
    assert texts_of(load(CorpusTable(path=path))) == ["vier", "fünf", "sechs"]
    assert texts_of(load(CorpusTable(path=path, pair_column="text_en"))) == ["sechs"]


def test_rows_without_a_group_are_a_group(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", [*ROWS, ("vier", "four", None)])
    corpus = load(CorpusTable(path=path, group_column="source"))
    assert sorted(group.tolist() for group in corpus.groups) == [[0, 2], [1], [3]]


def test_max_rows_takes_the_first_of_each_file(tmp_path: Path) -> None:
    for name in ("de.txt", "sv.txt"):
        write_rows(tmp_path / name)
    corpus = load(CorpusTable(path=tmp_path, max_rows=2))
    assert texts_of(corpus) == ["eins", "zwei", "eins", "zwei"]


def test_a_hub_dataset_is_streamed(tmp_path: Path) -> None:
    # A folder is a dataset to the hub's library as well: the same call, and no network.
    write_rows(tmp_path / "train.parquet")
    write_rows(tmp_path / "test.parquet", [("vier", "four", "c")])
    table = CorpusTable(hub=str(tmp_path), language="de", pair_column="text_en")
    corpus = load(table.model_copy(update={"max_rows": 2}))
    assert texts_of(corpus) == ["eins", "zwei"]
    assert corpus.english is not None
    assert corpus.english.to_pylist() == ["one", "two"]
    assert corpus.languages == ("de",)
    assert texts_of(load(table.model_copy(update={"split": "test"}))) == ["vier"]
    with pytest.raises(CorpusError, match=r"'body'; it has: text, text_en, source"):
        load(table.model_copy(update={"text_column": "body"}))
    with pytest.raises(CorpusError, match=r"split dev cannot be read"):
        load(table.model_copy(update={"split": "dev"}))


def test_a_hub_dataset_is_not_read_further_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield from ({"text": "eins"}, {"text": "zwei"})
        raise AssertionError("read on")

    endless = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: endless)
    assert texts_of(load(CorpusTable(hub="some/where", max_rows=2))) == ["eins", "zwei"]


def test_a_hub_dataset_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere, split train cannot be read"):
        load(CorpusTable(hub=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("column", ["text_column", "pair_column", "group_column"])
def test_an_unknown_column_is_told_with_those_there_are(column: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    table = CorpusTable.model_validate({"path": path, column: "body"})
    with pytest.raises(
        CorpusError, match=r"rows\.jsonl has no column 'body'; it has: text, text_en, source"
    ):
        load(table)


def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "rows.xls").write_text("eins")
    (tmp_path / "rows.jsonl").write_text("{")
    (tmp_path / "rows.txt").write_bytes(b"\xff")
    (tmp_path / "rows.parquet").write_text("eins")
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(" \n")
    said = {
        "none.txt": r"none\.txt does not exist",
        "rows.xls": r"unknown kind '\.xls'; known: \.parquet, \.jsonl, \.csv, \.txt",
        "rows.jsonl": r"rows\.jsonl cannot be read",
        "rows.txt": r"rows\.txt cannot be read",
        "rows.parquet": r"rows\.parquet cannot be read",
        "empty": r"empty has no file for: any language \(looked for LANG\.parquet",
        "blank.txt": r"no text in .*blank\.txt",
    }
    for name, message in said.items():
        with pytest.raises(CorpusError, match=message):
            load(CorpusTable(path=tmp_path / name))


def test_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table({"text": [["eins"], ["zwei"]]}), path)
    with pytest.raises(CorpusError, match=r"rows\.parquet: column 'text' is list<.*not text"):
        load(CorpusTable(path=path))


def test_missing_languages_are_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "de.txt")
    with pytest.raises(CorpusError, match=r"has no file for: sv, sw"):
        load(CorpusTable(path=tmp_path, languages=("de", "sw", "sv")))


def test_two_files_of_one_language_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "de.txt")
    write_rows(tmp_path / "de.csv")
    with pytest.raises(CorpusError, match=r"de\.csv and .*de\.txt are both of de"):
        load(CorpusTable(path=tmp_path))


def test_parallel_and_monolingual_text_do_not_mix(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv")
    with pytest.raises(CorpusError, match="cannot be mixed"):
        load(CorpusTable(path=path), CorpusTable(path=path, pair_column="text_en"))


@pytest.fixture
def uneven(tmp_path: Path) -> CorpusTable:
    """10 Danish rows, all "web"; 90 German rows, of which 18 "book" and 72 "web"."""
    write_rows(tmp_path / "da.csv", [(f"da web {i}", "", "web") for i in range(10)])
    sources = ["book"] * 18 + ["web"] * 72
    rows = [(f"de {source} {i}", "", source) for i, source in enumerate(sources)]
    write_rows(tmp_path / "de.csv", rows)
    return CorpusTable(path=tmp_path, group_column="source")


@pytest.mark.parametrize(
    ("exponent", "danish", "book_in_german"),
    # rows ** exponent: 10 to 90 and 18 to 72; their roots are as 1 to 3 and as 1 to 2
    [(1.0, 0.1, 0.2), (0.5, 1 / 4, 1 / 3), (0.0, 1 / 2, 1 / 2)],
)
def test_languages_and_groups_have_their_promised_shares(
    uneven: CorpusTable, exponent: float, danish: float, book_in_german: float
) -> None:
    corpus = load(uneven, exponent=exponent)
    expected = {
        "da web": danish,
        "de book": (1 - danish) * book_in_german,
        "de web": (1 - danish) * (1 - book_in_german),
    }
    drawn = Counter(text.rsplit(" ", 1)[0] for text in corpus.draw(0, rows=20_000, seed=1).texts)
    assert corpus.weights.sum() == pytest.approx(1)
    assert {name: count / 20_000 for name, count in drawn.items()} == pytest.approx(
        expected, abs=0.015
    )
    shares = {
        texts_of(corpus)[group[0]].rsplit(" ", 1)[0]: weight
        for group, weight in zip(corpus.groups, corpus.weights, strict=True)
    }
    assert shares == pytest.approx(expected)


def test_a_draw_is_a_function_of_seed_and_number(uneven: CorpusTable) -> None:
    corpus, again = load(uneven), load(uneven)
    fifth = corpus.draw(5, rows=40, seed=1)
    corpus.draw(6, rows=40, seed=1)
    assert corpus.draw(5, rows=40, seed=1) == again.draw(5, rows=40, seed=1) == fifth
    assert corpus.draw(6, rows=40, seed=1) != fifth
    assert corpus.draw(5, rows=40, seed=2) != fifth


def test_a_group_is_drawn_as_often_as_its_weight_says(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", [*ROWS, ("vier", "four", "a")])
    corpus = load(CorpusTable(path=path, group_column="source", group_weights={"b": 9.0}))
    assert {
        len(rows): weight for rows, weight in zip(corpus.groups, corpus.weights, strict=True)
    } == {
        3: pytest.approx(3 / 12),
        1: pytest.approx(9 / 12),
    }
    misspelt = CorpusTable(path=path, group_column="source", group_weights={"B": 9.0})
    with pytest.raises(CorpusError, match=r"group_weights names 'B'; .*rows.parquet has a, b"):
        load(misspelt)
    with pytest.raises(ValueError, match="group_weights goes with group_column"):
        CorpusTable(path=path, group_weights={"b": 9.0})


def test_a_draw_repeats_no_row_while_its_group_has_others(uneven: CorpusTable) -> None:
    corpus = load(uneven)
    drawn = Counter(corpus.draw(3, rows=40, seed=1).texts)
    assert len(drawn) == 40
    assert len(corpus.draw(3, rows=1_000, seed=1).texts) == 1_000


def test_drawn_translations_stay_beside_their_texts(tmp_path: Path) -> None:
    rows = [(f"Satz {i}", f"sentence {i}", "a") for i in range(50)]
    path = write_rows(tmp_path / "rows.csv", rows)
    drawn = load(CorpusTable(path=path, pair_column="text_en")).draw(0, rows=80, seed=1)
    numbers = [re.sub(r"\D", "", text) for text in drawn.texts]
    assert [f"sentence {number}" for number in numbers] == drawn.english


def test_texts_of_one_language_are_its_own_and_each_once(uneven: CorpusTable) -> None:
    corpus = load(uneven)
    some = corpus.of_language("de", at_most=40, seed=1)
    assert len(some) == len(set(some)) == 40
    assert all(text.startswith("de ") for text in some)
    assert len(corpus.of_language("da", at_most=40, seed=1)) == 10
    assert corpus.of_language("de", at_most=40, seed=2) != some


def test_other_data_have_another_fingerprint(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv")
    first = load(CorpusTable(path=path)).fingerprint()
    assert load(CorpusTable(path=path)).fingerprint() == first
    assert load(CorpusTable(path=path, language="de")).fingerprint() != first
    write_rows(path, [("eins", "one", "a"), ("zwei", "two", "b"), ("dry", "three", "a")])
    assert load(CorpusTable(path=path)).fingerprint() != first


def test_a_table_is_read_where_its_columns_say(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,split,fold\neins,train,1\nzwei,test,1\ndrei,train,2\n")
    found = read_table(path, where={"split": "train", "fold": "2"})
    assert found["text"].to_pylist() == ["drei"]
    with pytest.raises(CorpusError, match=r"rows\.csv has no row where {'split': 'dev'}"):
        read_table(path, where={"split": "dev"})
    with pytest.raises(CorpusError, match=r"no column 'kind'; it has: text, split, fold"):
        read_table(path, where={"kind": "x"})
    with pytest.raises(CorpusError, match="no column 'label'"):
        read_table(path, columns=["text", "label"])
