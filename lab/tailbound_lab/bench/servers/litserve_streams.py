"""LitServe: N worker processes, each with its continuous batching loop of at most B streams.

As its documentation has it for high throughput, with ZeroMQ (``fast_queue``).
"""

import json
import os
import sys
from types import SimpleNamespace
from typing import Annotated, Any

import litserve
from fastapi import Depends
from litserve.loops.continuous_batching_loop import ContinuousBatchingLoop, Output
from litserve.utils import LitAPIStatus

from tailbound_lab.bench.servers.litserve_server import raw_body
from tailbound_lab.bench.workloads.stream import handler

WORKERS, SIZE = (int(os.environ[f"BENCH_{name}"]) for name in ("WORKERS", "SIZE"))


class Api(litserve.LitAPI):  # type: ignore[misc] # LitServe's functions are made by inheritance
    """The model as a LitAPI whose sequences join between two steps."""

    def setup(self, device: Any) -> None:
        """Begin without a stream."""
        self.streams: dict[str, handler.Stream] = {}

    def decode_request(self, request: Annotated[bytes, Depends(raw_body)]) -> bytes:
        """Leave the body to the model."""
        return request

    def add_request(self, uid: str, request: bytes) -> None:
        """Start a stream."""
        (self.streams[uid],) = handler.start([SimpleNamespace(body=request)], None)

    def has_capacity(self) -> bool:
        """Return whether one more stream may join."""
        return len(self.streams) < SIZE

    def has_active_requests(self) -> bool:
        """Return whether a stream runs."""
        return bool(self.streams)

    def step(self, prev_outputs: Any) -> list[Output]:
        """Make one step; a stream's end is an output of its own, whose content LitServe drops."""
        running = list(self.streams.items())
        results = handler.step([stream for _, stream in running], None)
        outputs = []
        for (uid, _), (piece, done) in zip(running, results, strict=True):
            outputs.append(Output(uid, piece, LitAPIStatus.OK))
            if done:
                del self.streams[uid]
                outputs.append(Output(uid, piece, LitAPIStatus.FINISH_STREAMING))
        return outputs

    def encode_response(self, output: Any) -> str:
        """Return a piece as an event."""
        return f"data: {json.dumps(output)}\n\n"


if __name__ == "__main__":
    api = Api(stream=True, max_batch_size=SIZE, loop=ContinuousBatchingLoop())
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
