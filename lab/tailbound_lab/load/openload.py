"""openload.c's twin in Python, for machines without a C compiler: same options, same JSON, less rate.

It sends with :mod:`tailbound_lab.load.openloop`. ``--stop-share`` is accepted and has no effect: a hopeless
run goes on to its end. The caller says that this one is used, and it too ends with status 3 if it lagged.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from tailbound_lab.load.arrivals import steps
from tailbound_lab.load.openloop import Lag, Stream, Target, offer
from tailbound_lab.load.records import BROKEN, NO_CONNECTION, TIMED_OUT, Record, per_second, percentile

SUB_BUCKETS = 32
_NAMES = {TIMED_OUT: "timeout", BROKEN: "broken", NO_CONNECTION: "no_connection"}


def parser() -> argparse.ArgumentParser:
    """The options of openload.c."""
    made = argparse.ArgumentParser(prog="openload", description=__doc__)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", required=True)
    made.add_argument("--path", default="/")
    made.add_argument("--content-type", default="application/json")
    made.add_argument("--body", action="append", type=Path, required=True)
    made.add_argument("--rate", type=float, default=100.0)
    made.add_argument("--seconds", type=float, default=5.0)
    made.add_argument("--slo-ms", type=float, default=100.0)
    made.add_argument("--timeout", type=float, default=5.0)
    made.add_argument("--max-lag-ms", type=float, default=5.0)
    made.add_argument("--stop-share", type=float, default=1.0)
    made.add_argument("--max-connections", type=int, default=16000)
    made.add_argument("--seed", type=int, default=1)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Offer the load, print the JSON; 3 if the generator lagged."""
    options = parser().parse_args(arguments)
    target = Target(
        f"http://{options.host}:{options.port}{options.path}",
        tuple(file.read_bytes() for file in options.body),
        (("Content-Type", options.content_type),),
        options.max_connections,
    )
    stream = Stream(target, steps(f"{options.rate:f}:{options.seconds:f}"), options.seed)
    start = time.monotonic()
    records, lag = uvloop.run(offer([stream], give_up_after=options.timeout))
    found = report(records[0], lag, options, time.monotonic() - start)
    sys.stdout.write(json.dumps(found, separators=(",", ":")) + "\n")
    return 3 if found["lagged"] else 0


def report(records: Sequence[Record], lag: Lag, options: argparse.Namespace, wall: float) -> dict[str, Any]:
    """What openload.c prints."""
    slo = options.slo_ms / 1e3
    ok = sorted(record.latency for record in records if 200 <= record.status < 300)
    counts = Counter(_NAMES.get(record.status, str(record.status)) for record in records)
    return {
        "generator": "python",
        "rate": options.rate,
        "seconds": options.seconds,
        "slo_ms": options.slo_ms,
        "seed": options.seed,
        "sent": len(records),
        "ok": len(ok),
        "good": sum(latency <= slo for latency in ok),
        "stopped_early": False,
        "lagged": lag.p99 * 1e3 > options.max_lag_ms,
        "wall_s": wall,
        "cpu_s": time.process_time(),
        "statuses": dict(counts),
        "latency_ms": _quantiles(ok + [math.inf] * (len(records) - len(ok))),
        "ok_latency_ms": _quantiles(ok),
        "lag_ms": {
            "p50": lag.p50 * 1e3,
            "p95": None,
            "p99": lag.p99 * 1e3,
            "p999": lag.p999 * 1e3,
            "max": lag.worst * 1e3,
        },
        "histogram": histogram(ok),
        "per_second": [
            {"second": second, "offered": s.sent, "ok": s.good + s.slow, "good": s.good}
            for second, s in enumerate(per_second(records, slo, options.seconds))
        ],
    }


def histogram(latencies: Iterable[float]) -> list[tuple[float, int]]:
    """(upper edge in ms, count) in buckets of a thirty-second of an octave, as openload.c has them."""
    buckets = Counter(int(math.log2(max(1.0, latency * 1e6)) * SUB_BUCKETS) for latency in latencies)
    return [(2 ** ((bucket + 1) / SUB_BUCKETS) / 1e3, count) for bucket, count in sorted(buckets.items())]


def _quantiles(ascending: Sequence[float]) -> dict[str, float | None]:
    found = {}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
        value = percentile(ascending, share)
        found[name] = None if value is None or math.isinf(value) else value * 1e3
    return found


if __name__ == "__main__":
    sys.exit(main())
