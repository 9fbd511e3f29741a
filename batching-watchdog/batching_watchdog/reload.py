"""``batching-watchdog serve FOLDER``: serves a function on its author's machine, and again after each change.

A change starts a second watchdog behind the same port. Once its workers can serve, it gets the requests, and
the first one ends when it has answered its own. If the changed function cannot be loaded, or fails on its
example(), the first one goes on. Settings are those of ``try``; production has no part in this.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from batching_watchdog import app, logs
from batching_watchdog.app import Watchdog
from batching_watchdog.config import Config, ignored
from batching_watchdog.errors import HandlerNotLoaded, WatchdogError
from batching_watchdog.folder import Source, find, stack_files
from batching_watchdog.front.protocol import Application, Connections, Exchange
from batching_watchdog.front.routes import MetricsPage
from batching_watchdog.front.weight import load_weight
from batching_watchdog.machine import available_cpus
from batching_watchdog.messages import Failure
from batching_watchdog.metrics import Exposition
from batching_watchdog.trial import report
from batching_watchdog.trial.measure import until_ready

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.3
"""Between two looks at the files."""
DESCRIPTION: Final = """\
Serves the function in FOLDER on this machine, with the settings that it is deployed with: from the
environment, then from the stack file (stack.yaml or stack.yml in a folder above FOLDER) whose function has
FOLDER as its handler. The port is the setting `port` [8080]. Ctrl-C answers what has arrived, and ends.
"""


@dataclass(slots=True)
class Newest:
    """The application that serves new requests; open connections follow a change."""

    application: Application

    @property
    def captured_headers(self) -> frozenset[bytes]:
        """Return those of the application."""
        return self.application.captured_headers

    @property
    def always_served(self) -> frozenset[bytes]:
        """Return those of the application."""
        return self.application.always_served

    def refuse(self, exchange: Exchange) -> WatchdogError | None:
        """Ask the application."""
        return self.application.refuse(exchange)

    def handle(self, exchange: Exchange) -> None:
        """Give the application a request, which it keeps until its answer."""
        self.application.handle(exchange)

    def answer_error(self, exchange: Exchange, error: WatchdogError) -> None:
        """Have the application end a request."""
        self.application.answer_error(exchange, error)


def main(arguments: Sequence[str]) -> int:
    """Serve the function that ``arguments`` name until a signal ends it, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="batching-watchdog serve",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the function")
    parser.add_argument(
        "--reload",
        action="store_true",
        help="load the function again when a .py file or the stack file changes, and on SIGHUP",
    )
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER: {options.folder} is not a folder")
    try:
        source = find(options.folder, {}, os.environ)
        logs.set_up(app.configured(source.environ).log_format)
        return uvloop.run(serve(source, reload=options.reload))
    except WatchdogError as error:
        _show(error)
        return error.exit_status


async def serve(source: Source, *, reload: bool) -> int:
    """Serve ``source`` until SIGTERM or SIGINT, and return the exit status. Raises what ends its start."""
    loop, stop, changed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    config, loaded = app.configured(source.environ), files(source)
    watchdog = await started(source, config)
    front, page = Newest(watchdog.front), Newest(MetricsPage(Exposition(watchdog.metrics)))
    limits, loop_lag = watchdog.requests.limits, watchdog.requests.loop_lag
    requests = Connections(front, limits, time.monotonic, loop_lag)
    scrapes = Connections(page, app.METRICS_LIMITS, time.monotonic)
    retiring = set[asyncio.Task[None]]()
    async with app.healthy(config, requests, scrapes) as (listener, port, _):
        log.info("%s is served on port %d: %s", source.handler, port, promise(config, watchdog))
        tasks = [asyncio.create_task(app.sweep(requests, scrapes, owns=lambda _: True))]
        if reload:
            loop.add_signal_handler(signal.SIGHUP, changed.set)
            tasks.append(asyncio.create_task(_watch(source, loaded, changed)))
        while not stop.is_set():
            waits = [asyncio.ensure_future(event.wait()) for event in (stop, changed)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if stop.is_set():
                break
            changed.clear()
            try:
                source = find(source.folder, {}, os.environ)
                newest = app.configured(source.environ)
                newer = await started(source, newest)
            except WatchdogError as error:
                _show(error)
                log.error("%s goes on as it was before the change", source.handler)
                continue
            front.application, page.application = newer.front, MetricsPage(Exposition(newer.metrics))
            retiring.add(asyncio.create_task(_retired(watchdog)))
            watchdog = newer
            log.info("%s is served again: %s", source.handler, promise(newest, watchdog))
        listener.close()
        requests.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(config.drain_timeout):
                await requests.drained()
        requests.abort()
        scrapes.abort()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*retiring)
    await watchdog.pool.stop()
    return 0


