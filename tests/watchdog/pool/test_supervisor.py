import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function.messages import Batch, Crash, DispatchReason, Reply
from batching_watchdog.function.wire import Handshake, Spent
from batching_watchdog.pool import failures, vetting
from batching_watchdog.pool.supervisor import WorkerPool
from support.heard import batch

WORKER: Any = object()


def with_pool(use: Callable[[WorkerPool], None], environ: dict[str, str] | None = None, **shell: Any) -> None:
    """Use a pool that is not started, and whose shell has these methods only."""

    async def run() -> None:
        told: Any = SimpleNamespace(learn=None, **shell)
        pool = WorkerPool(Config.from_env(environ or {}, cpus=1.0), {}, told, LatencyModel(8))
        use(pool)
        await pool.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("counts", "told"), [((0, 0, 0), [False, False]), ((2, 3, 3), [True, False])])
def test_worker_that_the_kernel_ended_for_lack_of_memory_is_told_apart(monkeypatch, counts, told):
    kills = iter(counts)
    monkeypatch.setattr(failures, "oom_kills", lambda: next(kills))
    heard: list[bool] = []

    def use(pool: WorkerPool) -> None:
        for _ in told:
            pool.closed(WORKER, batch(b"a", b"b"))

    with_pool(use, worker_lost=lambda _, out_of_memory: heard.append(out_of_memory))
    assert heard == told


@pytest.mark.parametrize(("reason", "logged"), [(DispatchReason.FULL, 1), (DispatchReason.RETRY, 0)])
def test_batch_that_fails_is_logged_with_its_trace_and_its_parts_are_not(caplog, reason, logged):
    failed = batch(b"a", b"b")
    failed.reason = reason
    crash = Crash("Traceback ...", Reply(500, b"", b"", failed=True))
    with_pool(lambda pool: pool.crashed(WORKER, failed, crash), batch_failed=lambda *_, **__: None)
    assert [record.getMessage().count("Traceback ...") for record in caplog.records] == [1] * logged


@pytest.mark.parametrize(
    ("failures", "waits"),
    [
        pytest.param([True] * 7, [0.5, 1.0, 2.0, 5.0, 10.0, 10.0, 10.0], id="bounded"),
        pytest.param([True, True, False, True], [0.5, 1.0, 0.5], id="short again after one that serves"),
    ],
)
def test_fresh_workers_that_fail_on_the_example_wait_longer_each_time(monkeypatch, failures, waits):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def run() -> None:
        told: Any = SimpleNamespace(learn=None)
        pool = WorkerPool(Config.from_env({}, cpus=1.0), {}, told, LatencyModel(8))
        for fails in failures:
            ended = asyncio.Event()
            pool.loaded(Fresh(pool, ended, fails=fails), Handshake(1, examples=(b"{}",), mix_paths=False))  # type: ignore[arg-type]
            await ended.wait()
        await pool.stop()

    monkeypatch.setattr(vetting.asyncio, "sleep", sleep)
    asyncio.run(run())
    assert slept == waits


class Fresh:
    """A worker that has loaded: it fails on its example, or dies under the one after."""

    def __init__(self, pool: WorkerPool, ended: asyncio.Event, *, fails: bool) -> None:
        self.pool, self.ended, self.fails = pool, ended, fails
        self.served = 0

    def send(self, sent: Batch) -> None:
        pool: Any = self.pool
        if self.served:
            self.ended.set()
            return
        self.served += 1
        pool.replied(self, sent, [Reply(500 if self.fails else 200, b"", b"", failed=self.fails)], Spent())

    def close(self) -> None:
        self.ended.set()


class Loaded:
    """A worker that serves, and what is done to it."""

    idle = True

    def __init__(self, done: list[str]) -> None:
        self.done = done
        self.handshake = Handshake(1, forked=True)

    def close(self) -> None:
        self.done.append("closed")

    def set_threads(self, count: int) -> None:
        self.done.append(f"{count} threads")


def take(pool: WorkerPool, *workers: Loaded, forked: bool = True) -> None:
    for worker in workers:
        pool.loaded(worker, Handshake(1, forked=forked, mix_paths=False))  # type: ignore[arg-type]


