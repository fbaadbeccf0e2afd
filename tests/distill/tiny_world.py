"""A world of 72 sentences in four languages, with the encoders and recipes to train on it.

Every sentence is a creature, what it does and where, so that translations are exact and each
word tells. Chinese is written without spaces.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from tiny_encoder import write_bert
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from distill.config import LoadedRecipe
from distill.tables import Recipe
from distill.vocabulary import SPECIAL, train_tokenizer

WORDS = {
    "en": (
        ("the dog", "the cat", "a bird", "a fish", "my horse", "our cow"),
        ("sleeps", "eats", "waits", "sings"),
        ("at home", "by the river", "in town"),
    ),
    "de": (
        ("der Hund", "die Katze", "ein Vogel", "ein Fisch", "mein Pferd", "unsere Kuh"),
        ("schläft", "frisst", "wartet", "singt"),
        ("zu Hause", "am Fluss", "in der Stadt"),
    ),
    "ru": (
        ("собака", "кошка", "птица", "рыба", "моя лошадь", "наша корова"),
        ("спит", "ест", "ждёт", "поёт"),
        ("дома", "у реки", "в городе"),
    ),
    "zh": (
        ("狗", "猫", "鸟", "鱼", "我的马", "我们的牛"),
        ("睡觉", "吃饭", "等待", "唱歌"),
        ("在家", "在河边", "在城里"),
    ),
}
FOREIGN = ("de", "ru", "zh")
LAYERS = 4


def sentences(language: str) -> list[str]:
    """All sentences of a language, in the same order in each."""
    space = "" if language == "zh" else " "
    return [space.join(parts) for parts in itertools.product(*WORDS[language])]


@dataclass(frozen=True)
class World:
    root: Path

    @property
    def teacher(self) -> Path:
        """A multilingual encoder, 4 layers x 32, with a Unigram tokenizer."""
        return self.root / "teacher"

    @property
    def english(self) -> Path:
        """An English encoder, 2 layers x 32, with a WordPiece tokenizer."""
        return self.root / "english"

    @property
    def parallel(self) -> Path:
        """LANG.parquet with columns text, text_en and source."""
        return self.root / "parallel"

    @property
    def mono(self) -> Path:
        """LANG.parquet with a column text."""
        return self.root / "mono"


def write_world(root: Path) -> World:
    world = World(root)
    texts = [text for language in WORDS for text in sentences(language)]
    write_bert(
        world.teacher,
        train_tokenizer(texts, kind="unigram", vocabulary=120),
        num_hidden_layers=LAYERS,
    )
    write_bert(world.english, english_tokenizer(), num_hidden_layers=2)
    for folder in (world.parallel, world.mono):
        folder.mkdir()
    sources = [("farm", "town")[number % 3 == 0] for number in range(len(sentences("en")))]
    for language in FOREIGN:
        columns = {"text": sentences(language), "text_en": sentences("en"), "source": sources}
        pa.parquet.write_table(pa.table(columns), world.parallel / f"{language}.parquet")
    for language in WORDS:
        columns = {"text": sentences(language)}
        pa.parquet.write_table(pa.table(columns), world.mono / f"{language}.parquet")
    return world


def english_tokenizer() -> Tokenizer:
    """WordPiece over the English words, their last s apart: "sing ##s"."""
    words = {word.removesuffix("s") for text in sentences("en") for word in text.split()}
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *sorted(words), "##s"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


LIGHTMBERT = {
    "kind": "lightmbert",
    "weight": 1.0,
    "attention": "scores",
    "attention_weight": 1.0,
    "hidden_weight": 1.0,
    "projection": "none",
}
SENTENCE = {
    "kind": "sentence",
    "weight": 1.0,
    "distance_weight": 1.0,
    "contrastive_weight": 0.3,
    "contrastive_temperature": 0.1,
}


def train_table(world: World, **changes: object) -> dict[str, object]:
    """A `[train]` table: LightMBERT from the teacher's bottom two layers."""
    return {
        "teacher": str(world.teacher),
        "start": str(world.teacher),
        "exponent": 0.5,
        "max_tokens": 32,
        "max_batch_tokens": 512,
        "steps": 8,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "embedding_learning_rate": 1e-2,
        "weight_decay": 0.01,
        "max_gradient_norm": 5.0,
        "precision": "fp32",
        "compile": False,
        "checkpoint_every_steps": 4,
        "record_every_steps": 1,
        "student": {"layers": 2, "initialisation": "bottom", "embeddings": "frozen"},
        "objective": [LIGHTMBERT],
        "corpus": [{"path": world.mono}],
    } | changes


def sentence_table(world: World, **changes: object) -> dict[str, object]:
    """A `[train]` table: all of the multilingual encoder learns the English one's embeddings."""
    return train_table(
        world,
        **{
            "teacher": str(world.english),
            "student": {"layers": LAYERS, "initialisation": "bottom", "embeddings": "trained"},
            "objective": [SENTENCE],
            "corpus": [{"path": world.parallel, "pair_column": "text_en"}],
        }
        | changes,
    )


def recipe(folder: Path, sha256: str = "0" * 64, **tables: object) -> LoadedRecipe:
    """A recipe as `load_recipe` gives it, with the run's folder and these tables."""
    run = {"name": "tiny", "folder": folder, "seed": 1, "threads": 1}
    return LoadedRecipe(Recipe.model_validate({"run": run, **tables}), "tiny.toml", sha256)