async def started(source: Source, config: Config) -> Watchdog:
    """Return a watchdog whose workers can serve.

    Raises ``HandlerNotLoaded``, ``StartFailed``, and ``TrialFailed`` if it fails on its example().
    """
    for line in ignored(source.environ):
        log.warning("%s", line)
    watchdog = app.build(config, source.environ, own_weight=load_weight(source.folder))
    watchdog.pool.start()
    try:
        await until_ready(watchdog.pool, source.handler)
    except WatchdogError:
        await watchdog.pool.stop(at_once=True)
        raise
    return watchdog


def promise(config: Config, watchdog: Watchdog) -> str:
    """Return the rate of the workers within the target, in one line. ``try`` measures HTTP's share too."""
    if (streams := watchdog.metrics.streams) is not None:
        if not streams.step.learned:
            return "its streams/s on time show once streams have ended"
        held, interval = (
            streams.step.largest_within(config.slo_interval),
            report.duration(config.slo_interval),
        )
        return f"a worker makes steps of {held} streams within {interval}; the rate depends on their length"
    capacity, target = watchdog.metrics.capacity, report.duration(config.slo_latency)
    if not capacity.times.overall.learned:
        return f"its rate within {target} shows once requests have come, or with example()"
    rate = report.promise_within(
        config.slo_latency,
        capacity.times.mix,
        capacity.cost,
        workers=config.workers,
        objective=config.slo_objective,
        cpus=available_cpus(),
    ).rate
    if not rate:
        return f"no rate is within {target}: make the model faster, or raise slo_latency"
    return f"its workers allow {report.number(rate)} requests/s within {target}"


async def _retired(watchdog: Watchdog) -> None:
    """End a watchdog once it has answered its requests."""
    while watchdog.shell.admitted:  # noqa: ASYNC110 - nothing tells when the last one is answered
        await asyncio.sleep(POLL_SECONDS)
    await watchdog.pool.stop()


async def _watch(source: Source, before: Mapping[Path, tuple[int, int]], changed: asyncio.Event) -> None:
    """Set ``changed`` after each change of a file since ``before``, as soon as two looks see the same."""
    seen = before
    while True:
        await asyncio.sleep(POLL_SECONDS)
        last, seen = seen, files(source)
        if last == seen != before:
            before = seen
            changed.set()


def files(source: Source) -> Mapping[Path, tuple[int, int]]:
    """Return time of change and size of each file from which ``source`` is made."""
    states = {}
    for path in (*source.folder.rglob("*.py"), *stack_files(source.folder)):
        try:
            state = path.stat()
        except OSError:  # it has just been removed, or has never been there
            continue
        states[path] = (state.st_mtime_ns, state.st_size)
    return states


def _show(error: WatchdogError) -> None:
    step = report.advice(str(error))
    text = f"{error}\nnext: {step}" if step else str(error)
    if isinstance(error, HandlerNotLoaded) and error.trace:
        log.error(Failure("the function's code cannot be loaded", error.trace))
    sys.stderr.write(f"batching-watchdog serve: {logs.printable(text)}\n")
