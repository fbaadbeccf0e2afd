"""The first runs of a session: they wake it up, and show how fast this machine is."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

from app.forecast import Forecast, Run
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer

_LENGTH = 16
"""And the longest there is."""


def warmed_up(session: StudentSession, tokenizer: Tokenizer, *, max_batch_tokens: int) -> Forecast:
    """What single texts and full batches of a few lengths take here.

    The longest text and the largest batches are among them, so that memory is asked for now.
    """
    longest = _longest(session, tokenizer)
    session.run([_cut(longest)])  # the very first run is slower than any other
    return Forecast.fitted(list(_timed(session, longest, max_batch_tokens)))


def _timed(session: StudentSession, longest: Encoded, max_batch_tokens: int) -> Iterator[Run]:
    for text in (_cut(longest), longest):
        for texts in sorted({1, max(1, max_batch_tokens // text.tokens)}):
            started_at = perf_counter()
            session.run([text] * texts)
            yield Run(text.tokens, texts, perf_counter() - started_at)


def _cut(text: Encoded) -> Encoded:
    return replace(text, ids=text.ids[:_LENGTH], type_ids=text.type_ids[:_LENGTH])


def _longest(session: StudentSession, tokenizer: Tokenizer) -> Encoded:
    text = session.manifest.golden[0].text
    [longest] = tokenizer.encode([" ".join([text] * session.manifest.max_tokens)], truncate=True)
    return longest
