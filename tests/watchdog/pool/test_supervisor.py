import asyncio
import io
import mmap
from pathlib import Path

import pytest

from batching_watchdog.config import Config
from batching_watchdog.logs import line_maker
from batching_watchdog.pool.child import (
    MALLOC_TUNABLES,
    MAX_LOG_LINE,
    how_it_ended,
    relay,
    worker_environment,
)
from batching_watchdog.pool.supervisor import gunicorn_command, resident_bytes


def config(*devices: str, **environment: str) -> Config:
    return Config.from_env(environment, cpus=4.0, devices=devices)


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


def test_before_a_fork_there_is_one_thread_and_what_is_meant_for_the_workers_is_kept():
    environment = worker_environment(config(workers="2", preload="true"), {})
    assert {environment[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {
        "1"
    }
    assert environment["worker_threads"] == "2"
    assert "--preload" in gunicorn_command(config(preload="true"), Path("/tmp/x/s"), Path("/tmp/x"))
    assert "--preload" not in gunicorn_command(config(), Path("/tmp/x/s"), Path("/tmp/x"))


@pytest.mark.parametrize(
    ("settings", "environ", "seen"),
    [
        (config("0", "1"), {}, "0,1"),
        (config("0", "1", workers="1"), {}, None),
        (config("3", "1", workers="1"), {"CUDA_VISIBLE_DEVICES": "3,1"}, "3,1"),
        (config("0"), {}, None),
        (config(), {}, None),
    ],
)
def test_workers_that_are_to_split_the_devices_are_given_them_all(
    settings: Config, environ: dict[str, str], seen: str | None
):
    assert worker_environment(settings, environ).get("CUDA_VISIBLE_DEVICES") == seen


def test_resident_memory_is_read_in_bytes_and_a_process_that_has_gone_has_none(tmp_path: Path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("900 100 50 1 0 300 0\n")
    assert resident_bytes(7, tmp_path) == 100 * mmap.PAGESIZE
    assert resident_bytes(8, tmp_path) is None


@pytest.mark.parametrize(
    ("status", "words"), [(3, "ended with status 3"), (-11, "was killed by SIGSEGV"), (-99, "was killed by")]
)
def test_the_end_of_gunicorn_is_put_into_words(status: int, words: str):
    assert how_it_ended(status).startswith(words)


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
        await relay(source, sink, line_maker("text", "stderr"))
        return sink.getvalue()

    return [line.split(" stderr: ", 1)[1] for line in asyncio.run(run()).splitlines()]
