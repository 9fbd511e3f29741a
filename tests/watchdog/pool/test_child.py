import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from batching_watchdog.config import Config
from batching_watchdog.errors import StartFailed
from batching_watchdog.observe.logs import lines_maker
from batching_watchdog.pool.child import (
    BACKOFF_SECONDS,
    BLOCK_BYTES,
    MALLOC_TUNABLES,
    MAX_LOG_LINE,
    NICENESS,
    RELAYED_BYTES,
    STABLE_SECONDS,
    Backoff,
    Child,
    Tasks,
    relay,
    worker_environment,
)
from batching_watchdog.process.launch import how_it_ended


def config(*devices: str, **environment: str) -> Config:
    return Config.from_env(environment, cpus=4.0, devices=devices)


def test_every_short_life_lengthens_the_wait_up_to_the_longest_and_a_long_one_forgets_them():
    backoff = Backoff()
    waits = [backoff.after(0.1) for _ in range(len(BACKOFF_SECONDS) + 2)]
    assert waits == [*BACKOFF_SECONDS, BACKOFF_SECONDS[-1], BACKOFF_SECONDS[-1]]
    assert [backoff.after(STABLE_SECONDS + 1), backoff.after(0.1)] == list(BACKOFF_SECONDS[:2])


def test_first_task_that_fails_ends_the_whole_and_a_cancelled_one_does_not():
    async def fail(text: str) -> None:
        raise ValueError(text)

    async def run() -> None:
        tasks = Tasks()
        tasks.spawn(asyncio.sleep(60), "sleeps")
        await tasks.cancel()
        assert not tasks.failed.done()
        tasks.spawn(fail("first"), "fails")
        tasks.spawn(fail("second"), "fails too")
        with pytest.raises(ValueError, match="first"):
            await tasks.failed

    asyncio.run(run())


def test_child_that_ends_is_started_again_until_that_is_given_up(capfd):
    ends: list[str] = []

    def ended(how: str) -> None:
        ends.append(how)
        if len(ends) == 2:
            raise StartFailed("enough")

    async def run() -> None:
        tasks = Tasks()
        child = Child("it", ("sh", "-c", "echo said; exit 3"), config(), os.environ, tasks)
        tasks.spawn(child.keep_running(ended), "child")
        with pytest.raises(StartFailed, match="enough"):
            await tasks.failed
        await pipes_closed()

    asyncio.run(run())
    assert ends == ["ended with status 3"] * 2
    assert capfd.readouterr().out.count("stdout: said") == 2


@pytest.mark.parametrize("at_once", [True, False])
def test_child_that_is_stopped_takes_along_what_it_has_started(at_once, tmp_path):
    held = tmp_path / "held"
    os.mkfifo(held)

    async def run(child: Child, running: asyncio.Task[None]) -> None:
        # Opens when the child's own child has it open, and ends when nobody has.
        with await asyncio.to_thread(held.open, "rb") as end:
            await child.stop(at_once=at_once)
            await running
            assert await asyncio.to_thread(end.read) == b""

    stopped(run, f"sleep 300 > {held} & wait")


def test_child_has_less_weight_and_the_usual_scheduler():
    async def run(child: Child, running: asyncio.Task[None]) -> None:
        while not child.pid:  # noqa: ASYNC110 - the child has no event for its start
            await asyncio.sleep(0)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) - os.getpriority(os.PRIO_PROCESS, 0) == NICENESS
        assert os.sched_getscheduler(child.pid) == os.SCHED_OTHER
        await child.stop(at_once=True)
        await running

    stopped(run, "sleep 300")


def test_child_that_is_stopped_while_it_starts_ends():
    async def run(child: Child, running: asyncio.Task[None]) -> None:
        await asyncio.sleep(0)
        assert not child.pid
        await child.stop(at_once=False)
        await running

    stopped(run, "sleep 300")


def stopped(
    run: Callable[[Child, asyncio.Task[None]], Awaitable[None]],
    script: str,
) -> None:
    """Run this with a child that nobody else stops; time does not count but against hangs."""

    async def main() -> None:
        tasks = Tasks()
        child = Child(
            "it",
            ("sh", "-c", script),
            config(prefix_logs="false"),
            os.environ,
            tasks,
        )
        await run(child, tasks.spawn(child.keep_running(pytest.fail), "child"))
        await pipes_closed()

    asyncio.run(main())


