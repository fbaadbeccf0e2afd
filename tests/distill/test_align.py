import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import FOREIGN, World, recipe, sentences
from tokenizers import Tokenizer, models
from torch.nn import functional

from distill.align import (
    Tokenizers,
    WeightedBag,
    initial_vectors,
    inverse_document_frequency,
    learn,
    run,
    weighted_bag,
)
from distill.batches import Tokens, load_tokenizer, tokenize
from distill.config import RecipeError, require
from distill.corpus import Corpus, load_corpus
from distill.records import RECORDS_FILE
from distill.tables.text import CorpusTable
from distill.tables.vocabulary import AlignTable
from distill.teacher import load_teacher
from distill.vocabulary import SPECIAL


@pytest.fixture(scope="module")
def tokenizers(world: World) -> Tokenizers:
    return Tokenizers(
        english=load_tokenizer(world.english / "tokenizer.json", max_tokens=32),
        pieces=load_tokenizer(world.teacher / "tokenizer.json", max_tokens=32),
    )


@pytest.fixture(scope="module")
def english_table(world: World) -> torch.Tensor:
    return load_teacher(str(world.english)).embeddings.word_embeddings.weight


def align_table(world: World, **changes: object) -> dict[str, object]:
    return {
        "english": world.english,
        "tokenizer": world.teacher,
        "steps": 120,
        "batch_texts": 48,
        "learning_rate": 0.03,
        "exponent": 0.5,
        "max_tokens": 32,
        "contrastive_weight": 0.1,
        "contrastive_temperature": 0.1,
        "corpus": [{"path": world.parallel, "pair_column": "text_en"}],
    } | changes


def corpus_of(world: World, *languages: str) -> Corpus:
    table = CorpusTable(path=world.parallel, pair_column="text_en", languages=languages)
    return load_corpus([table], exponent=0.5)


def test_a_weighted_bag_is_the_weighted_mean_of_its_real_tokens() -> None:
    table = torch.randn(9, 3)
    tokens = Tokens(
        torch.tensor([[1, 2, 2, 0], [5, 0, 0, 0]]),
        torch.tensor([[True, True, True, False], [True, False, False, False]]),
    )
    weights = torch.tensor([[1.0, 2.0, 3.0, 50.0], [0.1, 50.0, 50.0, 50.0]])
    expected = torch.stack([(table[1] + 2 * table[2] + 3 * table[2]) / 6, table[5]])
    torch.testing.assert_close(weighted_bag(table, tokens, weights), expected)


def test_a_bag_learns_vectors_and_weights_of_the_pieces_it_sees() -> None:
    bag = WeightedBag(torch.randn(9, 3))
    tokens = Tokens(torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]]))
    bag(tokens).square().sum().backward()
    for gradient in (bag.vectors.grad, bag.weight_logits.grad):
        assert gradient is not None
        seen = gradient.reshape(9, -1).abs().sum(1) > 0
        assert seen.nonzero().flatten().tolist() == [1, 2]


def test_pieces_that_spell_english_start_from_their_word_pieces(
    tokenizers: Tokenizers, english_table: torch.Tensor
) -> None:
    spelled = {"▁dog": ["dog"], "bird": ["bird"], "▁sings": ["sing", "##s"]}
    # letters of no English word, an unknown among known ones, and more than two word pieces
    foreign = ["▁hund", "▁dog!", "狗", "▁eatss", "▁"]
    pieces = [(piece, 0.0) for piece in (*SPECIAL, *spelled, *foreign)]
    multilingual = Tokenizer(models.Unigram(pieces, unk_id=1))
    table = english_table + 5  # its mean row is not zero
    vectors = initial_vectors(Tokenizers(tokenizers.english, multilingual), table)

    def row(token: str) -> torch.Tensor:
        return table[tokenizers.english.token_to_id(token)]

    for special in SPECIAL:
        assert torch.equal(vectors[multilingual.token_to_id(special)], row(special))
    for piece, words in spelled.items():
        expected = torch.stack([row(word) for word in words]).mean(0)
        torch.testing.assert_close(vectors[multilingual.token_to_id(piece)], expected)
    others = vectors[[multilingual.token_to_id(piece) for piece in foreign]]
    # near the mean row, and told apart
    assert ((others - table.mean(0)).abs().mean(1) < 0.2 * table.std()).all()
    assert len(others.unique(dim=0)) == len(foreign)