@pytest.mark.parametrize(("forked", "workers"), [(True, 3), (False, 1)])
def test_workers_that_load_for_themselves_do_not_become_more(forked, workers):
    counts: list[int] = []

    def use(pool: WorkerPool) -> None:
        take(pool, Loaded([]), forked=forked)
        counts.append(pool.resize(3, 1))

    with_pool(use, came_up=lambda: None, worker_ready=lambda _: None)
    assert counts == [workers]


def test_idle_worker_that_is_surplus_gets_no_batch_before_it_ends():
    done: list[str] = []

    def use(pool: WorkerPool) -> None:
        take(pool, Loaded(done))
        pool.resize(2, 1)
        take(pool, Loaded(done))
        pool.resize(1, 1)
        assert pool.by_state() == {"starting": 0, "idle": 1, "busy": 0}

    quiet: dict[str, Any] = {"came_up": lambda: None, "worker_ready": lambda _: None}
    with_pool(use, worker_gone=lambda _: done.append("gone"), **quiet)
    assert done == ["gone", "closed"]


def test_worker_that_has_loaded_after_the_number_was_lowered_ends_unused():
    done: list[str] = []
    ready: list[object] = []

    def use(pool: WorkerPool) -> None:
        take(pool, Loaded(done))
        pool.resize(2, 1)
        pool.resize(1, 1)
        take(pool, Loaded(done))

    with_pool(use, came_up=lambda: None, worker_ready=ready.append, worker_gone=lambda _: None)
    assert (done, len(ready)) == (["closed"], 1)


def test_busy_worker_that_is_surplus_ends_after_its_batch():
    done: list[str] = []
    ready: list[bool] = []

    def use(pool: WorkerPool) -> None:
        first, second = Loaded(done), Loaded(done)
        take(pool, first)
        pool.resize(2, 1)
        take(pool, second)
        first.idle = second.idle = False
        pool.resize(1, 1)
        assert not done
        first.idle = True
        pool.replied(first, batch(b"a"), [Reply(200, b"", b"")], Spent())  # type: ignore[arg-type]
        second.idle = True
        pool.replied(second, batch(b"a"), [Reply(200, b"", b"")], Spent())  # type: ignore[arg-type]

    quiet: dict[str, Any] = {"came_up": lambda: None, "worker_ready": lambda _: None}
    with_pool(use, batch_done=lambda *_, **told: ready.append(told["ready"]), **quiet)
    assert done == ["closed"]
    assert ready == [False, True]


def test_threads_of_all_workers_change_and_later_ones_get_them_too():
    done: list[str] = []

    def use(pool: WorkerPool) -> None:
        take(pool, Loaded(done))
        pool.resize(2, 3)
        take(pool, Loaded(done))

    with_pool(use, came_up=lambda: None, worker_ready=lambda _: None)
    assert done == ["3 threads", "3 threads"]


@pytest.mark.parametrize(
    ("workers", "replaced"),
    [
        pytest.param(1, [], id="the only one serves on"),
        pytest.param(3, [0], id="one of several, and the next not before SICK_SECONDS"),
    ],
)
def test_worker_that_is_suspected_without_an_example_is_replaced_if_others_serve(workers, replaced):
    done: list[list[str]] = [[] for _ in range(workers)]
    served_on: list[object] = []

    def use(pool: WorkerPool) -> None:
        crew = [Loaded(log) for log in done]
        take(pool, *crew)
        for worker in crew[:2]:
            pool.suspected(worker)  # type: ignore[arg-type]
        assert pool.sick == len(replaced)

    def ready(worker: object, *, checked: bool = False) -> None:
        if checked:
            served_on.append(worker)

    with_pool(use, {"workers": str(workers)}, came_up=lambda: None, worker_ready=ready)
    assert [number for number, log in enumerate(done) if log] == replaced
    assert len(served_on) == min(2, workers) - len(replaced)


def test_workers_that_are_old_at_the_same_time_are_replaced_one_by_one():
    done: list[str] = []

    def use(pool: WorkerPool) -> None:
        crew = [Loaded(done), Loaded(done)]
        take(pool, *crew)
        for worker in crew:
            pool.replied(worker, batch(*[b""] * 11), [Reply(200, b"", b"")] * 11, Spent())  # type: ignore[arg-type]
        assert done == ["closed"]
        take(pool, Loaded([]))
        pool.replied(crew[1], batch(b""), [Reply(200, b"", b"")], Spent())  # type: ignore[arg-type]
        assert pool.recycled == 2

    quiet: dict[str, Any] = {"came_up": lambda: None, "worker_ready": lambda _: None}
    settings = {"workers": "2", "max_requests": "10"}
    with_pool(use, settings, batch_done=lambda *_, **__: None, **quiet)
    assert done == ["closed", "closed"]


