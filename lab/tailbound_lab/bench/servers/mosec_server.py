"""mosec: one stage of N workers, batches of at most B or after W milliseconds. Raw bytes in and out.

Its other settings (capacity 1024, timeout 3 s) are its defaults. Started with mosec's own arguments.
"""

import os

from mosec import Server, Worker

from tailbound_lab.bench.workloads import model_of_environment

WORKERS, SIZE, WAIT = (int(os.environ[f"BENCH_{name}"]) for name in ("WORKERS", "SIZE", "WAIT"))


class Predict(Worker):  # type: ignore[misc] # mosec's workers are made by inheritance
    """The workload's model in mosec's worker."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model_of_environment()

    def deserialize(self, data: bytes) -> bytes:
        """Leave the body to the workload's own decoder."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """The workload has encoded its answer."""
        return data

    def forward(self, data: list[bytes] | bytes) -> list[bytes] | bytes:
        """One batch; mosec passes a body alone where batches are off."""
        if isinstance(data, list):
            return self.model.predict(data)
        return self.model.predict([data])[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predict, num=WORKERS, max_batch_size=SIZE, max_wait_time=WAIT)
    server.run()
