"""The composition root: builds the watchdog in the order in which its parts need each other, and runs it.

Owns the life of the process: sockets, signals, the lock file, the order of shutdown
(docs/reference/workers.md). It makes no decision about a request.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from batching_watchdog import __version__
from batching_watchdog.config import Config, ignored
from batching_watchdog.engine.capacity import Capacity
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.streams import Streams
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.errors import HandlerNotLoaded, ShuttingDown, StartFailed, WatchdogError
from batching_watchdog.front.connections import Connections, Limits
from batching_watchdog.front.loop_lag import LoopLag
from batching_watchdog.front.metrics_page import MetricsPage
from batching_watchdog.front.protocol import HttpProtocol
from batching_watchdog.front.routes import Front
from batching_watchdog.front.weight import WeightFunction, load_weight
from batching_watchdog.function.event import Event
from batching_watchdog.function.messages import Failure
from batching_watchdog.observe import logs
from batching_watchdog.observe.metrics import Exposition, Metrics
from batching_watchdog.observe.spans import Tracer
from batching_watchdog.pool.child import reap_orphans
from batching_watchdog.pool.supervisor import WorkerPool
from batching_watchdog.process import output
from batching_watchdog.process.machine import (
    THREAD_VARIABLES,
    available_cpus,
    cuda_devices,
    memory_limit,
    open_files,
)
from batching_watchdog.process.quota import Held
from batching_watchdog.shell import Shell

log = logging.getLogger(__name__)

BACKLOG: Final = 4096
SWEEP_SECONDS: Final = 1.0
ESTIMATE_SECONDS: Final = 5.0
"""Between two searches for the capacity, at least: there is none while the curves stay."""
SEARCH_SHARE: Final = 0.1
"""Share of the CPU quota that a search may take: at a quarter of a core, requests would wait for it."""
QUOTA_SECONDS: Final = 1.0
"""Between two readings of the CPU quota."""
PAUSE_SECONDS: Final = 0.01
"""Least time between two steps of a search, for the requests."""
FLUSH_SECONDS: Final = 0.5
"""After ``drain_timeout``: what the refusals of all that is left get to leave in."""
PROBE_AFTER_SECONDS, PROBE_EVERY_SECONDS, PROBES = 60, 15, 4
"""Seconds of silence until a client is probed, between probes, and how many it may leave unanswered."""
YOUNG_OBJECTS: Final = 50_000
"""How many more objects than before there must be until the collector looks for cycles: a request leaves
none, and a queue of a thousand is no reason to walk it again and again."""
OTLP_PROTOCOL: Final = "http/protobuf"
"""The one in which the extra ``otel`` sends."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""For mallopt (malloc.h), which takes at most 32 MiB as threshold for mapping."""
METRICS_LIMITS: Final = Limits(
    max_body_bytes=0, read_timeout=10.0, write_timeout=10.0, max_queued_bytes=1 << 22, max_connections=32
)


def main(environ: Mapping[str, str]) -> int:
    """Run a watchdog configured by ``environ`` until a signal ends it; the exit status.

    What stops the start is a line on stderr, after the traceback of the function's code if that is at fault.
    """
    lines_dropped = output.install()
    try:
        config = configured(environ)
        logs.set_up(config.log_format)
        for line in ignored(environ):
            log.warning("%s", line)
        weight = load_weight(Path(config.function_path))
        keep_freed_memory(environ, config.kept_bytes)
        return uvloop.run(run(config, environ, lines_dropped, weight))
    except WatchdogError as error:
        if isinstance(error, HandlerNotLoaded) and error.trace:
            log.error(Failure("the function's code cannot be loaded", error.trace))
        sys.stderr.write(f"batching-watchdog: {logs.printable(str(error))}\n")
        return error.exit_status


@dataclass(frozen=True, slots=True)
class Watchdog:
    """The parts of a watchdog that is built and not started."""

    shell: Shell
    pool: WorkerPool
    front: Front
    requests: Connections
    """Of the function's port, which nothing listens on yet."""
    metrics: Metrics


def configured(environ: Mapping[str, str]) -> Config:
    """Return the settings of ``environ`` on this machine. Raises ``ConfigError``."""
    return Config.from_env(
        environ,
        cpus=available_cpus(),
        devices=cuda_devices(environ),
        files=open_files(),
        memory=memory_limit(),
    )


