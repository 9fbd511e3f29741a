"""Runs a handler as production does, with worker processes, and measures it.

Owns the order: load, profile (``pool.profile``, as at every start), then example() over HTTP for a second,
one request at a time, so that the watchdog estimates its own CPU time too. All parts are ``app``'s.
"""

import asyncio
import http.client
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from batching_watchdog import app
from batching_watchdog.config import Config
from batching_watchdog.engine.capacity import READ_SECONDS
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import TrialFailed
from batching_watchdog.function import Event
from batching_watchdog.machine import available_cpus
from batching_watchdog.pool.supervisor import WorkerPool
from batching_watchdog.trial import report
from batching_watchdog.trial.report import Alone, Answer, Trial

LOADING, MEASURING, SENDING = "loading the handler", "measuring batches of example()", "sending example()"
"""Activities, for the progress line."""
POLL_SECONDS: Final = 0.05
SEND_SECONDS: Final = 1.2 * READ_SECONDS
"""Time for which example() is sent, one request after the other."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as the client sees them."""

    answer: Answer
    seconds: float
    queue_seconds: float


async def measure(
    config: Config,
    environ: Mapping[str, str],
    own_weight: Callable[[Event], Any] | None,
    handler: str,
    slo_from: str,
    tell: Callable[[str, float], None],
) -> Trial:
    """Load the handler of ``config``, measure it, and stop all processes again.

    ``tell`` gets the activity and its seconds, several times per second. Raises ``HandlerNotLoaded``,
    ``StartFailed``, and ``TrialFailed`` for a handler without example(), or one that does not serve it.
    """
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    watchdog = app.build(config, environ, own_weight=own_weight)
    pool = watchdog.pool
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(watchdog.requests.protocol, sock=listener)
    try:
        pool.start()
        metrics, cpus = watchdog.metrics, available_cpus()
        times = metrics.capacity.times
        await _until_ready(pool, times, tell)
        if pool.fails_example:
            raise TrialFailed(
                f"{handler} fails on its own example(), for the reason above: mend the handler, or what "
                "example() returns\nnext: without a reason above, see that it does not call os._exit()"
            )
        example = _example(pool, handler)
        metrics.requests_per_second()  # begins to count the CPU time of the front end
        tell(SENDING, 0.0)
        try:
            exchanges = await asyncio.to_thread(send, port, example, SEND_SECONDS, 2 * config.exec_timeout)
        except (OSError, http.client.HTTPException) as error:
            raise TrialFailed(f"{handler}: its example() got no answer over HTTP: {error!r}") from error
        metrics.requests_per_second()
        answer = exchanges[-1].answer
        if answer.status >= 400:
            raise TrialFailed(report.rejection(handler, answer))
        largest = max(pool.handshakes, key=lambda handshake: handshake.load_seconds)
        promises = [
            report.promise_within(
                target,
                times,
                metrics.capacity.cost,
                workers=config.workers,
                objective=config.slo_objective,
                cpus=cpus,
            )
            for target in (config.slo_latency, *report.TARGETS)
        ]
        return Trial(
            handler=handler,
            workers=config.workers,
            slo_objective=config.slo_objective,
            slo_from=slo_from,
            import_seconds=largest.import_seconds,
            load_seconds=largest.load_seconds,
            resident_bytes=max(pool.resident_bytes().values(), default=0),
            example_bytes=len(example),
            answer=answer,
            alone=Alone(
                total=fmean(exchange.seconds for exchange in exchanges),
                wait=fmean(exchange.queue_seconds for exchange in exchanges),
                worker=metrics.service_seconds.total / max(1, sum(metrics.service_seconds.counts)),
                worker_cpu=metrics.capacity.cost.worker.predict_mean(1),
            ),
            batches=report.batch_costs(times),
            promise=promises[0],
            others=tuple(promises[1:]),
            split=pool.split,
            ceiling=times.ceiling if times.ceiling < times.max_batch_size else 0,
            busy=busy,
        )
    finally:
        server.close()
        watchdog.requests.abort()
        await pool.stop(at_once=sys.exception() is not None)
        if not pool.failed.done():
            pool.failed.cancel()


async def _until_ready(pool: WorkerPool, model: LatencyModel, tell: Callable[[str, float], None]) -> None:
    """Wait until every worker is measured, or one fails on its example(). Raises what ends the start."""
    began = time.monotonic()
    while pool.by_state()["starting"] and not pool.fails_example:
        if pool.failed.done():
            pool.failed.result()
        tell(MEASURING if model.learned else LOADING, time.monotonic() - began)
        await asyncio.sleep(POLL_SECONDS)


def _example(pool: WorkerPool, handler: str) -> bytes:
    for handshake in pool.handshakes:
        if handshake.examples:
            return handshake.examples[0]
    raise TrialFailed(
        f"{handler} defines no example(), without which nothing can be measured: add\n\n"
        "def example():\n"
        "    return b'...'  # the body of a typical request"
    )


def send(port: int, body: bytes, seconds: float, timeout: float) -> list[Exchange]:
    """POST ``body`` to this port for ``seconds``, one after the other, until an answer is an error.

    At least once; ``timeout`` in seconds is each answer's. Raises ``OSError`` or ``HTTPException`` for none.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    exchanges: list[Exchange] = []
    ends = time.monotonic() + seconds
    try:
        while not exchanges or (time.monotonic() < ends and exchanges[-1].answer.status < 400):
            began = time.monotonic()
            connection.request("POST", "/", body)
            response = connection.getresponse()
            answer = Answer(response.status, response.getheader("Content-Type", ""), response.read())
            waited = float(response.getheader("X-Queue-Seconds", "0"))
            exchanges.append(Exchange(answer, time.monotonic() - began, waited))
    finally:
        connection.close()
    return exchanges
