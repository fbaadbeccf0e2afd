import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from tiny_hub import write_hub
from tiny_world import World

from distill import batches as batches_module
from distill.batches import Batches, load_tokenizer
from distill.corpus import Corpus, Rows, Share, load_corpus
from distill.reading import CorpusError
from distill.streams import Stream, open_text
from distill.tables.text import CorpusTable

SIZES = {"de": 40, "sw": 10}


def write_shards(folder: Path, *, shards: int = 2, sizes: dict[str, int] = SIZES) -> Path:
    """folder/LANG/N.jsonl with texts "LANG number" and their translations."""
    for language, rows in sizes.items():
        (folder / language).mkdir(parents=True)
        for shard in range(shards):
            lines = [
                json.dumps({"text": f"{language} {row}", "text_en": f"en {row}"})
                for row in range(shard, rows, shards)
            ]
            (folder / language / f"{shard}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> CorpusTable:
    return CorpusTable(path=write_shards(tmp_path / "text"), streaming=True, rows_by_language=SIZES)


def open_stream(table: CorpusTable, *, exponent: float = 1.0, share: Share | None = None) -> Stream:
    text = open_text([table], exponent=exponent, share=share or Share())
    assert isinstance(text, Stream)
    return text


def test_a_language_is_read_to_its_end_before_any_row_comes_again(table: CorpusTable) -> None:
    stream = open_stream(table.model_copy(update={"languages": ("sw",)}))
    rounds = [stream.draw(number, rows=10, seed=1).texts for number in range(3)]
    for drawn in rounds:
        assert sorted(drawn) == [f"sw {row}" for row in range(10)]
    assert rounds[0] != rounds[1]


@pytest.mark.parametrize(("exponent", "german"), [(1.0, 0.8), (0.5, 2 / 3), (0.0, 0.5)])
def test_languages_have_their_promised_shares(
    table: CorpusTable, exponent: float, german: float
) -> None:
    rows = open_stream(table, exponent=exponent).draw(0, rows=2000, seed=1)
    drawn = Counter(text.split()[0] for text in rows.texts)
    assert drawn["de"] / 2000 == pytest.approx(german, abs=0.03)
    named = [("de", "sw")[code] for code in rows.languages]
    assert named == [text.split()[0] for text in rows.texts]


def test_a_stream_goes_on_from_any_place(table: CorpusTable) -> None:
    whole = open_stream(table)
    drawn, places = [], []
    for number in range(8):
        places.append(whole.place())
        drawn.append(whole.draw(number, rows=17, seed=1))
    for number in (0, 1, 3, 7):  # within a file, in the second one, in another round
        other = open_stream(table)
        other.go_to(places[number])
        assert other.place() == places[number]
        for later in range(number, 8):
            assert other.draw(later, rows=17, seed=1).texts == drawn[later].texts


def test_processes_share_the_text_between_them(table: CorpusTable) -> None:
    for shards in (2, 3):  # two files are one each; of three, each takes every second row
        folder = write_shards(table.path / f"shards{shards}", shards=shards)
        sharded = table.model_copy(update={"path": folder, "languages": ("de",)})
        halves = [
            open_stream(sharded, share=Share(process, 2)).draw(process, rows=20, seed=1).texts
            for process in range(2)
        ]
        assert sorted(halves[0] + halves[1]) == sorted(f"de {row}" for row in range(40))


def test_translations_stay_beside_their_texts(table: CorpusTable) -> None:
    stream = open_stream(table.model_copy(update={"pair_column": "text_en"}))
    rows = stream.draw(0, rows=30, seed=1)
    assert stream.parallel
    assert [text.split()[1] for text in rows.texts] == [text.split()[1] for text in rows.english]


def test_batches_of_a_stream_go_on_from_their_cursor(
    table: CorpusTable, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "BLOCK_TEXTS", 24)
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=16)

    def batches() -> Batches:
        return Batches(open_stream(table), tokenizer, tokenizer, max_batch_tokens=60, seed=1)

    fresh = batches()
    whole = list(islice(fresh.since(fresh.first()), 20))
    assert whole[-1][0].block > 1
    for done in (1, 4, 9, 13):
        rest = list(islice(batches().since(whole[done - 1][0]), 20 - done))
        for (at, batch), (expected_at, expected) in zip(rest, whole[done:], strict=True):
            # the places are worded otherwise (chunks since some row), and mean the same row
            assert (at.block, at.batch) == (expected_at.block, expected_at.batch)
            assert batch.text.ids.tolist() == expected.text.ids.tolist()


def test_what_is_measured_apart_comes_after_the_block_of_training(
    table: CorpusTable, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "BLOCK_TEXTS", 12)
    tokenizer = load_tokenizer(world.teacher / "tokenizer.json", max_tokens=16)
    draw, drawn = Stream.draw, list[set[str]]()

    def watched(stream: Stream, number: int, *, rows: int, seed: int) -> Rows:
        found = draw(stream, number, rows=rows, seed=seed)
        drawn.append(set(found.texts))
        return found

    monkeypatch.setattr(Stream, "draw", watched)

    def batches() -> Batches:
        return Batches(open_stream(table), tokenizer, tokenizer, max_batch_tokens=24, seed=1)

    fresh = batches()
    cursors = [at for at, _ in islice(fresh.since(fresh.first()), 12)]
    of_block = [at for at in cursors if (at.block, at.batch) <= (1, 0)]
    assert len(of_block) > 2
    trained = drawn[0]
    for at in of_block:  # within the block, and at its end
        batches().apart(at, texts=12)
        assert not trained & drawn[-1]


