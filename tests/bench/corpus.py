"""Texts to send: put together from hand-written fragments, the same ones for every system.

Texts repeat as rarely as can be, so that a system that answers repeated texts from memory gains
nothing here. `short` are like search queries; `mixed` has some of 50 to 150 tokens among them.
"""

import random
import tomllib
from pathlib import Path
from typing import Literal

FRAGMENTS = Path(__file__).with_name("corpus.toml")

Kind = Literal["short", "mixed"]

# English counts most: MiniLM's vocabulary is English, and other scripts cost it many tokens.
WEIGHTS = {"en": 24, "de": 2, "fr": 2, "es": 2, "ru": 1, "zh": 1, "sw": 1, "ar": 1}
SHAPES = (("ask", "thing"), ("when", "what"), ("what", "why"), ("when", "what", "why"))
SHAPE_WEIGHTS = (9, 5, 3, 1)
PARAGRAPH_LANGUAGES = ("en", "de", "fr", "es", "sw")
PARAGRAPH_SENTENCES = (2, 3, 4, 5)
STOPS = {"zh": "。"}


def texts(kind: Kind, count: int, *, seed: int = 0) -> list[str]:
    """`count` texts, distinct as long as the fragments allow, always the same for a seed."""
    draw = random.Random(f"{kind} {seed}")
    fragments = tomllib.loads(FRAGMENTS.read_text(encoding="utf-8"))
    found: dict[str, None] = {}
    while len(found) < count:
        language = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        found[_text(kind, language, fragments[language], draw)] = None
    return list(found)


def _text(kind: Kind, language: str, parts: dict[str, list[str]], draw: random.Random) -> str:
    if kind == "mixed" and language in PARAGRAPH_LANGUAGES and draw.random() < 0.15:
        sentences = draw.choice(PARAGRAPH_SENTENCES)
        return " ".join(_sentence(language, parts, draw) for _ in range(sentences))
    shape = draw.choices(SHAPES, SHAPE_WEIGHTS)[0]
    return _joined(language, [draw.choice(parts[name]) for name in shape])


def _sentence(language: str, parts: dict[str, list[str]], draw: random.Random) -> str:
    whole = [draw.choice(parts[name]) for name in ("when", "what", "why")]
    return _joined(language, whole) + STOPS.get(language, ".")


def _joined(language: str, parts: list[str]) -> str:
    return ("" if language == "zh" else " ").join(parts)
