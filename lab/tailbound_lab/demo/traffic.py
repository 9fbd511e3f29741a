"""Defines the traffic of each function: rates and bodies.

The only place to change rates: all other modules read :data:`TRAFFIC`. At these rates two shared cores run
the functions, the twins, the gateway and the generator together and are idle for half of the time. Both
functions load without torch, whose import would stop the others for seconds whenever a replica starts.
"""

from __future__ import annotations

from importlib import resources

from tailbound_lab.demo.session import Traffic


def _uploads() -> tuple[bytes, ...]:
    package = resources.files("tailbound_lab")
    return tuple(package.joinpath(path).read_bytes() for path in ("demo/traffic.py", "demo/page.html"))


TRAFFIC: tuple[Traffic, ...] = (
    Traffic("accelerator", base=15, peak=100, bodies=(b"{}",), content_type="application/json"),
    Traffic("filetype", base=4, peak=16, bodies=_uploads(), content_type="application/octet-stream"),
)
