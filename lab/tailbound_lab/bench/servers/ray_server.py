"""Ray Serve: N replicas, batches of at most B or after W milliseconds. Raw bytes in and out."""

import os
import signal
import sys

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from tailbound_lab.bench.workloads import model_of_environment

WORKERS, SIZE, WAIT = (int(os.environ[f"BENCH_{name}"]) for name in ("WORKERS", "SIZE", "WAIT"))


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=2 * SIZE, ray_actor_options={"num_cpus": 0.1})
class Predict:
    """The workload's model as a deployment."""

    def __init__(self) -> None:
        self.model = model_of_environment()

    @serve.batch(max_batch_size=SIZE, batch_wait_timeout_s=WAIT / 1000)  # type: ignore[untyped-decorator] # as above
    async def predict(self, bodies: list[bytes]) -> list[bytes]:
        """One batch."""
        return self.model.predict(bodies)

    async def __call__(self, request: Request) -> Response:
        """One request, which waits for its batch."""
        return Response(await self.predict(await request.body()), media_type="application/json")


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Predict.bind(), route_prefix="/")  # type: ignore[attr-defined] # the decorator adds it
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
