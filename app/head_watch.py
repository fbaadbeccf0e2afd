"""Looks every second whether a head was fitted, replaced or removed.

It asks for the time of a file, which works in each of several workers and on any file system.
"""

import logging
import threading
from collections.abc import Callable

EVERY_S = 1.0

logger = logging.getLogger(__name__)


class HeadWatch:
    """A thread that calls `refresh` until it is stopped."""

    def __init__(self, refresh: Callable[[], None], *, every_s: float = EVERY_S) -> None:
        self._refresh = refresh
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="lightmbert-heads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A look that has begun ends by itself."""
        self._stopped.set()

    def _look(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                self._refresh()
            except Exception:  # a thread that ends here would leave the service without
                logger.exception("heads could not be read")
