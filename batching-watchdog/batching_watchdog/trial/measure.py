"""Runs a handler as production does, with worker processes, and measures it.

Owns the order: load, profile (``pool.profile``, as at every start), then example() over HTTP for a second,
one request at a time, so that the watchdog estimates its own CPU time too; then all bodies together, if there
are several. All parts are ``app``'s; ``load`` offers the mix, or streams.
"""

import asyncio
import http.client
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, Final

from batching_watchdog import app
from batching_watchdog.config import Config, ignored
from batching_watchdog.engine.capacity import READ_SECONDS
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import TrialFailed
from batching_watchdog.folder import Source
from batching_watchdog.front.weight import WeightFunction
from batching_watchdog.function import Event
from batching_watchdog.machine import available_cpus
from batching_watchdog.pool.supervisor import WorkerPool
from batching_watchdog.trial import report
from batching_watchdog.trial.load import Mix, Offered, Rounds
from batching_watchdog.trial.report import Batches, Streams, Trial

LOADING: Final = "loading the handler"
POLL_SECONDS: Final = 0.01
SEND_SECONDS: Final = 1.2 * READ_SECONDS
"""Time for which example() is sent, one request after the other."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as the client sees them. Durations are seconds."""

    status: int
    content_type: str
    body: str
    """The beginning."""
    seconds: float
    queue_seconds: float


async def measure(
    config: Config,
    own_weight: Callable[[Event], Any] | None,
    source: Source,
    given: Sequence[bytes],
    tell: Callable[[str], None],
) -> Trial:
    """Load the handler of ``config``, measure it, and stop all processes again.

    ``given`` replaces the bodies of example(); without either the body is empty. ``tell`` gets activities.
    Raises ``HandlerNotLoaded``, ``StartFailed``, and ``TrialFailed`` if the handler does not serve a body.
    """

    def chosen(examples: Sequence[bytes]) -> Sequence[bytes]:
        """Return the body to measure on a worker that has loaded: the mix is measured under load."""
        tell("measuring batches of example()")
        return (given or examples or (b"",))[:1]

    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    tell(LOADING)
    watchdog = app.build(config, source.environ, own_weight=own_weight, choose=chosen)
    pool, metrics = watchdog.pool, watchdog.metrics
    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(watchdog.requests.protocol, sock=listener)
    send = partial(_sent, listener.getsockname()[1], config, source.handler)
    weight = WeightFunction(own_weight, metrics, time.monotonic) if own_weight else None
    offered = Offered(watchdog.shell, config, weight)
    served = False
    try:
        pool.start()
        await _until_ready(pool, source.handler)
        largest = max(pool.handshakes, key=lambda handshake: handshake.load_seconds)
        bodies = given or largest.examples or (b"",)
        measured: Batches | Streams
        if metrics.streams is not None:
            model = metrics.streams.step
            ended = await Rounds(source.handler, offered, metrics.streams, bodies, tell).run()
            answer = (await send(bodies[0], 0.0))[0]
            first, steady = ended[0], metrics.streams.steady()
            measured = Streams(
                slo_interval=config.slo_interval,
                closed=largest.closed,
                starts=report.costs(metrics.streams.start),
                steps=report.costs(model),
                total_seconds=first.ended - first.began,
                first_piece_seconds=first.first_at - first.began,
                streams=len(ended),
                pieces=fmean(stream.pieces for stream in ended),
                streams_per_second=steady.rate,
                concurrency=steady.concurrency,
            )
        else:
            model, cpus = metrics.capacity.times.overall, available_cpus()
            metrics.requests_per_second()  # begins to count the CPU time of the front end
            tell("sending example()")
            exchanges = await send(bodies[0], SEND_SECONDS)
            metrics.requests_per_second()
            answer, service = exchanges[-1], metrics.service_seconds
            worker_seconds = service.total / max(1, sum(service.counts))

            def promise(slo_latency: float) -> report.Promise:
                return report.promise_within(
                    slo_latency,
                    metrics.capacity.times.mix,
                    metrics.capacity.cost,
                    workers=config.workers,
                    objective=config.slo_objective,
                    cpus=cpus,
                )

            batches, uniform = report.costs(model), promise(config.slo_latency)
            if len(bodies) > 1:
                tell("serving the mix")
                for body in bodies[1:]:
                    await send(body, 0.0)
                await Mix(offered, bodies).serve()
            mixed = promise(config.slo_latency)
            measured = Batches(
                batched=largest.batched,
                split=pool.split,
                batches=batches,
                total_seconds=fmean(exchange.seconds for exchange in exchanges),
                queue_seconds=fmean(exchange.queue_seconds for exchange in exchanges),
                worker_seconds=worker_seconds,
                requests_per_second=mixed.rate,
                batch_size=mixed.batch_size,
                uniform_requests_per_second=uniform.rate,
                others=tuple(map(promise, report.TARGETS)),
            )
        served = True
        return Trial(
            handler=source.handler,
            workers=config.workers,
            slo_latency=config.slo_latency,
            slo_objective=config.slo_objective,
            slo_from=source.slo_from,
            import_seconds=largest.import_seconds,
            load_seconds=largest.load_seconds,
            resident_bytes=max(pool.resident_bytes().values(), default=0),
            typical=bool(given or largest.examples),
            bodies=tuple(map(len, bodies)),
            status=answer.status,
            content_type=answer.content_type,
            body=answer.body,
            ceiling=_ceiling(model),
            busy=busy,
            ignored=ignored(source.environ),
            measured=measured,
        )
    finally:
        server.close()
        watchdog.requests.abort()
        await pool.stop(at_once=not served)
        if not pool.failed.done():
            pool.failed.cancel()


