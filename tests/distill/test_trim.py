"""A trimmed encoder answers as before, bit by bit, what needs no other pieces."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoder import a_head
from tiny_world import WORDS, World, recipe, sentences
from tokenizers import Tokenizer
from transformers import BertConfig, BertForMaskedLM, XLMRobertaConfig, XLMRobertaModel
from typer.testing import CliRunner

from app.cli import app
from distill import trim as verb
from distill.batches import Tokens
from distill.checkpoint import save_encoder
from distill.config import RecipeError
from distill.heads import load_heads, save_head
from distill.reading import CorpusError
from distill.student import student_of
from distill.tables.student import StudentTable
from distill.tables.trim import TrimTable
from distill.teacher import EncoderError, encode, load_teacher
from distill.trimming import TrimError, Trimmed


def table(world: World, folder: Path, **changes: object) -> TrimTable:
    settings = {
        "encoder": str(world.teacher),
        "folder": folder,
        "languages": ["de", "ru"],
        "corpus": [{"path": world.mono}],
        "texts_per_language": 1000,
        "min_share": 0.05,
        "piece_head": False,
    }
    return TrimTable.model_validate(settings | changes)


@pytest.fixture(scope="module")
def source(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's teacher with a head."""
    folder = tmp_path_factory.mktemp("trim") / "teacher"
    shutil.copytree(world.teacher, folder)
    save_head(folder, a_head("topic"))
    return folder


@pytest.fixture(scope="module")
def smaller(world: World, source: Path) -> Path:
    folder = source.parent / "smaller"
    verb.trim(table(world, folder, encoder=str(source)), seed=1)
    return folder


class Reader:
    def __init__(self, folder: Path) -> None:
        self.encoder = load_teacher(str(folder))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.encoder.config.max_position_embeddings)

    def pieces(self, text: str) -> list[str]:
        found: list[str] = self.tokenizer.encode(text).tokens
        return found

    def embedding(self, text: str) -> torch.Tensor:
        ids = torch.tensor([self.tokenizer.encode(text).ids])
        with torch.inference_mode():
            return encode(self.encoder, Tokens(ids, torch.ones_like(ids).bool())).pooled


@pytest.fixture(scope="module")
def readers(source: Path, smaller: Path) -> tuple[Reader, Reader]:
    return Reader(source), Reader(smaller)


@settings(max_examples=60)
@given(data=st.data())
def test_texts_of_kept_pieces_give_the_same_pieces_and_the_same_bits(
    readers: tuple[Reader, Reader], data: st.DataObject
) -> None:
    before, after = readers
    words = sorted(
        {*(word for pair in ("de", "ru") for text in sentences(pair) for word in text.split())}
    )
    text = " ".join(data.draw(st.lists(st.sampled_from(words), max_size=8)))
    assert before.pieces(text) == after.pieces(text)
    assert torch.equal(before.embedding(text), after.embedding(text))


def test_it_is_smaller_by_the_rows_that_went(source: Path, smaller: Path) -> None:
    before, after = load_teacher(str(source)), load_teacher(str(smaller))
    gone = before.config.vocab_size - after.config.vocab_size
    assert gone > 20
    held = [sum(p.numel() for p in encoder.parameters()) for encoder in (before, after)]
    assert held[0] - held[1] == gone * before.config.hidden_size
    assert after.config.pad_token_id == before.config.pad_token_id == 0


def test_heads_go_along(source: Path, smaller: Path) -> None:
    old, new = load_heads(source)["topic"], load_heads(smaller)["topic"]
    assert torch.equal(old.weight, new.weight)
    assert old.labels == new.labels


def test_the_report_counts_what_is_cut_otherwise(world: World, tmp_path: Path) -> None:
    some = verb.trim(table(world, tmp_path / "a"), seed=1)
    all_pieces = verb.trim(table(world, tmp_path / "b", languages=[*WORDS], min_share=0.0), seed=1)
    assert some.after.pieces < some.before.pieces
    assert some.after.megabytes == pytest.approx(some.after.parameters * 4 / 1e6)
    assert set(all_pieces.changed) == set(WORDS)
    assert all(share == 0 for share in all_pieces.changed.values())
    strict = verb.trim(table(world, tmp_path / "c", min_share=0.9), seed=1)
    assert 0.05 < strict.changed["de"] <= 1


def test_no_more_texts_are_read_than_asked(world: World, tmp_path: Path) -> None:
    one, many = (
        verb.trim(table(world, tmp_path / str(n), texts_per_language=n, min_share=0.0), seed=1)
        for n in (1, 50)
    )
    assert one.after.pieces < many.after.pieces


def test_a_token_that_moved_counts_as_changed() -> None:
    from tokenizers import models

    old = Tokenizer(models.Unigram([("[UNK]", 0.0), ("a", -2.0), ("aa", -3.0)], unk_id=0))
    new = Tokenizer(models.Unigram([("[UNK]", 0.0), ("a", -2.0)], unk_id=0))
    assert verb.changed_share(old, Trimmed(new.to_str(), [0, 1]), ["aa", "a"]) == 0.5


def test_another_language_still_works_if_less_well(readers: tuple[Reader, Reader]) -> None:
    before, after = readers
    assert len(after.pieces("the dog sleeps")) >= len(before.pieces("the dog sleeps"))
    assert np.isfinite(after.embedding("the dog sleeps").numpy()).all()


