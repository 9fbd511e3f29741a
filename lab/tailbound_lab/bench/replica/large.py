"""``bench large``: measures the CPU of front end and worker per batch with large bodies.

One request at a time, so each is its own batch; the model uses only the length.
"""

import argparse
import http.client
import json
import statistics
from pathlib import Path
from typing import Any, Final

from tailbound_lab.bench import page
from tailbound_lab.bench.rig.server import Server
from tailbound_lab.bench.rig.systems import parse_entry
from tailbound_lab.bench.workloads import FOLDER, Workload
from tailbound_lab.load.records import BenchError

WORKLOAD: Final = Workload("length", FOLDER / "length", 1.0, (1,), 1.0)
MIB: Final = 1 << 20
SIZES: Final = (0.0, 0.15, 1.0, 5.0, 20.0)
LIMIT_MS: Final = 2.0
"""CPU milliseconds on each side that a body of ``JUDGED`` megabytes may cost."""
JUDGED: Final = 5.0


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of ``bench large``."""
    made.add_argument("--requests", type=int, default=300, help="requests of each size [300]")
    made.add_argument("--repeats", type=int, default=3, help="number of runs, of which the median counts [3]")


def main(options: argparse.Namespace, output: Path) -> int:
    """Measure every size; 0 if a body of 5 MB costs at most 2 ms on each side."""
    entry = parse_entry("slo")
    extra = {
        "max_body_bytes": str(int(max(SIZES) * MIB) + 1),
        "max_queued_bytes": str(int(4 * max(SIZES) * MIB)),
    }
    found: dict[str, dict[str, float]] = {}
    with Server(entry.system, entry.settings, WORKLOAD, 1, b"-", output / "venvs", extra) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for megabytes in SIZES:
            body = bytes(int(megabytes * MIB) or 1)
            _post(connection, body, 5)
            costs = [_cost(server, connection, body, options.requests) for _ in range(options.repeats)]
            found[f"{megabytes:g}"] = {
                side: round(statistics.median(cost[side] for cost in costs), 3)
                for side in ("front", "worker")
            }
            page.say(f"{megabytes:g} MB: {found[f'{megabytes:g}']} CPU ms a batch")
        connection.close()
    result: dict[str, Any] = page.origin() | {"requests": options.requests, "cpu_ms_per_batch": found}
    (output / "large.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(cost <= LIMIT_MS for cost in found[f"{JUDGED:g}"].values()) else 1


def _cost(
    server: Server, connection: http.client.HTTPConnection, body: bytes, requests: int
) -> dict[str, float]:
    """Return CPU milliseconds per request of the front end, and of the worker and its parent."""
    before = server.usage()
    _post(connection, body, requests)
    after = server.usage()
    used = {
        pid: (use.name, use.cpu - (before[pid].cpu if pid in before else 0.0)) for pid, use in after.items()
    }
    front = [cpu for name, cpu in used.values() if name.endswith("batching_watchdog")]
    return {
        "front": sum(front) * 1e3 / requests,
        "worker": (sum(cpu for _, cpu in used.values()) - sum(front)) * 1e3 / requests,
    }


def _post(connection: http.client.HTTPConnection, body: bytes, times: int) -> None:
    for _ in range(times):
        connection.request("POST", "/", body)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200 or answer != str(len(body)).encode():
            raise BenchError(f"large: status {response.status}: {answer[:200]!r}")
