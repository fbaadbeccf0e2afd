"""What a supervisor and a worker say to each other over one pair of sockets.

Down go connections, each a byte with the connection itself attached; up go bytes that say how
the worker fares. The end of the line tells either that the other is gone, however it died.
"""

import socket

READY = b"+"
UNREADY = b"-"
ENDED = b"."
"""One connection has ended."""
FULL = b"!"
"""No more connections: the worker is about to end."""

_CONNECTION = b"c"


def hand_over(line: socket.socket, connection: socket.socket) -> None:
    """Give `connection` to the other end; the caller closes its own copy.

    Raises:
        BlockingIOError: the line is full.
        OSError: nobody is there.
    """
    socket.send_fds(line, [_CONNECTION], [connection.fileno()])


def take_over(line: socket.socket) -> socket.socket | None:
    """The next connection; None at the end of the line.

    Raises:
        BlockingIOError: there is none yet.
    """
    try:
        _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    except ConnectionResetError:
        return None
    return socket.socket(fileno=descriptors[0]) if descriptors else None