def test_a_masked_language_head_is_cut_with_its_table(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    size = Tokenizer.from_file(str(world.teacher / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    model = BertForMaskedLM(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(folder)
    shutil.copy(world.teacher / "tokenizer.json", folder)
    done = table(world, tmp_path / "small", encoder=str(folder), piece_head=True)
    verb.trim(done, seed=1)
    before = load_teacher(str(folder), pieces=True)
    after = load_teacher(str(done.folder), pieces=True)
    old, new = (
        Tokenizer.from_file(str(f / "tokenizer.json")).get_vocab() for f in (folder, done.folder)
    )
    hidden = torch.randn(1, 3, 32)
    logits, fewer = (
        e.piece_head(hidden, e.embeddings.word_embeddings.weight) for e in (before, after)
    )
    rows = [old[piece] for piece, _ in sorted(new.items(), key=lambda item: item[1])]
    # What is cut is the same to the last bit; that of a product depends on its shape.
    torch.testing.assert_close(fewer, logits[..., rows])
    kept = before.piece_head.state_dict() | {"bias": before.piece_head.bias[rows]}
    cut = after.piece_head.state_dict()
    assert cut.keys() == kept.keys()
    assert all(torch.equal(cut[name], kept[name]) for name in kept)
    tables = [e.embeddings.word_embeddings.weight for e in (before, after)]
    assert torch.equal(tables[0][rows], tables[1])
    with pytest.raises(EncoderError, match="masked-language head"):
        verb.trim(table(world, tmp_path / "none", piece_head=True), seed=1)


def roberta(folder: Path, world: World, *, pad_token_id: int) -> str:
    size = Tokenizer.from_file(str(world.teacher / "tokenizer.json")).get_vocab_size()
    config = XLMRobertaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=pad_token_id,
        max_position_embeddings=200,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    shutil.copy(world.teacher / "tokenizer.json", folder)
    return str(folder)


def test_a_family_that_counts_positions_from_padding_keeps_its_id(
    world: World, tmp_path: Path
) -> None:
    name = roberta(tmp_path / "good", world, pad_token_id=0)
    verb.trim(table(world, tmp_path / "small", encoder=name), seed=1)
    before, after = Reader(Path(name)), Reader(tmp_path / "small")
    text = sentences("de")[0]
    assert torch.equal(before.embedding(text), after.embedding(text))
    moved = roberta(tmp_path / "bad", world, pad_token_id=100)
    with pytest.raises(TrimError, match=r"padding would move from id 100 to .*xlm-roberta"):
        verb.trim(table(world, tmp_path / "not", encoder=moved), seed=1)
    assert not (tmp_path / "not").exists()


def test_a_tokenizer_of_another_encoder_is_refused(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(world.english, folder)
    shutil.copy(world.teacher / "tokenizer.json", folder)
    with pytest.raises(TrimError, match=r"tokenizer has id \d+; the encoder's table has \d+ rows"):
        verb.trim(table(world, tmp_path / "small", encoder=str(folder), min_share=0.0), seed=1)


def test_bad_input_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no text of sw, tlh; it has: de, en, ru, zh"):
        verb.trim(table(world, tmp_path / "a", languages=["de", "tlh", "sw"]), seed=1)
    gone = table(world, tmp_path / "a", corpus=[{"path": tmp_path / "none.txt"}])
    with pytest.raises(CorpusError, match=r"none\.txt"):
        verb.trim(gone, seed=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "de.txt").write_text("\n\n")
    with pytest.raises(CorpusError, match="empty"):
        verb.trim(table(world, tmp_path / "a", corpus=[{"path": tmp_path / "empty"}]), seed=1)
    with pytest.raises(EncoderError, match="nowhere"):
        verb.trim(table(world, tmp_path / "a", encoder=str(tmp_path / "nowhere")), seed=1)


def test_the_whole_encoder_is_not_written_over(world: World) -> None:
    with pytest.raises(ValueError, match=r"encoder and folder are both .*; the whole one would go"):
        table(world, world.teacher)


def test_a_recipe_and_options_do_the_same(world: World, tmp_path: Path) -> None:
    settings = table(world, tmp_path / "recipe", languages=["de"]).model_dump(mode="json")
    verb.run(recipe(tmp_path, trim=settings))
    given = ["--encoder", world.teacher, "--folder", tmp_path / "options", "--languages", "de"]
    given += ["--corpus", world.mono, "--min-share", "0.05", "--texts", "1000"]
    result = CliRunner().invoke(app, ["distill", "trim", *map(str, given)])
    assert result.exit_code == 0, result.output
    assert "before" in result.output
    one, other = (
        json.loads((tmp_path / f / "tokenizer.json").read_text()) for f in ("recipe", "options")
    )
    assert one == other


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--languages", "de"], "needs a recipe, or also --encoder, --folder, --corpus"),
        (["a.toml", "--languages", "de"], "a recipe or options, not both"),
        (["a.toml", "--min-share", "0.1"], "a recipe or options, not both"),
        (
            ["--encoder", "a", "--folder", "b", "--corpus", "c", "--languages", ","],
            "languages: Tuple should have at least 1 item",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(given: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["distill", "trim", *given])
    assert result.exit_code == 1
    assert said in result.output


def test_a_factorised_table_is_cut_in_its_rows(world: World, tmp_path: Path) -> None:
    whole = {"layers": 2, "initialisation": "bottom", "embeddings": "factorised", "rank": 8}
    student = student_of(str(world.teacher), StudentTable.model_validate(whole))
    save_encoder(tmp_path / "encoder", student, world.teacher / "tokenizer.json")
    done = table(world, tmp_path / "small", encoder=str(tmp_path / "encoder"))
    found = verb.trim(done, seed=1)
    gone = found.before.pieces - found.after.pieces
    assert gone > 20
    assert found.before.parameters - found.after.parameters == gone * 8
    before, after = Reader(tmp_path / "encoder"), Reader(done.folder)
    text = sentences("ru")[5]
    assert before.pieces(text) == after.pieces(text)
    assert torch.equal(before.embedding(text), after.embedding(text))
