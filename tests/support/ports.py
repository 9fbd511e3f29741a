"""Free ports of loopback, below the range from which outgoing connections take theirs."""

import contextlib
import random
import socket
from pathlib import Path

_LOWEST, _FIRST_OUTGOING = 10_000, 32_768
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return different ports without a listener on any address; nothing reserves them until a child binds."""
    highest = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _FIRST_OUTGOING
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(_LOWEST, max(highest, _LOWEST + 1000))
        with contextlib.suppress(OSError), socket.socket() as candidate:
            candidate.bind(("", port))
            ports.add(port)
    return list(ports)


def free_port() -> int:
    return free_ports(1)[0]
