"""Who may ask: one key for work and one for changing what is served, each only if it is set."""

import hmac

from pydantic import SecretStr
from starlette.requests import Request

from app.errors import ForbiddenError, UnauthorizedError
from app.service import Service


def require_key(request: Request) -> None:
    """Let the request through if it carries `api_key` or `admin_key`, or if no `api_key` is set.

    Raises:
        UnauthorizedError: it carries none, or another.
    """
    settings = _service(request).settings
    if settings.api_key is None:
        return
    known = [key for key in (settings.api_key, settings.admin_key) if key is not None]
    if not _carries_one_of(request, known):
        raise UnauthorizedError


def require_admin(request: Request) -> None:
    """Let the request through if it carries `admin_key`.

    Raises:
        ForbiddenError: none is set, so nobody may.
        UnauthorizedError: it carries none, or another.
    """
    key = _service(request).settings.admin_key
    if key is None:
        raise ForbiddenError("nobody may do this: LIGHTMBERT_ADMIN_KEY is not set")
    if not _carries_one_of(request, [key]):
        raise UnauthorizedError


def _carries_one_of(request: Request, keys: list[SecretStr]) -> bool:
    """Compares every key to the end, so that the time it takes tells nothing."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    equal = [
        hmac.compare_digest(given.strip().encode("latin-1"), key.get_secret_value().encode())
        for key in keys
    ]
    return scheme.lower() == "bearer" and any(equal)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
