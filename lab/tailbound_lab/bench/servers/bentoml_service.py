"""BentoML: N worker processes, adaptive batches (its CORK dispatcher) of at most B, latency W milliseconds.

A batchable API takes JSON with a list, so each body travels as a string in a list of one; bodies that are
not text as base64.
"""

import base64
import os

import bentoml

from tailbound_lab.bench.workloads import model_of_environment

WORKERS, SIZE, WAIT = (int(os.environ[f"BENCH_{name}"]) for name in ("WORKERS", "SIZE", "WAIT"))


@bentoml.service(workers=WORKERS, traffic={"timeout": 60})
class Predict:
    """The workload's model as a service."""

    def __init__(self) -> None:
        self.model = model_of_environment()

    @bentoml.api(  # type: ignore[untyped-decorator] # its environment has no types for this one
        batchable=True, max_batch_size=SIZE, max_latency_ms=WAIT, route="/"
    )
    def predict(self, bodies: list[str]) -> list[str]:
        """One batch."""
        raw = [base64.b64decode(b[7:]) if b.startswith("base64:") else b.encode() for b in bodies]
        return [answer.decode() for answer in self.model.predict(raw)]
