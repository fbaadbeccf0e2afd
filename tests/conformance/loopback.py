"""Whoever asks for another machine is refused, and remembered."""

import socket

HERE = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", None, ""}


class ElsewhereError(OSError):
    """Something asked for a machine that is not this one."""


def only_loopback() -> list[str]:
    """Close the way out of this process; the list fills with what was asked for."""
    refused: list[str] = []
    connect, connect_ex, look_up = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def check(host: object) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in HERE:
            refused.append(str(name))
            raise ElsewhereError(f"{name} is not this machine")

    def check_address(sock: socket.socket, address: tuple[object, ...] | str | bytes) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            check(address[0])

    def guarded_connect(sock: socket.socket, address: tuple[object, ...] | str | bytes) -> None:
        check_address(sock, address)
        connect(sock, address)

    def guarded_connect_ex(sock: socket.socket, address: tuple[object, ...] | str | bytes) -> int:
        check_address(sock, address)
        return connect_ex(sock, address)

    def guarded_look_up(host: object, *more: object, **named: object) -> object:
        check(host)
        return look_up(host, *more, **named)

    socket.socket.connect = guarded_connect
    socket.socket.connect_ex = guarded_connect_ex
    socket.getaddrinfo = guarded_look_up
    return refused