def build(
    config: Config,
    environ: Mapping[str, str],
    lines_dropped: Callable[[], int] = lambda: 0,
    own_weight: Callable[[Event], Any] | None = None,
    telemetry: Tracer | None = None,
    choose: Callable[[Sequence[bytes]], Sequence[bytes]] = lambda examples: examples,
) -> Watchdog:
    """Build the parts in the order in which they need each other, for the loop that runs.

    ``own_weight``: the function's weight(event). ``telemetry``: takes the spans; None: there are none.
    ``choose``: returns the bodies to measure at the start, given those of the handler's example().
    """
    clock, cpus = time.monotonic, available_cpus()
    cost = CostModel(config.max_batch_size)
    capacity = Capacity(cost, config.workers, config.slo_latency, config.slo_objective, cpus)
    metrics = Metrics(config.slos, capacity)
    tightest = min(target.latency for target in config.slos.values())
    engine = Engine(
        cost,
        max_inflight=config.max_inflight,
        max_batch_bytes=config.max_batch_bytes,
        workers=config.workers,
        shed_late=config.shed_late,
        lead=TUNING.lead,
        cpus=cpus,
        tightest=tightest,
        best_effort=CostModel(config.max_batch_size),
    )

    def streams(closed: bool) -> Streams:
        return Streams(
            config.slos,
            max_inflight=config.max_inflight,
            max_streams=config.max_streams,
            workers=config.workers,
            shed_late=config.shed_late,
            closed=closed,
        )

    shell = Shell(clock, engine, cost, metrics, telemetry, streams)
    pool = WorkerPool(config, environ, shell, cost.overall, choose)
    front = Front(
        config,
        shell,
        metrics,
        clock,
        not_ready=lambda: pool.not_ready,
        weight=WeightFunction(own_weight, metrics) if own_weight else None,
        tracer=telemetry,
    )
    limits = Limits(
        config.max_body_bytes,
        config.read_timeout,
        config.write_timeout,
        config.max_queued_bytes,
        config.max_connections,
    )
    loop_lag = LoopLag(asyncio.get_running_loop(), clock, pool.poll_workers)
    requests = Connections(front, limits, clock, loop_lag, lambda paused: pool.pause_answers(paused=paused))
    metrics.cpu = lambda: (clock(), time.thread_time())
    metrics.gauges = {
        "queue_length": lambda: shell.queued,
        "workers": pool.by_state,
        "worker_restarts": lambda: pool.restarts,
        "workers_recycled": lambda: pool.recycled,
        "workers_sick": lambda: pool.sick,
        "batch_ceiling": lambda: cost.ceiling,
        "worker_resident_bytes": pool.resident_bytes,
        "log_lines_dropped": lines_dropped,
        "spans": dict if telemetry is None else telemetry.counts,
    }
    return Watchdog(shell, pool, front, requests, metrics)


async def run(
    config: Config,
    environ: Mapping[str, str],
    lines_dropped: Callable[[], int],
    own_weight: Callable[[Event], Any] | None = None,
) -> int:
    """Build, start, serve until the first signal, drain; the exit status."""
    telemetry = start_telemetry(config, environ, time.monotonic)
    built = build(config, environ, lines_dropped, own_weight, telemetry)
    shell, pool, front, requests = built.shell, built.pool, built.front, built.requests
    scrapes = Connections(MetricsPage(Exposition(built.metrics)), METRICS_LIMITS, time.monotonic)
    signals = asyncio.Queue[int]()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, signals.put_nowait, signum)

    periodic = [
        asyncio.create_task(
            _sweep(requests, scrapes, owns=pool.owns, keep_alive=front.keep_alive), name="sweep"
        ),
        asyncio.create_task(_estimate(built.metrics.capacity), name="estimate"),
        asyncio.create_task(_follow_quota(config, environ, pool, shell), name="quota"),
    ]
    try:
        async with _healthy(config, requests, scrapes) as (listener, port, metrics_port):
            pool.start()
            log.info(
                "batching-watchdog %s listens on %s, metrics on %s: "
                "slo_latency %gs, workers %d, worker_threads %d",
                __version__,
                url(config.host, port),
                url(config.host, metrics_port),
                config.slo_latency,
                config.workers,
                config.worker_threads,
            )
            freeze_gc()
            stopping = asyncio.ensure_future(signals.get())
            await asyncio.wait((stopping, pool.failed), return_when=asyncio.FIRST_COMPLETED)
            if pool.failed.done():
                stopping.cancel()
                await pool.stop(at_once=True)
                pool.failed.result()
            front.healthy = False
            pool.drain()
        draining = asyncio.create_task(
            _drain(config, stopping.result(), front, shell, requests, listener), name="drain"
        )
        hurried = asyncio.ensure_future(signals.get())
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            log.warning("second signal: ending at once, %d requests are cut off", shell.admitted)
            draining.cancel()
            await pool.stop(at_once=True)
            return 1
        hurried.cancel()
        clean = draining.result()
        await pool.stop()
        return 0 if clean else 1
    finally:
        for task in periodic:
            task.cancel()
        requests.abort()
        scrapes.abort()
        if not pool.failed.done():
            pool.failed.cancel()
        if telemetry is not None:
            telemetry.close()


