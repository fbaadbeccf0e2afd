"""Verb: train the tokenizer a recipe's `[tokenizer]` table describes.

lightmbert distill tokenizer distill/recipes/mini-1-tokenizer.toml
"""

from distill.config import LoadedRecipe, RecipeError, require
from distill.corpus import load_corpus
from distill.vocabulary import train_tokenizer


def run(loaded: LoadedRecipe) -> None:
    """Write `tokenizer.json` into the table's folder."""
    table = require(loaded.recipe.tokenizer, "tokenizer")
    corpus = load_corpus(table.corpus, exponent=1.0)
    unknown = sorted(set(table.texts_of) - set(corpus.languages))
    if unknown:
        raise RecipeError(f"texts_of names {', '.join(unknown)}; no text is of that language")
    texts = (
        text
        for language in corpus.languages
        for text in corpus.of_language(
            language,
            at_most=table.texts_of.get(language, table.texts_per_language),
            seed=loaded.recipe.run.seed,
        )
    )
    trained = train_tokenizer(texts, kind=table.kind, vocabulary=table.vocabulary)
    table.folder.mkdir(parents=True, exist_ok=True)
    partial = table.folder / "tokenizer.json.partial"
    trained.save(str(partial))
    partial.replace(table.folder / "tokenizer.json")
