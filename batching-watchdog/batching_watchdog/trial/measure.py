"""Runs a handler as production does, with worker processes, and measures it.

Owns the order: load, profile (``pool.profile``, as at every start), then example() over HTTP for a second,
one request at a time, so that the watchdog estimates its own CPU time too; then all bodies together, if there
are several. All parts are ``app``'s. ``streams`` has the order of a function that streams.
"""

import asyncio
import http.client
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, Final

from batching_watchdog import app, wire
from batching_watchdog.config import Config
from batching_watchdog.engine.capacity import READ_SECONDS
from batching_watchdog.engine.effects import Answer as Effect
from batching_watchdog.errors import TrialFailed
from batching_watchdog.folder import Source
from batching_watchdog.front.weight import WeightFunction
from batching_watchdog.function import Event
from batching_watchdog.machine import available_cpus
from batching_watchdog.messages import DEFAULT_CLASS, Request
from batching_watchdog.pool.supervisor import WorkerPool
from batching_watchdog.shell import Shell
from batching_watchdog.trial import report
from batching_watchdog.trial.report import Alone, Answer, Examples, Native, Promise, StreamTrial, Trial
from batching_watchdog.trial.streams import Rounds

LOADING, MEASURING = "loading the handler", "measuring batches of example()"
SENDING, MIXING = "sending example()", "serving the mix"
"""Activities, for the progress line."""
POLL_SECONDS: Final = 0.01
SEND_SECONDS: Final = 1.2 * READ_SECONDS
"""Time for which example() is sent, one request after the other."""
MIX_SECONDS: Final = 4.0
"""Time for which several bodies are served."""
HEAD: Final = wire.request_header_block(b"POST", b"/", [])


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
    source: Source,
    given: Sequence[bytes],
    tell: Callable[[str, float], None],
) -> Trial | StreamTrial:
    """Load the handler of ``config``, measure it, and stop all processes again.

    ``given`` replaces the bodies of example(); without either the body is empty. ``tell`` gets the activity
    and its seconds, several times per second. Raises ``HandlerNotLoaded``, ``StartFailed``, and
    ``TrialFailed`` for a handler that does not serve a body.
    """
    handler, loaded = source.handler, False

    def first_body(examples: Sequence[bytes]) -> Sequence[bytes]:
        """Return the body to measure on a worker that has loaded: the mix is measured under load."""
        nonlocal loaded
        loaded = True
        return _bodies(given, examples)[:1]

    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    watchdog = app.build(config, environ, own_weight=own_weight, choose=first_body)
    pool = watchdog.pool
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(watchdog.requests.protocol, sock=listener)
    try:
        pool.start()
        metrics, cpus = watchdog.metrics, available_cpus()
        times = metrics.capacity.times.overall
        await until_ready(pool, handler, lambda seconds: tell(MEASURING if loaded else LOADING, seconds))
        largest = max(pool.handshakes, key=lambda handshake: handshake.load_seconds)
        bodies = _bodies(given, largest.examples)
        examples = Examples(len(bodies), *_extremes(bodies), own=bool(largest.examples), given=bool(given))
        if metrics.streams is not None:
            ended = await Rounds(handler, watchdog.shell, metrics.streams, config, bodies, tell).run()
            (exchange,) = await _sent(port, bodies[0], 0.0, config, handler)
            streams, first = metrics.streams, ended[0]
            return StreamTrial(
                handler=handler,
                workers=config.workers,
                target=metrics.slos[DEFAULT_CLASS],
                slo_from=source.slo_from,
                import_seconds=largest.import_seconds,
                load_seconds=largest.load_seconds,
                resident_bytes=max(pool.resident_bytes().values(), default=0),
                closed=largest.closed,
                examples=examples,
                answer=exchange.answer,
                alone=first.ended - first.began,
                first_piece=first.first_at - first.began,
                starts=report.batch_costs(streams.start),
                steps=report.batch_costs(streams.step),
                streams=len(ended),
                pieces=fmean(stream.pieces for stream in ended),
                steady=streams.steady(),
                ceiling=streams.step.ceiling if streams.step.ceiling < config.max_streams else 0,
                busy=busy,
            )
        metrics.requests_per_second()  # begins to count the CPU time of the front end
        tell(SENDING, 0.0)
        exchanges = await _sent(port, bodies[0], SEND_SECONDS, config, handler)
        metrics.requests_per_second()
        worker = metrics.service_seconds.total / max(1, sum(metrics.service_seconds.counts))
        alone = Alone(
            total=fmean(exchange.seconds for exchange in exchanges),
            wait=fmean(exchange.queue_seconds for exchange in exchanges),
            worker=worker,
            worker_cpu=metrics.capacity.cost.worker.predict_mean(1),
        )

        def promise(slo_latency: float) -> Promise:
            return report.promise_within(
                slo_latency,
                metrics.capacity.times.mix,
                metrics.capacity.cost,
                workers=config.workers,
                objective=config.slo_objective,
                cpus=cpus,
            )

        batches, uniform = report.batch_costs(times), promise(config.slo_latency)
        if len(bodies) > 1:
            tell(MIXING, 0.0)
            for body in bodies[1:]:
                await _sent(port, body, 0.0, config, handler)
            weight = WeightFunction(own_weight, metrics, time.monotonic) if own_weight else None
            await Mix(watchdog.shell, config, weight, bodies).serve(MIX_SECONDS)
        return Trial(
            handler=handler,
            workers=config.workers,
            slo_objective=config.slo_objective,
            slo_from=source.slo_from,
            import_seconds=largest.import_seconds,
            load_seconds=largest.load_seconds,
            resident_bytes=max(pool.resident_bytes().values(), default=0),
            batched=largest.batched,
            native=native(largest.pid),
            cpus=cpus,
            examples=examples,
            answer=exchanges[-1].answer,
            alone=alone,
            batches=batches,
            uniform=uniform,
            promise=promise(config.slo_latency) if len(bodies) > 1 else uniform,
            others=tuple(promise(target) for target in report.TARGETS),
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


def _bodies(given: Sequence[bytes], examples: Sequence[bytes]) -> Sequence[bytes]:
    """Return the bodies to measure: at least one."""
    return given or examples or (b"",)


def _extremes(bodies: Sequence[bytes]) -> tuple[int, int]:
    lengths = [len(body) for body in bodies]
    return min(lengths), max(lengths)


async def _sent(port: int, body: bytes, seconds: float, config: Config, handler: str) -> list[Exchange]:
    """Send ``body`` for ``seconds``. Raises ``TrialFailed`` unless the handler serves it."""
    try:
        exchanges = await asyncio.to_thread(send, port, body, seconds, 2 * config.exec_timeout)
    except (OSError, http.client.HTTPException) as error:
        raise TrialFailed(f"{handler}: its example() got no answer over HTTP: {error!r}") from error
    answer = exchanges[-1].answer
    if answer.status >= 400:
        raise TrialFailed(report.rejection(handler, answer))
    return exchanges


@dataclass(slots=True)
class Mix:
    """Offers bodies in random order to the engine, as many at a time as are answered within the SLO.

    So the engine learns the cost of this mix as it does in production, where it batches like with like.
    """

    shell: Shell
    config: Config
    weight: WeightFunction | None
    bodies: Sequence[bytes]
    _open: int = 0
    _wanted: int = 0
    """Requests to keep open."""
    _answered: int = 0
    """Answers since ``_wanted`` last changed."""
    _worst: float = 0.0
    """The longest latency of these, in seconds."""
    _answered_all: asyncio.Event = field(default_factory=asyncio.Event)
    _ids: Iterator[int] = field(default_factory=lambda: count(-2, -1))
    """Below those of the front end's requests."""
    _draw: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - the same mix in each trial

    async def serve(self, seconds: float) -> None:
        """Offer bodies for this time, and wait for the answers."""
        self._wanted = 2 * self.config.workers
        self._fill()
        await asyncio.sleep(seconds)
        self._wanted = 0
        await self._answered_all.wait()

    def _fill(self) -> None:
        for _ in range(self._wanted - self._open):
            self._offer()

    def _offer(self) -> None:
        body, now = self._draw.choice(self.bodies), time.monotonic()
        bucket = len(body).bit_length() if self.weight is None else self.weight.bucket(HEAD, body)
        self._open += 1
        self.shell.offer(
            Request(
                next(self._ids),
                HEAD,
                body,
                arrived=now,
                deadline=now + self.config.slo_latency,
                expires=now + self.config.exec_timeout,
                cost_class=(b"", b"POST /", bucket),
                client=self,
            )
        )

    def deliver(self, answer: Effect) -> None:
        """Count an answer; every so often adapt the number of open requests."""
        self._open -= 1
        if not (self._open or self._wanted):
            self._answered_all.set()
        self._answered += 1
        self._worst = max(self._worst, time.monotonic() - answer.request.arrived)
        if self._wanted and self._answered >= 2 * self._wanted:
            if self._worst < self.config.slo_latency / 2:
                self._wanted = min(2 * self._wanted, max(1, self.config.max_inflight // 2))
            elif self._worst > self.config.slo_latency:
                self._wanted = max(self.config.workers, self._wanted // 2)
            self._answered, self._worst = 0, 0.0
        asyncio.get_running_loop().call_soon(self._fill)


def native(pid: int, proc: Path = Path("/proc")) -> Native | None:
    """Return the native library with a thread pool of its own in this process, and its threads."""
    try:
        maps = (proc / str(pid) / "maps").read_text()
        threads = len(list((proc / str(pid) / "task").iterdir()))
    except OSError:  # it has ended, or there is no such file system
        return None
    library = next((name for name in report.POOLS if f"/{name}/" in maps), None)
    return None if library is None else Native(library, threads)


async def until_ready(pool: WorkerPool, handler: str, tell: Callable[[float], None] = lambda _: None) -> None:
    """Wait until every worker is measured; ``tell`` gets the seconds, several times per second.

    Raises what ends the start, and ``TrialFailed`` if the handler fails on the first body.
    """
    began = time.monotonic()
    while pool.by_state()["starting"] and not pool.fails_example:
        if pool.failed.done():
            pool.failed.result()
        tell(time.monotonic() - began)
        await asyncio.sleep(POLL_SECONDS)
    if pool.fails_example:
        raise TrialFailed(
            f"{handler} fails on its own example(), for the reason above: mend the handler, or what "
            "example() returns. Without example(), name a body by --body FILE\n"
            "next: without a reason above, see that it does not call os._exit()"
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
