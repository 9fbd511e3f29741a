"""Defines the traffic of each function: rates and bodies.

The only place to change rates: all other modules read :data:`TRAFFIC`. At these rates two shared cores run
the functions, the twins, the gateway and the generator together and are idle for half of the time. Replicas
that start take CPU from those that serve: so no function imports torch, and peaks follow each other.
"""

from __future__ import annotations

from importlib import resources

from tailbound_lab.demo.session import Traffic


def _uploads() -> tuple[bytes, ...]:
    package = resources.files("tailbound_lab")
    return tuple(package.joinpath(path).read_bytes() for path in ("demo/traffic.py", "demo/page.html"))


TRAFFIC: tuple[Traffic, ...] = (
    Traffic("accelerator", 15, 80, bodies=(b"{}",), content_type="application/json", begin=0.15),
    Traffic("filetype", 3, 10, bodies=_uploads(), content_type="application/octet-stream", begin=0.5),
)
