"""A SIMULATED accelerator: it computes next to nothing and sleeps for as long as a device would work.

    service time of a batch of b = (8 ms + 0.5 ms x b) x device_slowdown

That is the shape of a GPU or TPU: a batch of eight costs half as much again as a batch of one, and the CPU is
free meanwhile. Since no CPU is used, five replicas on a machine with two cores really do five times the work
of one, so scaling can be watched where there is no accelerator. Use it to see the batcher and the autoscaler
work, never to claim how fast a model is.

One worker per replica (``workers: "1"`` in stack.yml) stands for one device. ``device_slowdown`` in the
environment (1 by default) makes it a slower one: then fewer requests keep several replicas busy, and a small
machine can send them. Any body is accepted, and the answer proves whose it is: {"checksum": <CRC-32 of the
body>, "bytes": <its length>}.
"""

import os
import time
import zlib
from collections.abc import Sequence

from batching_watchdog import Context, Event

SLOWDOWN = float(os.environ.get("device_slowdown", "1"))
SECONDS_PER_BATCH = 0.008 * SLOWDOWN
SECONDS_PER_ITEM = 0.0005 * SLOWDOWN


def handle_batch(events: Sequence[Event], context: Context) -> list[dict[str, int]]:
    """One answer per event, in order, after the time that the device would take."""
    time.sleep(service_seconds(len(events)))
    return [{"checksum": zlib.crc32(event.body), "bytes": len(event.body)} for event in events]


def service_seconds(size: int) -> float:
    """How long the simulated device takes for a batch of ``size``."""
    return SECONDS_PER_BATCH + SECONDS_PER_ITEM * size


def example() -> bytes:
    """A typical body, with which the watchdog measures how long batches take."""
    return b'{"prompt": "' + b"simulated " * 18 + b'"}'
