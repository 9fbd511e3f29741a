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
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from statistics import fmean
from typing import Any, Final

from batching_watchdog import app
from batching_watchdog.config import Config, ignored
from batching_watchdog.engine.capacity import READ_SECONDS
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import TrialFailed
from batching_watchdog.front.protocol import HttpProtocol
from batching_watchdog.front.weight import WeightFunction
from batching_watchdog.function.event import Event
from batching_watchdog.function.folder import Source
from batching_watchdog.function.wire import Handshake
from batching_watchdog.pool.supervisor import WorkerPool
from batching_watchdog.process.machine import available_cpus
from batching_watchdog.trial import report
from batching_watchdog.trial.load import Mix, Offered, Rounds
from batching_watchdog.trial.report import BatchMeasurements, StreamMeasurements, Trial

LOADING: Final = "loading the handler"
EMPTY: Final = "an empty body (there is no example())"
POLL_SECONDS: Final = 0.01
ENOUGH: Final = 0.5
"""Share of the highest rate of any target. A target that allows it needs at most twice the replicas."""
SEND_SECONDS: Final = 1.2 * READ_SECONDS
"""Time for which example() is sent, one request after the other."""


@dataclass(frozen=True, slots=True)
class Sample:
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
    named = ["the body of the command line" if given else "its own example()"]

    def chosen(examples: Sequence[bytes]) -> Sequence[bytes]:
        """Return the body to measure on a worker that has loaded: the mix is measured under load."""
        if not given and not examples:
            named.append(EMPTY)
        tell(f"measuring batches of {named[-1]}")
        return (given or examples or (b"",))[:1]

    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    if busy_line := report.busy_machine(busy):
        tell(f"BUSY: {busy_line}")
    tell(LOADING)
    watchdog = app.build(config, source.environ, own_weight=own_weight, choose=chosen)
    pool = watchdog.pool
    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(
        partial(HttpProtocol, watchdog.requests), sock=listener
    )
    served = False
    try:
        pool.start()
        await _until_ready(pool, source.handler, named)
        largest = max(pool.handshakes, key=lambda handshake: handshake.load_seconds)
        weight = WeightFunction(own_weight, watchdog.metrics) if own_weight else None
        subject = _Subject(
            source.handler,
            config,
            watchdog,
            largest,
            given or largest.examples or (b"",),
            named[-1],
            listener.getsockname()[1],
            Offered(watchdog.shell, config, weight),
            tell,
        )
        engine = watchdog.metrics.streams
        measured, answer = await (subject.batches() if engine is None else subject.streams(engine))
        model = watchdog.metrics.capacity.times.overall if engine is None else engine.step
        served = True
        return Trial(
            handler=source.handler,
            workers=config.workers,
            slo_latency=config.slo_latency,
            slo_objective=config.slo_objective,
            slo_from=source.slo_from,
            import_seconds=largest.import_seconds,
            load_seconds=largest.load_seconds,
            loaded_twice=config.preload == "auto" and not largest.forked,
            resident_bytes=max(pool.resident_bytes().values(), default=0),
            typical=bool(given or largest.examples),
            bodies=tuple(map(len, subject.bodies)),
            status=answer.status,
            content_type=answer.content_type,
            body=answer.body,
            # A raised ceiling is a try.
            ceiling=min([model.ceiling, *model.sizes_learned()[-1:]])
            if model.ceiling < model.max_batch_size
            else 0,
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


@dataclass(frozen=True, slots=True)
class _Subject:
    """A handler whose workers are ready."""

    handler: str
    config: Config
    watchdog: app.Watchdog
    handshake: Handshake
    bodies: Sequence[bytes]
    named: str
    """What the first one is, for messages."""
    port: int
    offered: Offered
    tell: Callable[[str], None]

    async def streams(self, engine: Streams) -> tuple[StreamMeasurements, Sample]:
        """Run streams; return what they took, and the answer to the first body."""
        ended = await Rounds(self.handler, self.named, self.offered, engine, self.bodies, self.tell).run()
        answer = (await self._send(self.bodies[0], 0.0))[0]
        first, steady, metrics = ended[0], engine.steady(), self.watchdog.metrics
        measured = StreamMeasurements(
            slo_interval=self.config.slo_interval,
            closed=self.handshake.closed,
            starts=report.costs(engine.start),
            steps=report.costs(engine.step),
            total_seconds=first.ended - first.began,
            first_piece_seconds=first.first_at - first.began,
            streams=len(ended),
            pieces=fmean(stream.pieces for stream in ended),
            streams_per_second=metrics.requests_per_second(),
            concurrency=metrics.concurrency,
            step_seconds=_known(steady.step),
            starts_per_step=_known(steady.starts),
            start_seconds=_known(steady.start),
        )
        return measured, answer

    async def batches(self) -> tuple[BatchMeasurements, Sample]:
        """Send the bodies; return what they took, and the answer to the first one."""
        metrics = self.watchdog.metrics
        metrics.requests_per_second()  # begins to count the CPU time of the front end
        self.tell(f"sending {self.named}")
        samples = await self._send(self.bodies[0], SEND_SECONDS)
        metrics.requests_per_second()
        service = metrics.service_seconds
        worker_seconds = service.total / max(1, sum(service.counts))
        batches = report.costs(metrics.capacity.times.overall)
        uniform = self._promise(self.config.slo_latency)
        for body in self.bodies[1:]:
            await self._send(body, 0.0)
        self.tell("serving them together")
        await Mix(self.offered, self.bodies).serve()
        mixed = self._promise(self.config.slo_latency)
        measured = BatchMeasurements(
            batched=self.handshake.batched,
            split=self.watchdog.pool.split,
            batches=batches,
            total_seconds=fmean(sample.seconds for sample in samples),
            queue_seconds=fmean(sample.queue_seconds for sample in samples),
            worker_seconds=worker_seconds,
            requests_per_second=mixed.rate,
            batch_size=mixed.batch_size,
            uniform_requests_per_second=uniform.rate,
            enough=self._enough(),
        )
        return measured, samples[-1]

    def _enough(self) -> report.Promise | None:
        """A search takes seconds of CPU time, and the rate does not fall with the target: so a bisection."""
        targets, most = report.TARGETS, self._promise(report.TARGETS[-1]).rate
        index = bisect_left(targets, ENOUGH * most, key=lambda target: self._promise(target).rate)
        return self._promise(targets[min(index, len(targets) - 1)]) if most > 0.0 else None

    def _promise(self, slo_latency: float) -> report.Promise:
        capacity, config = self.watchdog.metrics.capacity, self.config
        return report.promise_within(
            slo_latency,
            capacity.times.mix,
            capacity.cost,
            workers=config.workers,
            objective=config.slo_objective,
            cpus=available_cpus(),
        )

    async def _send(self, body: bytes, seconds: float) -> list[Sample]:
        """Send ``body`` for ``seconds``. Raises ``TrialFailed`` unless the handler serves it."""
        try:
            samples = await asyncio.to_thread(send, self.port, body, seconds, 2 * self.config.exec_timeout)
        except (OSError, http.client.HTTPException) as error:
            raise TrialFailed(f"{self.handler}: {self.named} got no answer over HTTP: {error!r}") from error
        last = samples[-1]
        if last.status >= 400:
            raise TrialFailed(
                f"{self.handler} answers {self.named} with {last.status}: {last.body}\nHave example() "
                "return a body that the handler serves, or name one by --body FILE"
            )
        return samples


def _known(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return None if isnan(value) else value


async def _until_ready(pool: WorkerPool, handler: str, named: Sequence[str]) -> None:
    """Wait until every worker is measured; raise what ends the start, or ``TrialFailed``.

    ``named``: last the body that is measured.
    """
    while pool.by_state()["starting"] and not pool.fails_example:
        if pool.failed.done():
            pool.failed.result()
        await asyncio.sleep(POLL_SECONDS)
    if pool.fails_example:
        raise TrialFailed(
            f"{handler} fails on {named[-1]}, for the reason above (without one, it may call os._exit()): "
            "mend the handler, or what example() returns, or name a body by --body FILE"
        )


def send(port: int, body: bytes, seconds: float, timeout: float) -> list[Sample]:
    """POST ``body`` to this port for ``seconds``, one after the other, until an answer is an error.

    At least once; ``timeout`` in seconds is each answer's. Raises ``OSError`` or ``HTTPException`` for none.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    samples: list[Sample] = []
    ends = time.monotonic() + seconds
    try:
        while not samples or (time.monotonic() < ends and samples[-1].status < 400):
            began = time.monotonic()
            connection.request("POST", "/", body)
            response = connection.getresponse()
            said = report.shown(response.read())
            took, waited = time.monotonic() - began, float(response.getheader("X-Queue-Seconds", "0"))
            samples.append(
                Sample(response.status, response.getheader("Content-Type", ""), said, took, waited)
            )
    finally:
        connection.close()
    return samples
