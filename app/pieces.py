"""Texts to tokens and tokens to texts, for callers who want to see them or have them already."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.admission import Terms
from app.errors import InputError, NoTextsError, TooManyTextsError
from app.forward import Forward
from app.runtime.tokenizer import Token, Tokenizer
from app.settings import Settings
from app.texts import characters_in, check_texts


@dataclass(frozen=True)
class Pieces:
    """The student's tokenizer, in its threads and within the service's limits."""

    tokenizer: Tokenizer
    forward: Forward
    settings: Settings

    async def tokens(
        self, texts: Sequence[str], *, special: bool, terms: Terms
    ) -> list[list[Token]]:
        """All tokens of each text: nothing is cut, so characters are limited over all texts.

        Raises:
            InputError, OverloadedError, DeadlineExceededError, NotReadyError.
        """
        check_texts(
            texts, limit=self.settings.max_texts_per_request, pair=False, reader="the tokenizer"
        )
        characters = self._affordable(characters_in(texts), "characters")
        return await self.forward.apart(
            lambda: [self.tokenizer.tokens(text, special=special) for text in texts],
            characters=characters,
            terms=terms,
        )

    async def texts(
        self, ids: Sequence[Sequence[int]], *, special: bool, terms: Terms
    ) -> list[str]:
        """The text of each list of token ids.

        Raises:
            InputError, OverloadedError, DeadlineExceededError, NotReadyError.
        """
        limit = self.settings.max_texts_per_request
        if not ids:
            raise NoTextsError(limit=limit)
        if len(ids) > limit:
            raise TooManyTextsError(texts=len(ids), limit=limit)
        return await self.forward.apart(
            lambda: [self._decoded(index, each, special) for index, each in enumerate(ids)],
            characters=self._affordable(sum(map(len, ids)), "tokens"),
            terms=terms,
        )

    def _decoded(self, index: int, ids: Sequence[int], special: bool) -> str:
        try:
            return self.tokenizer.decode(ids, special=special)
        except InputError as error:
            place = f"texts[{index}]"
            raise InputError(f"{place}: {error}", param=place) from None

    def _affordable(self, count: int, of_what: str) -> int:
        if count > (limit := self.settings.max_queue_tokens):
            raise InputError(
                f"texts hold {count} {of_what}; one request may hold {limit}. Send them in parts",
                param="texts",
            )
        return count