def _ceiling(model: LatencyModel) -> int:
    return model.ceiling if model.ceiling < model.max_batch_size else 0


async def _until_ready(pool: WorkerPool, handler: str) -> None:
    """Wait until every worker is measured; raise what ends the start, or ``TrialFailed``."""
    while pool.by_state()["starting"] and not pool.fails_example:
        if pool.failed.done():
            pool.failed.result()
        await asyncio.sleep(POLL_SECONDS)
    if pool.fails_example:
        raise TrialFailed(
            f"{handler} fails on its own example(), for the reason above (without one, it may call "
            "os._exit()): mend the handler, or what example() returns, or name a body by --body FILE"
        )


async def _sent(port: int, config: Config, handler: str, body: bytes, seconds: float) -> list[Exchange]:
    """Send ``body`` for ``seconds``. Raises ``TrialFailed`` unless the handler serves it."""
    try:
        exchanges = await asyncio.to_thread(_send, port, body, seconds, 2 * config.exec_timeout)
    except (OSError, http.client.HTTPException) as error:
        raise TrialFailed(f"{handler}: its example() got no answer over HTTP: {error!r}") from error
    last = exchanges[-1]
    if last.status >= 400:
        raise TrialFailed(
            f"{handler} answers its own example() with {last.status}: {last.body}\nHave example() return a "
            "body that the handler serves, or name one by --body FILE"
        )
    return exchanges


def _send(port: int, body: bytes, seconds: float, timeout: float) -> list[Exchange]:
    """POST ``body`` to this port for ``seconds``, one after the other, until an answer is an error.

    At least once; ``timeout`` in seconds is each answer's. Raises ``OSError`` or ``HTTPException`` for none.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    exchanges: list[Exchange] = []
    ends = time.monotonic() + seconds
    try:
        while not exchanges or (time.monotonic() < ends and exchanges[-1].status < 400):
            began = time.monotonic()
            connection.request("POST", "/", body)
            response = connection.getresponse()
            said = report.shown(response.read())
            took, waited = time.monotonic() - began, float(response.getheader("X-Queue-Seconds", "0"))
            exchanges.append(
                Exchange(response.status, response.getheader("Content-Type", ""), said, took, waited)
            )
    finally:
        connection.close()
    return exchanges
