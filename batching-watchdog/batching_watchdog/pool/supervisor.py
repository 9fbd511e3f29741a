"""The pool of workers: what each event of a worker, of gunicorn or of the watchdog makes of it.

Takes workers in when they have loaded, lets them serve, and dismisses those that are old, sick or surplus.
It makes no decisions about requests: it tells ``shell`` which workers are idle, and which batch died with a
worker.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence

from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import HandlerNotLoaded, LoadTimedOut, StartFailed
from batching_watchdog.function import wire
from batching_watchdog.function.messages import Batch, Crash, DispatchReason, Failure, Iteration, Reply
from batching_watchdog.pool.child import Tasks
from batching_watchdog.pool.connection import Connection
from batching_watchdog.pool.crew import Crew, Fate
from batching_watchdog.pool.failures import Failures
from batching_watchdog.pool.gunicorn import Gunicorn
from batching_watchdog.pool.life import Ended, Life, Serving, Starting
from batching_watchdog.pool.profile import Profiler
from batching_watchdog.pool.readiness import Readiness, Trouble
from batching_watchdog.pool.vetting import Vetting
from batching_watchdog.pool.watch import Watch
from batching_watchdog.process.machine import resident_bytes
from batching_watchdog.shell import Shell

log = logging.getLogger(__name__)


class WorkerPool:
    """The workers, reported to the shell as idle, busy or dead. Implements ``connection.Events``."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        shell: Shell,
        model: LatencyModel,
        choose: Callable[[Sequence[bytes]], Sequence[bytes]] = lambda examples: examples,
    ) -> None:
        """``choose``: returns the bodies to measure, given those of the handler's example()."""
        self._choose = choose
        self._config = config
        self._shell = shell
        self._paused = False
        """Whether the workers' answers are not read for now."""
        self._life: Life = Starting()
        self._crew: Crew[Connection] = Crew(config.workers, config.max_requests)
        self._readiness = Readiness(config.load_timeout, time.monotonic())
        self._profiler = Profiler(config, shell.learn, model)
        self._vetting = Vetting(self._profiler, self._readiness, lambda: self._life)
        self._watch = Watch(config, self._crew, shell, lambda: self._paused)
        self._failures = Failures()
        self._threads = config.worker_threads
        self._forks = False
        """Whether the newest worker was forked from a process that had loaded the handler."""
        self.restarts = 0
        """Number of workers that died after loading."""
        self.recycled = 0
        """Number of workers replaced after max_requests."""
        self._tasks = Tasks()
        self.failed = self._tasks.failed
        """Ends with ``HandlerNotLoaded`` or ``StartFailed`` if no worker ever came up."""
        self._gunicorn = Gunicorn(config, environ, self, self._tasks)

    @property
    def not_ready(self) -> str:
        """Why no worker can serve now; empty if one can."""
        return self._readiness.why_not(
            self._crew.serving, time.monotonic(), all_overdue=self._watch.all_overdue
        )

    @property
    def sick(self) -> int:
        """Number of workers replaced because they served nothing any more."""
        return self._vetting.sick

    @property
    def fails_example(self) -> bool:
        """Whether the newest worker that has loaded failed on its own example()."""
        return self._readiness.trouble is Trouble.FAILS_EXAMPLE

    def by_state(self) -> dict[str, int]:
        """Number of workers starting, idle and busy."""
        serving = self._crew.serving
        idle = sum(connection.idle for connection in serving)
        return {
            "starting": max(0, self._crew.wanted - len(serving)),
            "idle": idle,
            "busy": len(serving) - idle,
        }

    @property
    def split(self) -> bool:
        """Whether the handler failed on a batch of examples, which was then run again in parts."""
        return self._profiler.split

    @property
    def handshakes(self) -> list[wire.Handshake]:
        """What the workers that can serve have said of themselves."""
        return [worker.handshake for worker in self._crew.serving if worker.handshake is not None]

    def resident_bytes(self) -> dict[int, int]:
        """Resident memory by index, of the workers that have loaded; read from the kernel now."""
        sizes = {handshake.index: resident_bytes(handshake.pid) for handshake in self.handshakes}
        return {index: size for index, size in sizes.items() if size is not None}

    def owns(self, pid: int) -> bool:
        """Return whether ``pid`` may be a child that this pool waits for."""
        return self._gunicorn.owns(pid)

    def poll_workers(self) -> None:
        """Read the available replies of busy workers."""
        for connection in self._crew.members:
            connection.poll()

    def pause_answers(self, *, paused: bool) -> None:
        """Stop or resume reading the workers' answers."""
        self._paused = paused
        for connection in self._crew.serving:
            connection.pause(paused=paused)

    def start(self) -> None:
        """Start gunicorn, and connect to its workers as they start."""
        self._gunicorn.start(self._lost)
        self._tasks.spawn(self._watch.keep_looking(), "overdue")

    def resize(self, workers: int, threads: int) -> int:
        """Change the workers, and the threads of each; return the workers that there will be.

        More are forked from the loaded handler. Surplus ones end after their batch. Workers that load for
        themselves stay as many as at the start: one more would take the time and the memory of a load().
        """
        workers = workers if self._forks else self._config.workers
        if threads != self._threads:
            self._threads = threads
            for connection in self._crew.serving:
                connection.set_threads(threads)
        if workers != self._crew.wanted:
            try:  # first, as gunicorn would replace a worker that leaves before
                self._gunicorn.set_workers(workers)
            except OSError as error:
                log.warning("workers: %d, not %d: %s", self._crew.wanted, workers, error)
                return self._crew.wanted
            log.info("workers: %d -> %d, as the CPU quota has changed", self._crew.wanted, workers)
            self._crew.wanted = workers
            for connection in [worker for worker in self._crew.serving if worker.idle]:
                if self._crew.surplus:
                    self._shell.worker_gone(connection)
                    self._dismiss(connection)
        return workers

    def drain(self) -> None:
        """Stop replacing workers by age: loading again could outlast the drain."""
        self._life = self._life.drain()

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop gunicorn and its workers."""
        self._life = Ended()
        await self._gunicorn.stop(at_once=at_once)
        await self._tasks.cancel()
        self._gunicorn.remove_folder()

    def loaded(self, connection: Connection, handshake: wire.Handshake) -> None:
        """Handle a handshake: a worker has loaded the handler, or reports why it could not."""
        if isinstance(self._life, Ended):
            return
        if handshake.error is not None:
            self._readiness.trouble = Trouble.NOT_LOADED
            if isinstance(self._life, Starting):
                self._tasks.fail(HandlerNotLoaded(handshake.error, handshake.trace))
                return
            text = f"a worker could not load the handler again: {handshake.error}"
            log.error(Failure(text, handshake.trace) if handshake.trace else text)
            return
        self._crew.add(connection)
        self._forks = handshake.forked
        if handshake.mix_paths:
            self._shell.mix_paths()
        examples = self._choose(handshake.examples)
        if handshake.streams:
            # It has measured its own example(), not what else was chosen.
            measured = (handshake.starts, handshake.steps) if examples == handshake.examples else ((), ())
            self._shell.stream(closed=handshake.closed, starts=measured[0], steps=measured[1])
            self._admit(connection)
        elif examples and self._vetting.tries_new:
            self._tasks.spawn(self._vet(connection, examples), "profile")
        else:
            self._admit(connection)

    def replied(self, connection: Connection, batch: Batch, replies: list[Reply], spent: wire.Spent) -> None:
        """Handle a worker's replies: it is idle again, or continues with its next batch."""
        if batch.reason is DispatchReason.PROFILE:
            self._profiler.replied(connection, replies, spent)
            return
        ready = self._stays(connection, len(batch.requests))
        self._shell.batch_done(connection, replies, spent, ready=ready)

    def crashed(self, connection: Connection, batch: Batch, crash: Crash) -> None:
        """Handle a batch that failed as a whole: the worker lives, and none of its requests is answered."""
        self._failures.crashed(batch, crash)
        if batch.reason is DispatchReason.PROFILE:
            self._profiler.crashed(connection, batch, crash)
            return
        self._shell.batch_failed(connection, crash, ready=self._stays(connection, len(batch.requests)))

    def stepped(self, connection: Connection, iteration: Iteration) -> None:
        """Handle an iteration of a worker's streams; replace an old or surplus worker after its last one."""
        if not self._stays(connection, iteration.started):
            self._shell.worker_gone(connection)
        self._shell.stepped(connection, iteration)

    def suspected(self, connection: Connection) -> None:
        """Find out whether a worker whose last batches failed whole can still serve.

        With example() it is tried with that. Without, it is replaced if others serve, at a bounded rate:
        the requests may be the reason.
        """
        if connection.handshake is None:
            return  # it has just died
        if connection.handshake.examples:
            self._tasks.spawn(self._check(connection, connection.handshake.examples[0]), "check")
        elif self._vetting.replaces_untried(len(self._crew.serving)):
            self._replace_sick(connection, "its last batches failed whole")
        else:
            self._shell.worker_ready(connection, checked=True)

    def raised(self, connection: Connection, failure: Failure) -> None:
        """Log the function's exception, of which the client gets only the status; or a client's error."""
        self._failures.raised(failure)

    def closed(self, connection: Connection, batch: Batch | None) -> None:
        """Handle a dead worker. Gunicorn starts another, to which ``gunicorn`` connects."""
        if self._crew.remove(connection):
            self._readiness.away_since = time.monotonic()
            self.restarts += not isinstance(self._life, Ended)
        out_of_memory = self._failures.out_of_memory()
        if batch is not None and batch.reason is DispatchReason.PROFILE:
            self._profiler.closed(connection, batch, out_of_memory=out_of_memory)
        else:
            self._failures.died(connection, batch, out_of_memory=out_of_memory)
        self._shell.worker_lost(connection, out_of_memory=out_of_memory)

    async def _vet(self, connection: Connection, examples: Sequence[bytes]) -> None:
        if await self._vetting.passes(connection, examples):
            self._admit(connection)

    def _admit(self, connection: Connection) -> None:
        """Let a worker serve, unless it has died meanwhile or is surplus."""
        handshake = connection.handshake
        if handshake is None:
            return
        if isinstance(self._life, Starting):
            self._life = self._life.came_up()
            self._shell.came_up()
            log.info(
                "the first worker has loaded the handler: import %.3f s, load() %.3f s%s",
                handshake.import_seconds,
                handshake.load_seconds,
                "" if handshake.mix_paths else "; mix_paths=False: each batch holds one path only",
            )
        self._readiness.trouble = Trouble.NONE
        if not self._crew.admit(connection, random.random()):  # noqa: S311 - nothing secret
            self._dismiss(connection)
            return
        if self._paused:
            connection.pause(paused=True)
        if self._threads != self._config.worker_threads:
            connection.set_threads(self._threads)
        self._shell.worker_ready(connection)

    def _stays(self, connection: Connection, served: int) -> bool:
        """Count ``served`` requests of a worker; return whether it may get more. Else end an idle one."""
        fate = self._crew.served(connection, served, ages=isinstance(self._life, Serving))
        if fate is not Fate.STAYS and connection.idle:  # else it has another batch or streams
            self.recycled += fate is Fate.AGED
            self._dismiss(connection)
        return fate is Fate.STAYS

    async def _check(self, connection: Connection, example: bytes) -> None:
        if connection.handshake is None:
            return  # it has died meanwhile
        if await self._profiler.serves(connection, example):
            self._shell.worker_ready(connection, checked=True)
        elif connection in self._crew.serving:
            self._replace_sick(connection, "it fails on example() too")

    def _replace_sick(self, connection: Connection, reason: str) -> None:
        self._vetting.found_sick(reason)
        self._dismiss(connection)

    def _dismiss(self, connection: Connection) -> None:
        """End an idle worker: it exits when its connection closes."""
        self._crew.remove(connection)
        self._readiness.away_since = time.monotonic()
        connection.close()

    def _lost(self, error: LoadTimedOut | StartFailed) -> None:
        """Handle the end of gunicorn, which is started again. Raises ``error`` if no worker ever loaded."""
        if isinstance(error, LoadTimedOut):
            self._readiness.trouble = Trouble.NOT_LOADED
        if isinstance(self._life, Starting):
            raise error
        if isinstance(error, LoadTimedOut):
            log.error(Failure(str(error), error.trace))
