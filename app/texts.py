"""What is refused of a request's texts before any work is done on them."""

from collections.abc import Sequence

from app.errors import InputError, NoTextsError, TooManyTextsError
from app.runtime.tokenizer import Text


def check_texts(texts: Sequence[Text], *, limit: int, pair: bool, reader: str) -> None:
    """Raise unless these are 1 to `limit` texts that are not blank, in pairs or not as asked.

    Args:
        texts: as the caller sent them.
        limit: the most one request may hold.
        pair: whether `reader` reads pairs.
        reader: who is going to read them, for the message.

    Raises:
        NoTextsError: there are none.
        InputError: naming the text.
        TooManyTextsError: there are more than `limit`.
    """
    if not texts:
        raise NoTextsError(limit=limit)
    if len(texts) > limit:
        raise TooManyTextsError(texts=len(texts), limit=limit)
    for index, text in enumerate(texts):
        place = f"texts[{index}]"
        parts = (text,) if isinstance(text, str) else text
        if (len(parts) == 2) != pair:
            wanted, found = ("pairs", "one text") if pair else ("single texts", "a pair")
            raise InputError(f"{reader} reads {wanted}; {place} is {found}", param=place)
        if not all(part.strip() for part in parts):
            raise InputError(f"{place} is empty or only white space", param=place)


def characters_in(texts: Sequence[Text]) -> int:
    return sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)
