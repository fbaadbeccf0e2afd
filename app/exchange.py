"""Students exchanged under load: a folder loaded beside the others or in place of its old revision.

One change at a time. What is loaded has passed its tests and run warm in a thread before any
request meets it, and a load that fails changes nothing. What is taken out works on for the
requests that hold it, and ends with the last of them.
"""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from app.engine import Engine
from app.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    LightMBERTError,
    ModelError,
    NotReadyError,
    shortened,
)
from app.runners import NICENESS
from app.runtime.artifact import MANIFEST_FILE
from app.settings import Settings
from app.shared_metrics import joined
from app.students import Served, Students
from app.threads import CallThread

logger = logging.getLogger(__name__)

LEAVING = "the service is shutting down"


@dataclass(frozen=True)
class Change:
    """What a load has come to."""

    served: Served
    replaced: Served | None
    """What had the name before."""
    seconds: float


class Exchange:
    """Changes what `Students` holds, on behalf of whoever may."""

    def __init__(self, settings: Settings, students: Students, *, leaving: asyncio.Event) -> None:
        """`leaving` is set when the process is to end: nobody waits for a load after that."""
        self._settings = settings
        self._students = students
        self._leaving = leaving
        self._opening: asyncio.Future[Engine] | None = None
        self._busy_with: str | None = None

    async def load(self, folder: str) -> Change:
        """Serve the model in this folder under `models_root`; its revision so far, if any, leaves.

        Raises:
            ForbiddenError: there is no such root, or this process is one of several workers.
            InputError: the folder does not lie under the root.
            ConflictError: another load is under way.
            ModelError: the folder is unusable; nothing has changed.
            NotReadyError: the service shuts down; nothing has changed.
        """
        path = self._allowed(folder)
        self._busy_with = folder
        started_at = perf_counter()
        try:
            engine = await self._opened(path)
            replaced = await self._students.put(engine)
        finally:
            self._busy_with = None
        seconds = round(perf_counter() - started_at, 3)
        served = self._students.named(engine.manifest.name)
        _log("loaded", served, seconds=seconds)
        if replaced is not None:
            self._students.retire(replaced)
        return Change(served, replaced, seconds)

    def unload(self, name: str) -> Served:
        """Take the student of that name out of service.

        Raises:
            UnknownModelError: there is none.
            ConflictError: it is the default; or a load is under way.
            ForbiddenError: this process is one of several workers.
        """
        self._check_free()
        served = self._students.named(name)
        if served is self._students.default:
            raise ConflictError(
                f"{served.name} is the model of requests that name none, and cannot be unloaded; "
                "load another revision of it instead"
            )
        self._students.take_out(served)
        _log("unloaded", served)
        self._students.retire(served)
        return served

    async def stop(self, *, timeout_s: float) -> None:
        """Let a load that is under way end, because its thread cannot be stopped."""
        if self._opening is not None:
            await asyncio.wait({self._opening}, timeout=timeout_s)

    def _allowed(self, folder: str) -> Path:
        self._check_free()
        if self._settings.models_root is None:
            raise ForbiddenError("nothing can be loaded: LIGHTMBERT_MODELS_ROOT is not set")
        return inside(self._settings.models_root, folder)

    def _check_free(self) -> None:
        if joined():
            raise ForbiddenError(
                "this is one of several workers, and the others would not hear of it: put the new "
                "folder in place and restart the service, or run it with one worker"
            )
        if self._busy_with is not None:
            raise ConflictError(f"{shortened(self._busy_with)} is being loaded; wait until it is")

    async def _opened(self, path: Path) -> Engine:
        thread = CallThread("lightmbert-loader", niceness=NICENESS)
        thread.start()
        self._opening = opening = thread.call(partial(self._open, path))
        thread.retire()
        leaving = asyncio.ensure_future(self._leaving.wait())
        either: set[asyncio.Future[Any]] = {opening, leaving}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            opening.add_done_callback(_noticed)
        if self._leaving.is_set():
            raise NotReadyError(LEAVING)
        self._opening = None
        try:
            return opening.result()
        except LightMBERTError:
            raise
        except Exception as error:  # whatever it is, only this load has failed
            raise ModelError(f"{path} could not be loaded: {error!r}") from error

    def _open(self, path: Path) -> Engine:
        engine = self._students.load(path)
        engine.widen()
        return engine


def inside(root: Path, folder: str) -> Path:
    """The model folder of that name under the root.

    Raises:
        InputError: it would lie elsewhere, by its name or by a link.
    """
    named = Path(folder)
    try:
        root = root.resolve(strict=True)
        path = (root / named).resolve()
        manifest = (path / MANIFEST_FILE).resolve()
    except (OSError, RuntimeError, ValueError):  # no root, links in a circle, a null character
        path = manifest = Path()
    relative = not named.is_absolute() and ".." not in named.parts
    if not (relative and path != root and path in manifest.parents and root in path.parents):
        raise InputError(
            f"folder {shortened(folder)!r} does not lie under LIGHTMBERT_MODELS_ROOT; give its path "
            "from there",
            param="folder",
        )
    return path


def _noticed(opening: "asyncio.Future[Engine]") -> None:
    """Or a load that nobody waits for any more would be told as an error nobody saw."""
    if not opening.cancelled():
        opening.exception()


def _log(event: str, served: Served, **more: object) -> None:
    extra = {"model": served.name, "revision": served.revision, "requests": served.requests}
    logger.info(event, extra=extra | more)
