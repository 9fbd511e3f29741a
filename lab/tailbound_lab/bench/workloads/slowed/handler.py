"""Any other workload, twice as slow from the moment that a file exists: a model whose speed changes mid-run.

``BENCH_SLOWED_FOLDER`` is the workload's folder, ``BENCH_SLOW_FILE`` the file that ``bench drift`` creates.
The slowdown is a sleep of the batch's own time, so a worker is busy for twice as long whatever the machine
does.
"""

import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_folder = Path(os.environ["BENCH_SLOWED_FOLDER"])
_spec = importlib.util.spec_from_file_location("slowed_handler", _folder / "handler.py")
if _spec is None or _spec.loader is None:
    raise ImportError(f"{_folder / 'handler.py'} cannot be imported")
_handler: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_handler)
_slow_file = os.environ["BENCH_SLOW_FILE"]


def load() -> Any:
    """The workload's own model."""
    return _handler.load() if hasattr(_handler, "load") else None


def example() -> bytes:
    """The workload's own typical body."""
    body: bytes = _handler.example()
    return body


def handle_batch(events: Sequence[Any], context: Any) -> Any:
    """The workload's own answers, after twice the time if the file is there."""
    start = time.perf_counter()
    results = _handler.handle_batch(events, context)
    if os.path.exists(_slow_file):
        time.sleep(time.perf_counter() - start)
    return results
