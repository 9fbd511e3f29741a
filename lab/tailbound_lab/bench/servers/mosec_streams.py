"""mosec: one stage of N SSE workers, closed batches of at most B or after W milliseconds.

Its timeout is set, because its default of 3 s is less than a long stream. Started with mosec's own arguments.
"""

import json
import os
from types import SimpleNamespace

from mosec import Server, SSEWorker

from tailbound_lab.bench.workloads.stream import handler

WORKERS, SIZE, WAIT = (int(os.environ[f"BENCH_{name}"]) for name in ("WORKERS", "SIZE", "WAIT"))
TIMEOUT = 60
"""Seconds of a batch."""


class Generate(SSEWorker):  # type: ignore[misc] # mosec's workers are made by inheritance
    """The model in mosec's worker."""

    def deserialize(self, data: bytes) -> bytes:
        """Leave the body to the model."""
        return data

    def forward(self, data: list[bytes]) -> list[str]:
        """Serve one batch to its end."""
        running = dict(enumerate(handler.start([SimpleNamespace(body=body) for body in data], None)))
        while running:
            results = handler.step(list(running.values()), None)
            for place, (piece, done) in zip(list(running), results, strict=True):
                self.send_stream_event(json.dumps(piece), place)
                if done:
                    del running[place]
        return [""] * len(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Generate, num=WORKERS, max_batch_size=SIZE, max_wait_time=WAIT, timeout=TIMEOUT)
    server.run()
