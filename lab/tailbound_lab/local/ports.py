"""Finds free ports outside the range of outgoing connections.

An outgoing connection may take a port from the kernel's range before the child binds it, and a load generator
opens thousands. Below that range only listeners compete.
"""

import errno
import random
import socket
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_FIRST_OUTGOING: Final = 32_768
_TRIES: Final = 1000
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports without a listener; they are not reserved until a child binds them."""
    highest = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _FIRST_OUTGOING
    highest = highest if highest > _LOWEST + _TRIES else _FIRST_OUTGOING
    ports: set[int] = set()
    for _ in range(_TRIES):
        if len(ports) == count:
            return list(ports)
        port = random.randrange(_LOWEST, highest)  # noqa: S311 - not a secret
        if _bindable(port):
            ports.add(port)
    raise OSError(f"no {count} free ports between {_LOWEST} and {highest}")


def is_taken(port: int) -> bool:
    """Return whether another program listens on the port of loopback; ended connections do not count."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _bindable(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            # All addresses: a listener on any of them blocks the port.
            candidate.bind(("", port))
        except OSError:
            return False
    return True