def articles(sizes: dict[str, int]) -> dict[str, list[str]]:
    return {
        language: [f"{language} {row}\n\nand more" for row in range(rows)]
        for language, rows in sizes.items()
    }


def test_a_hub_dataset_has_a_configuration_a_language_and_says_its_sizes(tmp_path: Path) -> None:
    table = CorpusTable(
        hub=str(write_hub(tmp_path / "hub", articles({"da": 5, "zu": 20}))),
        hub_config="v1.{language}",
        languages=("zu", "da"),
        streaming=True,
    )
    stream = open_stream(table, exponent=0.5)
    assert stream.languages == ("da", "zu")
    drawn = Counter(text.split()[0] for text in stream.draw(0, rows=900, seed=1).texts)
    assert drawn["zu"] / 900 == pytest.approx(2 / 3, abs=0.04)
    unknown = table.model_copy(update={"languages": ("xx",)})
    with pytest.raises(CorpusError, match=r"hub \(v1\.xx\), split train cannot be read"):
        open_stream(unknown)


def test_a_hub_dataset_that_was_moved_is_the_same_text(tmp_path: Path) -> None:
    def fingerprint(folder: Path, rows: int) -> str:
        hub = str(write_hub(folder / "hub", articles({"da": rows})))
        keys = {"hub_config": "v1.{language}", "languages": ("da",), "streaming": True}
        return open_stream(CorpusTable(hub=hub, **keys)).fingerprint()

    first = fingerprint(tmp_path / "one", 5)
    assert fingerprint(tmp_path / "other", 5) == first
    assert fingerprint(tmp_path / "third", 6) != first


def test_a_hub_dataset_of_several_languages_is_read_whole_too(tmp_path: Path) -> None:
    table = CorpusTable(
        hub=str(write_hub(tmp_path / "hub", articles({"da": 5, "zu": 20}))),
        hub_config="v1.{language}",
        languages=("zu", "da"),
        max_rows=8,
    )
    corpus = load_corpus([table], exponent=1.0)
    assert isinstance(corpus, Corpus)
    assert corpus.languages == ("da", "zu")
    assert (corpus.language == 0).sum() == 5
    assert (corpus.language == 1).sum() == 8


def test_of_an_article_a_line_is_taken_by_its_length(tmp_path: Path) -> None:
    (tmp_path / "de.jsonl").write_text(json.dumps({"text": "kurz\n\n  \nviermal so lang ist"}))
    sizes = {"de": 1}
    for streaming in (False, True):
        table = CorpusTable(
            path=tmp_path,
            take="line",
            streaming=streaming,
            rows_by_language=sizes if streaming else None,
        )
        drawn = open_text([table], exponent=1.0).draw(0, rows=500, seed=1).texts
        counts = Counter(drawn)
        assert counts.keys() == {"kurz", "viermal so lang ist"}
        assert counts["kurz"] / 500 == pytest.approx(4 / 23, abs=0.05)


def test_what_a_stream_cannot_read_is_told_with_its_place(
    tmp_path: Path, table: CorpusTable
) -> None:
    def refused(said: str, **changes: object) -> None:
        with pytest.raises(CorpusError, match=said):
            open_stream(table.model_copy(update=changes)).draw(0, rows=3, seed=1)

    refused("has no file for: xx", languages=("de", "xx"))
    refused(r"no\.jsonl does not exist", path=tmp_path / "no.jsonl")
    refused("nobody says how many rows there are of: sw", rows_by_language={"de": 3})
    refused("no column 'body'; it has: text, text_en", text_column="body")
    (tmp_path / "mixed/de").mkdir(parents=True)
    for name in ("a.txt", "b.csv"):
        (tmp_path / "mixed/de" / name).write_text("text\neins\n")
    refused(
        r"mixed/de is of kind \.csv, \.txt; a stream reads files of one", path=tmp_path / "mixed"
    )
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank/de.txt").write_text("\n \n")
    refused(r"no text in .*de\.txt for process 1 of 1", path=tmp_path / "blank")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/de.jsonl").write_text("{")
    refused(r"de\.jsonl cannot be read", path=tmp_path / "broken")


def test_text_in_memory_and_streams_do_not_mix(table: CorpusTable) -> None:
    whole = CorpusTable(path=table.path)
    with pytest.raises(CorpusError, match="cannot be mixed"):
        open_text([table, whole], exponent=1.0)
    with pytest.raises(CorpusError, match="set streaming = false"):
        load_corpus([table], exponent=1.0)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"path": "a", "hub": "b"}, "either a path or a hub name"),
        ({"hub": "b", "languages": ["de"]}, r"go with \{language\} in hub_config"),
        ({"hub": "b", "hub_config": "v1.{language}"}, r"go with \{language\} in hub_config"),
        ({"path": "a", "language": "de", "languages": ["de"]}, "exclude each other"),
        ({"path": "a", "streaming": True, "group_column": "source"}, "a stream has not seen them"),
        ({"path": "a", "rows_by_language": {"de": 3}}, "is for streaming text"),
        ({"path": "a", "take": "line", "pair_column": "en"}, "would part a text"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CorpusTable.model_validate(keys)
