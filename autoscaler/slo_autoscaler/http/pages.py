"""Fetches a page of metrics within limits of time and size, whatever its server sends."""

import socket
import time
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import Final

_REQUEST: Final = (
    "GET /metrics HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
)

FAILURES: Final = (OSError, HTTPException, OverflowError, ValueError)
"""Errors of ``fetched``."""


def fetched(address: str, seconds: float, largest: int) -> bytes:
    """Return the page ``/metrics`` at ``host:port``; raise one of ``FAILURES``.

    Takes at most ``seconds`` to connect and ``seconds`` to read, whatever the server sends, and at most
    ``largest`` bytes with the headers.
    """
    host, _, port = address.rpartition(":")
    received = bytearray()
    with socket.create_connection((host.strip("[]"), int(port)), seconds) as connection:
        end = time.monotonic() + seconds
        connection.sendall(_REQUEST.format(address).encode())
        # http.client has a time limit for each byte alone, so it only reads what is here in whole.
        while part := connection.recv(1 << 20):
            received += part
            if len(received) > largest:
                raise ValueError(f"more than {largest} bytes")
            left = end - time.monotonic()
            if left <= 0.0:
                raise TimeoutError(f"not read within {seconds:g} s")
            connection.settimeout(left)
    answer = HTTPResponse(_Received(received))  # type: ignore[arg-type]
    answer.begin()
    if answer.status != 200:
        raise ValueError(f"status {answer.status}")
    return answer.read()


class _Received:
    """Stands for the socket of an answer that was received already."""

    def __init__(self, received: bytes | bytearray) -> None:
        self._received = received

    def makefile(self, _mode: str) -> BytesIO:
        """Return the answer as a file."""
        return BytesIO(self._received)
