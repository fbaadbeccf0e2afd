"""What passes between a supervisor and a worker, and what a shortage of open files does to it."""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.handover import hand_over, take_over


@pytest.fixture
def lines() -> Iterator[tuple[socket.socket, socket.socket]]:
    upper, lower = socket.socketpair()
    with upper, lower:
        yield upper, lower


def test_a_connection_arrives_and_the_end_of_the_line_is_told(
    lines: tuple[socket.socket, socket.socket],
) -> None:
    upper, lower = lines
    caller, connection = socket.socketpair()
    with caller, connection:
        hand_over(upper, connection)
        taken = take_over(lower)
        assert taken is not None
        with taken:
            taken.sendall(b"hund")
        assert caller.recv(4) == b"hund"
    upper.close()
    assert take_over(lower) is None


def test_too_many_open_files_lose_a_connection_but_not_the_line(
    lines: tuple[socket.socket, socket.socket],
) -> None:
    upper, lower = lines
    with socket.socket() as connection:
        hand_over(upper, connection)
        with no_descriptor_free(), pytest.raises(OSError, match="Too many open files"):
            take_over(lower)
        hand_over(upper, connection)
    taken = take_over(lower)
    assert taken is not None
    taken.close()


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
