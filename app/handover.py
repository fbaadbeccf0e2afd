"""What a supervisor and a worker say to each other over one pair of sockets.

Down go connections, each a byte with the connection itself attached; up go bytes that say how
the worker fares. The end of the line tells either that the other is gone, however it died.
"""

import errno
import os
import socket

READY = b"+"
UNREADY = b"-"
ENDED = b"."
"""One connection has ended."""
ALIVE = b"*"
"""Nothing else is new. Said every second, so that a worker that hangs is told from an idle one."""
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
        OSError: one came and is lost, as this process has too many files open.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    except ConnectionResetError:
        return None
    if not data:
        return None
    if not descriptors:  # the system hands over the byte all the same
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return socket.socket(fileno=descriptors[0])