async def pipes_closed() -> None:
    """Give asyncio the turns in which it closes the pipes of a child that has ended."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("settings", "environ", "expected"),
    [
        pytest.param(config(workers="2"), {"PATH": "/"}, {"OMP_NUM_THREADS": "2", "PATH": "/"}, id="auto"),
        pytest.param(
            config(), {}, {"GLIBC_TUNABLES": MALLOC_TUNABLES, "function_path": "function"}, id="malloc"
        ),
        pytest.param(config(), {"OMP_NUM_THREADS": "7"}, {"OMP_NUM_THREADS": "7"}, id="the user's threads"),
        pytest.param(
            config(), {"GLIBC_TUNABLES": "mine"}, {"GLIBC_TUNABLES": "mine"}, id="the user's malloc"
        ),
        pytest.param(
            config(worker_threads="3"),
            {"OMP_NUM_THREADS": "7", "worker_threads": "3"},
            dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "3"),
            id="explicit threads win",
        ),
        *(
            pytest.param(settings, environ, {"CUDA_VISIBLE_DEVICES": seen}, id=f"devices {seen}")
            for settings, environ, seen in (
                (config("0", "1"), {}, "0,1"),
                (config("0", "1", workers="1"), {}, None),
                (config("3", "1", workers="1"), {"CUDA_VISIBLE_DEVICES": "3,1"}, "3,1"),
                (config("0"), {}, None),
            )
        ),
    ],
)
def test_workers_environment_has_threads_malloc_and_devices_to_share_unless_the_user_has_set_them(
    settings, environ, expected
):
    environment = worker_environment(settings, environ)
    assert {name: environment.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("status", "words"), [(3, "ended with status 3"), (-11, "was killed by SIGSEGV"), (-99, "was killed by")]
)
def test_exit_status_is_put_into_words(status, words):
    assert how_it_ended(status).startswith(words)


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"no newline at the end", ["no newline at the end"]),
        (b"\xff\n", ["\ufffd"]),
        (b"a\tb\r\n\x1b[2J\x07\r\x7f \xc2\x9b1m\n", ["a\tb", r"\x1b[2J\x07\x0d\x7f \x9b1m"]),
        (b"", []),
        (b"x" * (3 * MAX_LOG_LINE) + b"\nnext\n", ["x" * MAX_LOG_LINE] * 3 + ["next"]),
    ],
    ids=["lines", "no-newline", "no-text", "control-characters", "nothing", "overlong"],
)
def test_output_is_relayed_line_by_line_with_a_prefix_and_overlong_lines_are_cut(written, lines):
    async def run() -> str:
        source = asyncio.StreamReader(limit=MAX_LOG_LINE)
        source.feed_data(written)
        source.feed_eof()
        sink = io.StringIO()
        await relay(source, sink, lines_maker("text", "stderr"))
        return sink.getvalue()

    assert [line.split(" stderr: ", 1)[1] for line in asyncio.run(run()).splitlines()] == lines


def test_child_that_prints_without_end_leaves_the_loop_its_turns():
    async def run() -> int:
        source = asyncio.StreamReader(limit=MAX_LOG_LINE)
        source.feed_data(b"\n" * 10 * BLOCK_BYTES)
        source.feed_eof()
        copying = asyncio.ensure_future(relay(source, io.StringIO(), lines_maker("text", "stderr")))
        turns = 0
        while not copying.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(run()) >= 10


@pytest.mark.parametrize(("seconds_each", "dropped"), [(0.0, True), (1.0, False)])
def test_lines_beyond_the_bound_of_a_second_are_dropped_whole_and_counted(seconds_each, dropped, caplog):
    now = iter(number * seconds_each for number in range(10**6))

    async def run() -> list[str]:
        source = asyncio.StreamReader()
        for number in range(RELAYED_BYTES // 1000):
            source.feed_data(b"%0999d\n" % number)
        source.feed_data(b"the last one\n")
        source.feed_eof()
        sink = io.StringIO()
        await relay(source, sink, lambda texts: "".join(f"{text}\n" for text in texts), lambda: next(now))
        return sink.getvalue().splitlines()

    lines = asyncio.run(run())
    numbers = [int(line) for line in lines if line != "the last one"]
    assert numbers == list(range(len(numbers)))
    missing = RELAYED_BYTES // 1000 + 1 - len(lines)
    assert (missing > 0) == dropped
    assert [record.args for record in caplog.records] == [(missing,)] * dropped


def test_reaping_orphans_leaves_the_status_of_a_child_to_what_waits_for_it():
    script = """
import os, subprocess
from batching_watchdog.pool.child import reap_orphans
reap_orphans(lambda pid: False)  # there is no child at all
own, orphan = (subprocess.Popen(["sh", "-c", "exit 3"]) for _ in range(2))
for child in (own, orphan):
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
reap_orphans(own.pid.__eq__)
print(own.wait())
reap_orphans(lambda pid: False)
os.waitpid(orphan.pid, 0)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.stdout == "3\n"
    assert "ChildProcessError" in done.stderr
