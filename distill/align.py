"""Verb: give an English encoder a multilingual embedding table.

    lightmbert distill align distill/recipes/mini-2-align.toml

No multilingual teacher is at hand, but an English one is, and its body does not care which
language its input vectors came from. So a table of multilingual pieces is learned in the
encoder's *input* space: the weighted bag of a sentence in any language should land where the
idf-weighted bag of its English translation lands in the English table. Each piece has a vector
and a scalar weight (its share in the bag; a learned idf). Pieces that spell English start from
the mean of their English word pieces, the rest from the table's mean.

It is a start, not an end: `train` with the sentence objective then moves table and body.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.progress import track
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batches import Tokens, encode_ids, load_tokenizer, tokenize
from distill.checkpoint import save_encoder
from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import Corpus, load_corpus
from distill.objectives.sentence import contrastive_loss
from distill.records import Records
from distill.tables.vocabulary import AlignTable
from distill.teacher import load_encoder
from distill.vocabulary import SPECIAL

RECORD_EVERY_STEPS = 100


@dataclass(frozen=True)
class Tokenizers:
    """The English encoder's own, and the multilingual one its table is learned for."""

    english: Tokenizer
    pieces: Tokenizer


class WeightedBag(nn.Module):
    """Weighted mean of piece vectors: (B, T) ids and mask -> (B, H)."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone())
        self.weight_logits = nn.Parameter(torch.zeros(len(vectors)))

    def forward(self, tokens: Tokens) -> Tensor:
        return weighted_bag(self.vectors, tokens, F.softplus(self.weight_logits[tokens.ids]))


def weighted_bag(table: Tensor, tokens: Tokens, weights: Tensor) -> Tensor:
    """Mean of the tokens' rows of `table` under `weights` (B, T): (B, H)."""
    weights = weights * tokens.mask
    shares = (weights / weights.sum(1, keepdim=True))[tokens.mask]
    lengths = tokens.mask.sum(1)
    # embedding_bag forms no (B, T, H) tensor, which is most of the cost of the obvious way
    return F.embedding_bag(
        tokens.ids[tokens.mask],
        table,
        lengths.cumsum(0) - lengths,
        mode="sum",
        per_sample_weights=shares,
    )


def initial_vectors(tokenizers: Tokenizers, table: Tensor) -> Tensor:
    """Start of the multilingual table, (pieces, H).

    A piece whose spelling the English vocabulary covers gets the mean of its word pieces; others
    the mean row of the English table, with a little noise to tell them apart.
    """
    pieces, english = tokenizers.pieces, tokenizers.english
    mean = table.mean(0)
    vectors = mean + 0.1 * table.std(0) * torch.randn(pieces.get_vocab_size(), table.shape[1])
    unknown = english.token_to_id("[UNK]")
    for piece, index in pieces.get_vocab().items():
        ids = english.encode(piece.replace("▁", ""), add_special_tokens=False).ids
        # More than two word pieces spell letters, not a word the table knows.
        if ids and unknown not in ids and len(ids) <= 2:
            vectors[index] = table[ids].mean(0)
    for special in SPECIAL:
        vectors[pieces.token_to_id(special)] = table[english.token_to_id(special)]
    return vectors


def inverse_document_frequency(
    corpus: Corpus, english: Tokenizer, *, texts: int, seed: int
) -> Tensor:
    """log(N / (1 + texts holding the piece)), (English vocabulary,), floored at a tenth.

    Special tokens are in every text, and so at the floor.
    """
    drawn = corpus.draw(0, rows=min(texts, len(corpus)), seed=seed).english
    counts = torch.zeros(english.get_vocab_size())
    for ids in encode_ids(english, drawn):
        counts[list(set(ids))] += 1
    return torch.log(len(drawn) / (1 + counts)).clamp(min=0.1)


def learn(
    bag: WeightedBag,
    table: AlignTable,
    corpus: Corpus,
    english_table: Tensor,
    tokenizers: Tokenizers,
    *,
    seed: int,
) -> Iterator[dict[str, float | int]]:
    """Train the bag, yielding a record for each step."""
    idf = inverse_document_frequency(corpus, tokenizers.english, texts=50_000, seed=seed)
    centre = english_table.mean(0)
    optimizer = torch.optim.Adam(bag.parameters(), lr=table.learning_rate, fused=True)
    for step in range(table.steps):
        for group in optimizer.param_groups:
            group["lr"] = table.learning_rate * (1 - step / table.steps)
        rows = corpus.draw(step + 1, rows=table.batch_texts, seed=seed)
        english = tokenize(tokenizers.english, rows.english)
        target = weighted_bag(english_table, english, idf[english.ids])
        loss = torch.zeros(())
        for side in (rows.texts, rows.english):
            found = bag(tokenize(tokenizers.pieces, side))
            # A bag's mean hides under what all bags share; centred, its direction is its meaning.
            loss = loss + (found - target).square().sum(-1).mean()
            loss = loss + table.contrastive_weight * contrastive_loss(
                found - centre, target - centre, temperature=table.contrastive_temperature
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield {"step": step + 1, "loss": loss.item()}


def run(loaded: LoadedRecipe) -> None:
    """Write an encoder folder: the English body under the learned multilingual table."""
    table = require(loaded.recipe.align, "align")
    run_table = loaded.recipe.run
    torch.manual_seed(run_table.seed)
    torch.set_num_threads(run_table.threads)
    encoder = load_encoder(str(table.english))
    tokenizers = Tokenizers(
        english=load_tokenizer(table.english / "tokenizer.json", max_tokens=table.max_tokens),
        pieces=load_tokenizer(table.tokenizer / "tokenizer.json", max_tokens=table.max_tokens),
    )
    corpus = load_corpus(table.corpus, exponent=table.exponent)
    if corpus.english is None:
        raise RecipeError("align needs parallel text: set pair_column")
    english_table = encoder.embeddings.word_embeddings.weight.detach().clone()
    bag = WeightedBag(initial_vectors(tokenizers, english_table))
    steps = learn(bag, table, corpus, english_table, tokenizers, seed=run_table.seed)
    with Records(run_table.folder, steps_done=0) as records:
        for record in track(steps, "align", total=table.steps):
            if record["step"] % RECORD_EVERY_STEPS == 0 or record["step"] in (1, table.steps):
                records.write(record)
    encoder.resize_token_embeddings(len(bag.vectors), mean_resizing=False)
    encoder.embeddings.word_embeddings.weight.data.copy_(bag.vectors.detach())
    save_encoder(run_table.folder / "encoder", encoder, table.tokenizer / "tokenizer.json")