def start_telemetry(config: Config, environ: Mapping[str, str], clock: Callable[[], float]) -> Tracer | None:
    """Start what sends spans, if the environment asks for it; None, and a line in the log, if it cannot.

    The variables are the handler's, too, so what the watchdog cannot do with them is no reason to stop.
    """
    if not config.traces:
        return None
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environ[name] for name in names if environ.get(name)), OTLP_PROTOCOL)
    if protocol != OTLP_PROTOCOL:
        log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=%r: must be %s, so the watchdog sends no spans; the "
            "endpoint must be one for HTTP then",
            protocol,
            OTLP_PROTOCOL,
        )
        return None
    try:
        from batching_watchdog.observe.otel import OpenTelemetry  # noqa: PLC0415 - an extra, where it is used

        return OpenTelemetry(clock, environ)
    except ImportError as error:
        log.warning(
            "OTEL_* variables ask for spans, and the watchdog sends none: its extra otel is not installed "
            "(%s); build the image with --build-arg OTEL=true, or elsewhere install batching-watchdog[otel]; "
            "OTEL_TRACES_EXPORTER=none ends this warning",
            error,
        )
    except Exception:  # whatever the SDK, its samplers or a certificate's file may raise
        log.exception("OpenTelemetry does not start with these OTEL_* variables: the watchdog sends no spans")
    return None


def keep_freed_memory(environ: Mapping[str, str], kept: int) -> None:
    """Have the memory of large bodies kept for the next ones: to map it anew costs more than to copy them.

    Up to ``kept`` bytes are kept. glibc only, and left alone where ``GLIBC_TUNABLES`` is set.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "GLIBC_TUNABLES" not in environ:
        mallopt(_MMAP_THRESHOLD, kept // 2)
        mallopt(_TRIM_THRESHOLD, kept)


def freeze_gc() -> None:
    """Freeze start-up objects so that garbage collection skips them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