def test_old_worker_serves_on_while_the_pool_drains():
    done: list[str] = []

    def use(pool: WorkerPool) -> None:
        worker = Loaded(done)
        take(pool, worker)
        pool.drain()
        pool.replied(worker, batch(*[b""] * 11), [Reply(200, b"", b"")] * 11, Spent())  # type: ignore[arg-type]

    quiet: dict[str, Any] = {"came_up": lambda: None, "worker_ready": lambda _: None}
    with_pool(use, {"max_requests": "10"}, batch_done=lambda *_, **__: None, **quiet)
    assert done == []


def test_worker_that_cannot_load_ends_the_pool_only_before_one_has_served():
    async def run() -> list[bool]:
        told: Any = SimpleNamespace(learn=None, came_up=lambda: None, worker_ready=lambda _: None)
        failed = []
        for served in (False, True):
            pool = WorkerPool(Config.from_env({}, cpus=1.0), {}, told, LatencyModel(8))
            if served:
                take(pool, Loaded([]))
            pool.loaded(WORKER, Handshake(1, error="no module"))
            failed.append(pool.failed.done() and isinstance(pool.failed.exception(), HandlerNotLoaded))
            await pool.stop()
        return failed

    assert asyncio.run(run()) == [True, False]


def test_cold_start_ends_once_with_the_first_worker_that_serves():
    starts: list[None] = []
    with_pool(
        lambda pool: take(pool, Loaded([]), Loaded([])),
        {"workers": "2"},
        came_up=lambda: starts.append(None),
        worker_ready=lambda _: None,
    )
    assert len(starts) == 1


def test_worker_that_ends_while_the_pool_stops_is_no_restart():
    async def run() -> list[int]:
        told: Any = SimpleNamespace(
            learn=None, came_up=lambda: None, worker_ready=lambda _: None, worker_lost=lambda *_, **__: None
        )
        pool = WorkerPool(Config.from_env({"workers": "2"}, cpus=1.0), {}, told, LatencyModel(8))
        crew: Any = Loaded([]), Loaded([])
        take(pool, *crew)
        for worker in crew:
            worker.streams = ()
        pool.closed(crew[0], None)
        before = pool.restarts
        await pool.stop()
        pool.closed(crew[1], None)
        return [before, pool.restarts]

    assert asyncio.run(run()) == [1, 1]


def test_old_worker_that_is_surplus_is_not_counted_as_recycled():
    def use(pool: WorkerPool) -> None:
        crew = [Loaded([]), Loaded([])]
        take(pool, *crew)
        for worker in crew:
            worker.idle = False
        pool.resize(1, 1)
        crew[0].idle = True
        pool.replied(crew[0], batch(*[b""] * 11), [Reply(200, b"", b"")] * 11, Spent())  # type: ignore[arg-type]
        assert pool.by_state() == {"starting": 0, "idle": 0, "busy": 1}
        assert pool.recycled == 0

    quiet: dict[str, Any] = {"came_up": lambda: None, "worker_ready": lambda _: None}
    settings = {"workers": "2", "max_requests": "10"}
    with_pool(use, settings, batch_done=lambda *_, **__: None, **quiet)


@pytest.mark.parametrize(("chosen", "counts"), [((b"own",), True), ((b"other",), False)])
def test_streams_measured_by_a_worker_count_only_for_its_own_example(chosen, counts):
    heard: list[bool] = []

    def stream(*, closed: bool, starts: object, steps: object) -> None:
        heard.append(bool(starts) and bool(steps))

    async def run() -> None:
        told: Any = SimpleNamespace(
            learn=None, came_up=lambda: None, worker_ready=lambda _: None, stream=stream
        )
        pool = WorkerPool(Config.from_env({}, cpus=1.0), {}, told, LatencyModel(8), lambda _: chosen)
        shake = Handshake(
            1, examples=(b"own",), streams=True, starts=[(1, 0.1)], steps=[(1, 0.1)], mix_paths=False
        )
        pool.loaded(Loaded([]), shake)  # type: ignore[arg-type]
        await pool.stop()

    asyncio.run(run())
    assert heard == [counts]
