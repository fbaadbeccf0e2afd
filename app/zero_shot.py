"""Labels that nobody trained a head for: texts and labels meet in the embedding space.

A label is embedded as a text of its own, which says that something is about it. The cosine of
the two becomes a probability by what the manifest says of its student.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from app.admission import Terms
from app.errors import InputError, TextTooLongError, shortened
from app.forward import Forward, Forwarded, Usage
from app.runtime.artifact import ClassificationTask, Manifest
from app.runtime.outputs import Floats, unit_vectors
from app.runtime.session import POOLED
from app.runtime.tokenizer import Text

ZERO_SHOT = "zero-shot"
"""What answers and metrics call this task. No head can be named so."""

TEMPLATE = "This text is about {}."
MAX_LABELS = 256
MAX_NAME_CHARACTERS = 256
"""Of a label: every text's answer may repeat all of them. Descriptions are not repeated."""
MAX_TEMPLATE_CHARACTERS = 1_024
"""It is repeated for every label."""
LABEL_CACHE_BYTES = 8_388_608
"""For label texts, which come again with every request: some thousands of them."""

_GAP = "{}"

Labels = Sequence[str] | Mapping[str, str]
"""Names; or names with the descriptions by which they are found."""


@dataclass(frozen=True)
class Choice:
    """What a request chooses among, C labels."""

    labels: tuple[str, ...]
    hypotheses: tuple[str, ...]
    """What is embedded for each."""
    places: tuple[str, ...]
    """Where each stood in the request, for the error that names it."""
    multi_label: bool


def choice(labels: Labels, *, template: str, multi_label: bool) -> Choice:
    """Each label with its description, or else its name, in the gap of the template.

    Raises:
        InputError: naming what is wrong with them.
    """
    fewest = 1 if multi_label else 2
    if not fewest <= len(labels) <= MAX_LABELS:
        raise InputError(
            f"labels has {len(labels)} items; send {fewest} to {MAX_LABELS}", param="labels"
        )
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise InputError(
            f"template has {len(template)} characters; send {MAX_TEMPLATE_CHARACTERS} at most",
            param="template",
        )
    if template.count(_GAP) != 1:
        raise InputError(
            f"template has {_GAP} {template.count(_GAP)} times; it must have it once, where the "
            "label goes",
            param="template",
        )
    described = isinstance(labels, Mapping)
    told = labels.values() if isinstance(labels, Mapping) else labels
    names = tuple(labels)
    places = tuple(
        f"labels[{shortened(name)!r}]" if described else f"labels[{index}]"
        for index, name in enumerate(names)
    )
    _check_names(names, tuple(told), places)
    hypotheses = tuple(template.replace(_GAP, each) for each in told)
    return Choice(names, hypotheses, places, multi_label)


def _check_names(names: Sequence[str], told: Sequence[str], places: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for name, description, place in zip(names, told, places, strict=True):
        if not (name.strip() and description.strip()):
            raise InputError(f"{place} is empty or only white space", param=place)
        if len(name) > MAX_NAME_CHARACTERS:
            raise InputError(
                f"{place} has {len(name)} characters; send {MAX_NAME_CHARACTERS} at most, and say "
                "the rest as a description",
                param=place,
            )
        if first.setdefault(name, place) != place:
            raise InputError(f"{place} repeats {first[name]}", param=place)


@dataclass(frozen=True, eq=False)
class Read:
    """What a choice among C labels comes to for B texts, before probabilities."""

    logits: Floats
    """(B, C): cosines; of several labels, what they have above the manifest's `middle`."""
    head: ClassificationTask
    """The labels, as the head that they are."""
    usage: Usage
    """Tokens of texts and labels; the rest is of the texts alone."""


class ZeroShot:
    """Runs texts and labels through one student."""

    def __init__(self, texts: Forward, labels: Forward, manifest: Manifest) -> None:
        """`labels` is for labels alone, and keeps what it has run for the next request."""
        self._texts = texts
        self._labels = labels
        self._manifest = manifest

    async def read(
        self, texts: Sequence[Text], chosen: Choice, *, truncate: bool, terms: Terms
    ) -> Read:
        """Labels first, of which none is ever cut, then texts.

        Raises:
            InputError, OverloadedError, DeadlineExceededError, NotReadyError, InferenceError.
        """
        began_at = perf_counter()
        of_labels = await self._embedded(chosen, terms)
        of_texts = await self._texts(texts, truncate=truncate, terms=terms, began_at=began_at)
        measured = self._manifest.zero_shot
        cosines = self._unit(of_texts) @ self._unit(of_labels).T  # (B, C)
        several = chosen.multi_label
        head = ClassificationTask(
            labels=chosen.labels,
            problem_type="multi" if several else "single",
            temperature=measured.multi_temperature if several else measured.temperature,
        )
        return Read(
            logits=cosines - np.float32(measured.middle) if several else cosines,
            head=head,
            usage=replace(of_texts.usage, tokens=of_texts.usage.tokens + of_labels.usage.tokens),
        )

    def stop(self, reason: str) -> None:
        self._labels.stop(reason)

    async def _embedded(self, chosen: Choice, terms: Terms) -> Forwarded:
        try:
            return await self._labels(chosen.hypotheses, truncate=False, terms=terms)
        except TextTooLongError as error:
            place = chosen.places[error.index]
            counted = f"at least {error.tokens}" if error.or_more else f"{error.tokens}"
            raise InputError(
                f"{place} has {counted} tokens in its template; this model accepts {error.limit}",
                param=place,
            ) from None

    def _unit(self, forwarded: Forwarded) -> Floats:
        pooled = np.stack([row[POOLED] for row in forwarded.rows])  # (B, H)
        return unit_vectors(pooled, self._manifest.embedding_dimension)
