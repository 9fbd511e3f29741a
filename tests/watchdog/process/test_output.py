"""What becomes of stdout and stderr when the process that reads them does not."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from batching_watchdog.process.output import BUFFERED_CHARACTERS, Output

pytestmark = pytest.mark.timeout(60)


def output(descriptor: int) -> Output:
    return Output(os.fdopen(descriptor, "w", closefd=False))


@pytest.fixture
def pipe() -> Iterator[tuple[int, Output, int]]:
    """The end to read, and an output that writes into the other end, which is the third."""
    reader, writer = os.pipe()
    stream = output(writer)
    yield reader, stream, writer
    os.close(reader)  # wakes the thread
    stream.close(50.0)
    os.close(writer)


def read_until(reader: int, end: bytes) -> list[str]:
    received = b""
    while not received.endswith(end):
        received += os.read(reader, 1 << 16)
    return received.decode().splitlines()


def test_reader_that_reads_nothing_stops_no_writer_and_what_it_missed_is_counted(pipe):
    reader, stream, _ = pipe
    texts = [f"{number:999d}" for number in range(3 * BUFFERED_CHARACTERS // 1000)]
    for text in texts:
        stream.write(f"{text}\n")
    dropped = stream.dropped
    assert dropped > 0
    lines: list[str] = []
    while len(lines) < len(texts) - dropped:
        lines += read_until(reader, b"\n")
    assert lines == sorted(lines)
    assert set(lines) <= set(texts)


def test_library_may_ask_what_it_writes_to(pipe):
    _, stream, writer = pipe
    assert (stream.isatty(), stream.fileno(), stream.closed) == (False, writer, False)


def test_line_longer_than_the_buffer_is_dropped_alone(pipe):
    reader, stream, _ = pipe
    stream.write("x" * BUFFERED_CHARACTERS + "\n")
    stream.write("next\n")
    assert read_until(reader, b"\n") == ["next"]
    assert stream.dropped == 1


def test_close_writes_buffered_lines_but_waits_only_so_long_for_a_reader(pipe):
    reader, stream, _ = pipe
    lines = [f"{number:999d}" for number in range(200)]  # more than a pipe holds
    for line in lines:
        stream.write(f"{line}\n")
    stream.close(0.05)
    assert read_until(reader, b" 199\n") == lines


@pytest.mark.parametrize("full", [False, True], ids=["no reader", "full disk"])
def test_stream_that_cannot_be_written_costs_lines_and_no_error(full):
    reader, descriptor = os.pipe()
    os.close(reader)
    if full:
        os.close(descriptor)
        descriptor = os.open("/dev/full", os.O_WRONLY)
    stream = output(descriptor)
    stream.write("one\ntwo\n")
    stream.close(50.0)
    os.close(descriptor)
    assert stream.dropped == 2


def test_pipe_that_another_process_made_non_blocking_loses_nothing(pipe):
    reader, stream, writer = pipe
    os.set_blocking(writer, False)
    for _ in range(500):
        stream.write("x" * 999 + "\n")
    stream.write("end\n")
    assert read_until(reader, b"end\n") == ["x" * 999] * 500 + ["end"]


@pytest.mark.parametrize("closed", ["1>&-", "0<&-"])
def test_stream_that_was_closed_before_the_start_is_taken_by_no_socket(closed):
    script = f"""
import os, sys
from batching_watchdog.process.output import install
install()
print("lost", flush=True)
print(os.path.samefile("/dev/fd/{closed[0]}", os.devnull), file=sys.stderr)
"""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, script]
    assert subprocess.run(command, check=True, capture_output=True).stderr == b"True\n"