async def _drain(
    config: Config,
    signum: int,
    front: Front,
    shell: Shell,
    requests: Connections,
    listener: asyncio.Server,
) -> bool:
    """Drain in of-watchdog's order, but leave the workers alone. False if requests had to be cut off."""
    # After Ctrl-C no platform checks our health, so it need not fail first.
    wait = 0.0 if signum == signal.SIGINT else config.healthcheck_interval
    log.info("stopping: failing health checks, still serving for %g s", wait)
    await asyncio.sleep(wait)
    listener.close()
    await asyncio.sleep(0)  # what was accepted already becomes a connection
    front.accepting = False
    requests.drain()
    shell.give_up(ShuttingDown("of best effort, and the watchdog is shutting down"), best_effort=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(config.drain_timeout):
            await requests.drained()
    given_up = shell.admitted
    shell.give_up(ShuttingDown(f"not answered within {config.drain_timeout:g} s of shutting down"))
    requests.drain(at_once=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_SECONDS):
            await requests.drained()
    if given_up or requests.unread:
        log.error(
            "%g s were not enough: %d requests got 503, %d connections are cut with answers unread",
            config.drain_timeout,
            given_up,
            requests.unread,
        )
        return False
    log.info("drained: every admitted request was answered, and every answer was sent")
    return True


@contextlib.contextmanager
def _lock_file() -> Iterator[None]:
    """Hold ``/tmp/.lock`` (TMPDIR is honored): what exec probes and the image's HEALTHCHECK look for."""
    path = Path(tempfile.gettempdir()) / ".lock"
    try:
        path.write_bytes(b"")
    except OSError as error:
        # HTTP probes do not need it, so a read-only /tmp must not stop the function.
        log.warning("the lock file cannot be written, exec health probes will fail: %s", error)
        yield  # what is there instead is not ours to remove
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # nor may it stop the drain
            path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _healthy(
    config: Config, requests: Connections, scrapes: Connections
) -> AsyncIterator[tuple[asyncio.Server, int, int]]:
    """Open both listeners; hold the lock file until the block ends. The listeners outlive it.

    Yields that for requests, and the ports of both.

    Listen before creating the file: if the port is taken, the file belongs to the other process. Accept
    connections last: a healthy answer implies that the file exists.
    """
    listener, port = await _listener(requests, config.host, "port", config.port)
    scrape_listener, metrics_port = await _listener(scrapes, config.host, "metrics_port", config.metrics_port)
    with _lock_file():
        await listener.start_serving()
        await scrape_listener.start_serving()
        yield listener, port, metrics_port


async def _listener(
    connections: Connections, host: str, variable: str, port: int
) -> tuple[asyncio.Server, int]:
    """Return a listener that accepts nothing yet, and its port. Raises ``StartFailed``."""
    try:
        listening = listening_socket(port, host)
    except OSError as error:
        named = f"host={host} {variable}={port}" if host else f"{variable}={port}"
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise StartFailed(f"{named}: cannot listen on it: {reason}") from error
    port = listening.getsockname()[1]  # uvloop's servers do not always tell their sockets
    server = await asyncio.get_running_loop().create_server(
        partial(HttpProtocol, connections), sock=listening, backlog=BACKLOG, start_serving=False
    )
    return server, port


def url(host: str, port: int) -> str:
    """Return the URL of a port of ours; without a host, which is none of its own, the port alone."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}" if host else str(port)


def listening_socket(port: int, host: str = "") -> socket.socket:
    """A socket on ``host``; without one on all interfaces: containers are reached from outside.

    Those are of IPv4 and IPv6, as of-watchdog's. Raises ``OSError``. asyncio would make one socket for each
    family, which differ if ``port`` is 0. Connections inherit the probes for clients that have vanished.
    """
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # else the system's, two hours
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_SECONDS)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_SECONDS)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    return listening


def pause(used: float, cpus: float) -> float:
    """Return the seconds between a step of a search that took ``used`` CPU seconds and the next."""
    return max(PAUSE_SECONDS, used / (SEARCH_SHARE * cpus))


async def _estimate(capacity: Capacity) -> None:
    told = False
    while True:
        cpus, since = capacity.cpus, time.thread_time()
        for _ in capacity.estimate():
            used = time.thread_time() - since
            capacity.search_seconds += used
            await asyncio.sleep(pause(used, cpus))
            if capacity.cpus != cpus:
                break  # what was searched is of other cores
            since = time.thread_time()
        else:
            await asyncio.sleep(ESTIMATE_SECONDS)
        alone = capacity.times.overall.own.alone
        if alone > capacity.slo_latency and not told:
            told = True
            log.warning(
                "one request alone takes %.3g s, longer than slo_latency (%g s): all will be late, with any"
                " number of replicas; raise slo_latency, or make the model faster",
                alone,
                capacity.slo_latency,
            )


async def _follow_quota(config: Config, environ: Mapping[str, str], pool: WorkerPool, shell: Shell) -> None:
    """Give the workers what the CPU quota allows now: an autoscaler may change it for seconds."""
    own_threads = any(environ.get(variable) for variable in THREAD_VARIABLES)
    held = Held()
    while True:
        cpus = available_cpus()
        workers, threads = config.asked.counts(held.read(cpus, time.monotonic()))
        threads = config.worker_threads if own_threads else threads
        shell.resize(pool.resize(workers, threads), cpus)
        await asyncio.sleep(QUOTA_SECONDS)


async def _sweep(
    *listeners: Connections, owns: Callable[[int], bool], keep_alive: Callable[[], None]
) -> None:
    """Cut timed-out connections, keep streams alive and reap orphans every second, until cancelled."""
    while True:
        for connections in listeners:
            connections.sweep(time.time())
        keep_alive()
        reap_orphans(owns)
        await asyncio.sleep(SWEEP_SECONDS)
