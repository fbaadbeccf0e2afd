"""`serve`: one process, or a supervisor over several. Each imports only what it runs."""

import logging
import socket

from app import logs
from app.settings import Settings

logger = logging.getLogger(__name__)

_BACKLOG = 2_048
"""Connections that may wait to be accepted; the system's own limit may be lower."""


def serve(settings: Settings, listening: socket.socket | None = None) -> int:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: as the service is to run.
        listening: from `listen`, if the caller wanted to know the port beforehand.

    Returns:
        The exit status: 0 after a drain, 1 if the model could not be loaded or workers keep dying.
    """
    logs.configure(settings.log_level)
    listening = listening or listen(settings.host, settings.port)
    logger.info("listening", extra={"address": listening.getsockname()[:2]})
    if settings.workers > 1:
        from app.workers import supervise

        return supervise(settings, listening)
    from app.service import Service

    service = Service(settings)
    service.open()  # takes as long as to import what follows, and goes on beside it
    from app.main import create_app
    from app.server import Server

    return Server(create_app(service)).serve_on(listening)


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections can queue at from now on; 0 is any free port.

    Raises:
        OSError: nobody can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart must wait
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
