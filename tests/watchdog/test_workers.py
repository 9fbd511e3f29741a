import asyncio
import io
from pathlib import Path

import pytest

from batching_watchdog.config import Config
from batching_watchdog.workers import (
    MALLOC_TUNABLES,
    MAX_LOG_LINE,
    gunicorn_command,
    relay,
    worker_environment,
)


def config(**environment: str) -> Config:
    return Config.from_env(environment, cpus=4.0)


def test_the_workers_get_their_share_of_threads_and_malloc_that_keeps_memory():
    environment = worker_environment(config(workers="2"), {"PATH": "/bin"})
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["GLIBC_TUNABLES"] == MALLOC_TUNABLES
    assert environment["PATH"] == "/bin"


def test_what_the_user_has_set_is_left_alone():
    mine = {"OMP_NUM_THREADS": "7", "GLIBC_TUNABLES": "mine"}
    environment = worker_environment(config(), mine)
    assert (environment["OMP_NUM_THREADS"], environment["GLIBC_TUNABLES"]) == ("7", "mine")


def test_an_explicit_worker_threads_wins():
    mine = {"OMP_NUM_THREADS": "7", "worker_threads": "3"}
    assert worker_environment(config(**mine), mine)["OMP_NUM_THREADS"] == "3"


def test_gunicorn_kills_a_hung_worker_after_exec_timeout_not_before():
    command = gunicorn_command(config(exec_timeout="1500ms"), Path("/tmp/x/s"), Path("/tmp/x"))
    assert float(command[command.index("--timeout") + 1]) >= 1.5
    assert "unix:/tmp/x/s" in command


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"no newline at the end", ["no newline at the end"]),
        (b"\xff\n", ["\ufffd"]),
        (b"", []),
    ],
)
def test_output_is_relayed_line_by_line_with_a_prefix(written: bytes, lines: list[str]):
    assert relayed(written) == lines


def test_an_overlong_line_is_cut_and_what_follows_is_still_read():
    lines = relayed(b"x" * (3 * MAX_LOG_LINE) + b"\nnext\n")
    assert "".join(lines[:-1]) == "x" * (3 * MAX_LOG_LINE)
    assert lines[-1] == "next"


def relayed(written: bytes) -> list[str]:
    async def run() -> str:
        source = asyncio.StreamReader(limit=MAX_LOG_LINE)
        source.feed_data(written)
        source.feed_eof()
        sink = io.StringIO()
        await relay(source, sink, "stderr")
        return sink.getvalue()

    return [line.split(" stderr: ", 1)[1] for line in asyncio.run(run()).splitlines()]
