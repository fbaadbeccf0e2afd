"""The page at `/`, the reference at `/docs`, and the files both are made of.

They are few and small, so they are read once and held: what is not in the table does not exist,
and no path of a caller's is ever looked up on disk.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

router = APIRouter(tags=["page"])

FOLDER = Path(__file__).resolve().parent.parent / "playground"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Own files only, nothing inline, and no text of anybody's can become markup."""

_HEADERS = {
    "cache-control": "no-cache",  # kept, but asked about each time: a new version shows at once
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    media_type: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    paths = [path for path in FOLDER.iterdir() if path.suffix in _MEDIA_TYPES]
    return {path.name: _read(path) for path in paths}


def _read(path: Path) -> _File:
    body = path.read_bytes()
    return _File(body, _MEDIA_TYPES[path.suffix], f'"{sha256(body).hexdigest()[:32]}"')


@router.head("/", include_in_schema=False)
@router.get("/", response_class=HTMLResponse, responses={304: {"description": "It is known."}})
async def playground(request: Request) -> Response:
    """A page to try the service with."""
    return _answer(request, "index.html")


@router.head("/docs", include_in_schema=False)
@router.get("/docs", include_in_schema=False)
async def reference(request: Request) -> Response:
    """A page that shows the OpenAPI document."""
    return _answer(request, "docs.html")


@router.head("/playground/{name}", include_in_schema=False)
@router.get("/playground/{name}", include_in_schema=False)
async def part(request: Request, name: str) -> Response:
    """A file that the two pages load, whose own paths are from the root."""
    if name.endswith(".html"):
        raise HTTPException(404)
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    file = _files().get(name)
    if file is None:
        raise HTTPException(404)
    headers = {**_HEADERS, "etag": file.etag}
    if _is_known(file.etag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers, media_type=file.media_type)


def _is_known(etag: str, if_none_match: str) -> bool:
    """Whether the caller has it; a tag that a proxy made weak by compressing is as good."""
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in given or "*" in given
