"""Free ports outside the range of outgoing connections.

A port that the kernel gave and that was closed again may be taken by any outgoing connection before the
child binds it, and a load generator makes thousands. Below that range only a listener can be in the way.
"""

import random
import socket
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_FIRST_OUTGOING: Final = 32_768
_TRIES: Final = 1000
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """``count`` different ports that no listener has now; nobody holds them until the children bind them."""
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


def _bindable(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            # All addresses: a listener on any one of them is in the way.
            candidate.bind(("", port))
        except OSError:
            return False
    return True
