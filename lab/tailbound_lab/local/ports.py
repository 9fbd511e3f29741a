"""Finds free ports outside the range of outgoing connections.

An outgoing connection may take a port from the kernel's range before the child binds it, and a load generator
opens thousands. Below that range only listeners compete.
"""

import errno
import os
import random
import socket
from collections import deque
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_FIRST_OUTGOING: Final = 32_768
_TRIES: Final = 1000
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_MAX_HELD: Final = 64
_held: Final[deque[int]] = deque()
"""File descriptors of the last ports' sockets, bound and without a listener; they end with this process."""


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports without a listener, for children that bind them with SO_REUSEADDR.

    Until this process has taken 64 others, or has ended, no other process is given them here.
    """
    highest = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _FIRST_OUTGOING
    highest = highest if highest > _LOWEST + _TRIES else _FIRST_OUTGOING
    ports: list[int] = []
    for _ in range(_TRIES):
        if len(ports) == count:
            return ports
        port = random.randrange(_LOWEST, highest)  # noqa: S311 - not a secret
        if _hold(port):
            ports.append(port)
    raise OSError(f"no {count} free ports between {_LOWEST} and {highest}")


def is_taken(port: int) -> bool:
    """Return whether another program listens on the port of loopback; ended connections do not count."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _hold(port: int) -> bool:
    """Bind ``port`` and keep it bound. Return False if another process has it."""
    held = socket.socket()
    try:
        # All addresses: a listener on any of them blocks the port.
        held.bind(("", port))
    except OSError:
        held.close()
        return False
    # Only now: bound with it, the port could be another process's too, which holds it without a listener.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _held.append(held.detach())
    if len(_held) > _MAX_HELD:
        os.close(_held.popleft())
    return True
