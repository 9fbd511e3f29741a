"""Defines the traffic of each function: rates and bodies.

The only place to change rates: all other modules read :data:`TRAFFIC`. Two shared cores can run the
functions, the twins, the gateway and the generator together at these rates; the replicas of the simulated
accelerator sleep, so they cost little.
"""

from __future__ import annotations

import json

from tailbound_lab.demo.session import Traffic

_VISION_BYTES = 3 * 224 * 224
_FEATURES = 32
_VARIANTS = 4


def _json_rows() -> tuple[bytes, ...]:
    rows = ([((i * 7 + v * 3) % 11) / 10 - 0.5 for i in range(_FEATURES)] for v in range(_VARIANTS))
    return tuple(json.dumps({"features": row}).encode() for row in rows)


def _images() -> tuple[bytes, ...]:
    ramp = bytes(range(256)) * (_VISION_BYTES // 256 + 1)
    return tuple(ramp[shift * 17 : shift * 17 + _VISION_BYTES] for shift in range(_VARIANTS))


TRAFFIC: tuple[Traffic, ...] = (
    Traffic("accelerator", base=30, peak=200, bodies=(b"{}",), content_type="application/json"),
    Traffic("tabular", base=20, peak=80, bodies=_json_rows(), content_type="application/json"),
    Traffic("vision", base=2, peak=8, bodies=_images(), content_type="application/octet-stream", twin=False),
)
