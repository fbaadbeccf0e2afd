"""The first runs of a session: they wake it up, and show how fast this machine is."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

from app.forecast import Forecast, Run
from app.runtime.session import StudentSession
from app.runtime.tokenizer import Encoded, Tokenizer

_LENGTHS = (16, 64)
"""And the longest there is."""


def warmed_up(session: StudentSession, tokenizer: Tokenizer, *, max_batch_tokens: int) -> Forecast:
    """What single texts and full batches of a few lengths take here.

    The longest text and the largest batches are among them, so that memory is asked for now.
    """
    longest = _longest(session, tokenizer)
    session.run([longest])  # the very first run is slower than any other
    return Forecast.fitted(list(_timed(session, longest, max_batch_tokens)))


def _timed(session: StudentSession, longest: Encoded, max_batch_tokens: int) -> Iterator[Run]:
    for length in sorted({min(each, longest.tokens) for each in (*_LENGTHS, longest.tokens)}):
        text = replace(longest, ids=longest.ids[:length], type_ids=longest.type_ids[:length])
        for texts in sorted({1, max(1, max_batch_tokens // length)}):
            started_at = perf_counter()
            session.run([text] * texts)
            yield Run(length, texts, perf_counter() - started_at)


def _longest(session: StudentSession, tokenizer: Tokenizer) -> Encoded:
    text = session.manifest.golden[0].text
    [longest] = tokenizer.encode([" ".join([text] * session.manifest.max_tokens)], truncate=True)
    return longest
