"""The offline limit of a model: items per second for each batch size, decode included, with no server at all.

Run as a program in a process of its own (``python -m ...offline FOLDER SECONDS SIZE...``), so
that torch is never in the bench itself. The limit of N workers is measured with N of these at once.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tailbound_lab.bench.workloads import IMPORTS, Model, Workload
from tailbound_lab.load.records import BenchError

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def items_per_second(model: Model, size: int, seconds: float) -> float:
    """How many items a second batches of ``size`` make, over at least ``seconds`` and three batches."""
    bodies = [model.example] * size
    model.predict(bodies)
    count = 0
    start = time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        model.predict(bodies)
        count += 1
    return count * size / (time.perf_counter() - start)


def limits(workload: Workload, workers: int, seconds: float) -> dict[str, object]:
    """Items per second by batch size of one process, and of ``workers`` at once with the best size."""
    single = _run(workload, 1, seconds, SIZES)[0]
    best = max(single, key=lambda size: single[size])
    together = _run(workload, workers, max(1.0, seconds), (int(best),))
    return {
        "one_process": {size: round(rate, 1) for size, rate in single.items()},
        "best_size": int(best),
        "workers": workers,
        "all_workers": round(sum(rates[best] for rates in together), 1),
    }


def _run(workload: Workload, count: int, seconds: float, sizes: tuple[int, ...]) -> list[dict[str, float]]:
    arguments = [
        sys.executable,
        "-m",
        "tailbound_lab.bench.rig.offline",
        str(workload.folder),
        str(seconds),
        *map(str, sizes),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(IMPORTS)}
    started = [
        subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise BenchError(f"the model of {workload.folder} cannot be run offline, see above")
    return [json.loads(output) for output in outputs]


def main() -> None:
    """Print items per second by batch size as JSON."""
    model = Model(Path(sys.argv[1]))
    seconds, sizes = float(sys.argv[2]), map(int, sys.argv[3:])
    sys.stdout.write(json.dumps({size: items_per_second(model, size, seconds) for size in sizes}))


if __name__ == "__main__":
    main()