def test_inverse_document_frequency_matches_a_count(world: World, tokenizers: Tokenizers) -> None:
    corpus = corpus_of(world, "de")
    idf = inverse_document_frequency(corpus, tokenizers.english, texts=1_000, seed=1)
    english = sentences("en")
    for word in ("dog", "home", "cow", "the"):  # "the dog sings by the river" holds it once
        holding = sum(word in text.split() for text in english)
        index = tokenizers.english.token_to_id(word)
        assert idf[index].item() == pytest.approx(math.log(len(english) / (1 + holding)))
    # in all texts, and so at the floor
    for token in ("[CLS]", "[SEP]", "##s"):
        assert idf[tokenizers.english.token_to_id(token)].item() == pytest.approx(0.1)


def found_at_once(bag: WeightedBag, world: World, tokenizers: Tokenizers) -> float:
    """Share of foreign sentences nearest to their translation among all English ones."""
    with torch.inference_mode():
        english = bag(tokenize(tokenizers.pieces, sentences("en")))
        hits = []
        for language in FOREIGN:
            found = bag(tokenize(tokenizers.pieces, sentences(language)))
            centre = (found.mean(0) + english.mean(0)) / 2
            cosine = functional.normalize(found - centre) @ functional.normalize(english - centre).T
            hits.append((cosine.argmax(1) == torch.arange(len(cosine))).float().mean())
    return float(torch.stack(hits).mean())


def test_a_sentence_lands_beside_its_translation(
    world: World, tokenizers: Tokenizers, english_table: torch.Tensor
) -> None:
    torch.manual_seed(1)
    bag = WeightedBag(initial_vectors(tokenizers, english_table))
    before = found_at_once(bag, world, tokenizers)
    table = AlignTable.model_validate(align_table(world))
    corpus = corpus_of(world, *FOREIGN)
    records = list(learn(bag, table, corpus, english_table, tokenizers, seed=1))
    assert records[-1]["loss"] < 0.2 * records[0]["loss"]
    assert before < 0.2
    assert found_at_once(bag, world, tokenizers) > 0.6


def test_the_verb_puts_the_table_under_the_english_body(world: World, tmp_path: Path) -> None:
    run(recipe(tmp_path, align=align_table(world, steps=5)))
    folder = tmp_path / "encoder"
    found, english = (
        load_file(folder / "model.safetensors"),
        load_file(world.english / "model.safetensors"),
    )
    words = "embeddings.word_embeddings.weight"
    assert found.keys() == english.keys()
    assert all(torch.equal(found[name], english[name]) for name in found if name != words)
    tokenizer = load_tokenizer(folder / "tokenizer.json", max_tokens=32)
    assert found[words].shape == (tokenizer.get_vocab_size(), english[words].shape[1])
    assert load_teacher(str(folder)).config.vocab_size == tokenizer.get_vocab_size()
    assert len((tmp_path / RECORDS_FILE).read_bytes().splitlines()) == 2  # first step and last


def test_running_the_verb_again_starts_its_records_anew(world: World, tmp_path: Path) -> None:
    for _ in range(2):
        run(recipe(tmp_path, align=align_table(world, steps=2)))
    assert len((tmp_path / RECORDS_FILE).read_bytes().splitlines()) == 2


def test_text_without_translations_is_refused(world: World, tmp_path: Path) -> None:
    loaded = recipe(tmp_path, align=align_table(world, corpus=[{"path": world.mono}]))
    assert require(loaded.recipe.align, "align").corpus[0].pair_column is None
    with pytest.raises(RecipeError, match="align needs parallel text: set pair_column"):
        run(loaded)
