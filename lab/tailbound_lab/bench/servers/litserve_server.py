"""LitServe: N worker processes, batches of at most B or after W milliseconds. Raw bytes in, bytes out."""

import os
import sys
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request, Response

from tailbound_lab.bench.workloads import model_of_environment

WORKERS, SIZE, WAIT = (int(os.environ[f"BENCH_{name}"]) for name in ("WORKERS", "SIZE", "WAIT"))


async def raw_body(request: Request) -> bytes:
    """The body as it came; LitServe would parse JSON before the workload's own decoder could."""
    body: bytes = await request.body()
    return body


class Api(litserve.LitAPI):  # type: ignore[misc] # LitServe's functions are made by inheritance
    """The workload's model as a LitAPI."""

    def setup(self, device: Any) -> None:
        """Load the model in the worker."""
        self.model = model_of_environment()

    def decode_request(self, request: Annotated[bytes, Depends(raw_body)]) -> bytes:
        """Leave the body to the workload's own decoder."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """A list is a batch."""
        return inputs

    def predict(self, x: list[bytes] | bytes) -> list[bytes]:
        """One batch; LitServe passes a body alone where batches are off."""
        return self.model.predict(x if isinstance(x, list) else [x])

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """A list is a batch."""
        return output

    def encode_response(self, output: bytes | list[bytes]) -> Response:
        """The workload has encoded its answer."""
        content = output[0] if isinstance(output, list) else output
        return Response(content, media_type="application/json")


if __name__ == "__main__":
    api = Api(max_batch_size=SIZE, batch_timeout=WAIT / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
