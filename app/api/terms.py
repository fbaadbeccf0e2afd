"""On what terms a caller asks, said in headers: how urgent it is, and by when it is of use."""

from starlette.datastructures import Headers

from app.admission import Terms
from app.errors import InputError, shortened
from app.metrics import PRIORITIES, Priority
from app.settings import Settings

PRIORITY_HEADER = "x-lightmbert-priority"
TIMEOUT_HEADER = "x-request-timeout-ms"


def read_terms(headers: Headers, settings: Settings) -> Terms:
    """The terms that these headers set, and the service's own for those that they do not.

    Raises:
        InputError: a value is none that we know, naming it.
    """
    return Terms(
        _priority(headers),
        _timeout_s(headers, settings.max_timeout_s),
        settings.max_wait_s,
        settings.bulk_max_wait_s,
    )


def _priority(headers: Headers) -> Priority | None:
    given = headers.get(PRIORITY_HEADER)
    if given is None:
        return None
    for known in PRIORITIES:
        if given == known:
            return known
    raise InputError(
        f"{PRIORITY_HEADER} is {shortened(given)!r}; known: {', '.join(PRIORITIES)}",
        param=PRIORITY_HEADER,
    )


def _timeout_s(headers: Headers, max_timeout_s: float) -> float | None:
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return None
    most = int(max_timeout_s * 1_000)
    # isdecimal alone takes other scripts' digits, which int reads too; so many are no time.
    if not (given.isdecimal() and len(given) <= 12 and 1 <= int(given) <= most):
        raise InputError(
            f"{TIMEOUT_HEADER} is {shortened(given)!r}; it may be 1 to {most}",
            param=TIMEOUT_HEADER,
        )
    return int(given) / 1_000
