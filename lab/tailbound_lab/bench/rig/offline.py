"""Measures the offline limit of a model: items per second by batch size, including decode, without a server.

Runs as a program in its own process (``python -m ...offline FOLDER SECONDS``), so that the bench itself does
not load torch. N such processes at the same time measure the limit of N workers.
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
    """Return the items per second with batches of ``size``, over at least ``seconds`` and three batches."""
    bodies = [model.example] * size
    model.predict(bodies)
    count = 0
    start = time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        model.predict(bodies)
        count += 1
    return count * size / (time.perf_counter() - start)


def limits(workload: Workload, workers: int, seconds: float) -> dict[str, object]:
    """Return the items per second of ``workers`` simultaneous processes, with the best size."""
    command = [sys.executable, "-m", "tailbound_lab.bench.rig.offline", str(workload.folder), str(seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(IMPORTS)}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    try:
        outputs = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        raise BenchError(f"the model of {workload.folder} cannot be run offline, see above")
    found = [json.loads(output) for output in outputs]
    together = {size: sum(rates[size] for rates in found) for size in found[0]}
    best = max(together, key=lambda size: together[size])
    return {"best_size": int(best), "workers": workers, "all_workers": round(together[best], 1)}


def main() -> None:
    """Print items per second by batch size as JSON."""
    model = Model(Path(sys.argv[1]))
    seconds = float(sys.argv[2])
    sys.stdout.write(json.dumps({size: items_per_second(model, size, seconds) for size in SIZES}))


if __name__ == "__main__":
    main()
