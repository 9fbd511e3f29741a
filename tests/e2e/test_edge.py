"""The watchdog's edge with real processes: many idle connections, slow clients, slow readers."""

import os
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from support.processes import ECHO, Watchdog, watchdog
from support.waits import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HEALTH = b"GET /_/health HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def many_files() -> Iterator[int]:
    """Let this process and its children open as many files as the machine allows; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_of_idle_connections_cost_bounded_memory_and_others_are_served():
    with many_files() as files, ExitStack() as stack, watchdog(ECHO) as dog:
        count = min(3000, files - 1000)
        for _ in range(100):
            dog.call(body=b"warm")
        before = dog.memory()
        connections = [stack.enter_context(dog.connect()) for _ in range(count)]
        for connection in connections:
            connection.sendall(HEALTH)
        for connection in connections:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        each = (dog.memory() - before) / count
        assert dog.call(body=b"still").body == b"still"
        # 3.2 KiB were measured; the rest is for other allocators.
        assert each < 8192


def test_slow_senders_and_slow_readers_are_cut_and_others_are_served_meanwhile_in_bounded_memory():
    handler = "def handle(event, context):\n    return event.body * 5_000_000\n"
    large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"
    starts = [b"GET / HTTP/1.1\r\nHo", large[:-1], large[:-1].replace(b": 1", b": 9") + b"1"]
    with ExitStack() as stack, watchdog(handler, read_timeout="3s", write_timeout="2s") as dog:
        assert len(dog.call(body=b"a").body) == 5_000_000
        before = dog.memory()
        senders = [stack.enter_context(dog.connect()) for _ in range(300)]
        for number, sender in enumerate(senders):
            sender.sendall(starts[number % len(starts)])
        readers = [stack.enter_context(dog.connect()) for _ in range(8)]
        for reader in readers:
            reader.sendall(large)
        until(
            lambda: dog.metric('slo_requests_total{outcome="good",slo_class="default"}') >= 9,
            "all are answered",
        )
        for reader in readers:
            with suppress(ConnectionError):  # on a busy machine it may be cut already
                reader.sendall(large * 20)  # what they ask for while they do not read is not taken
        for _ in range(5):
            assert len(dog.call(body=b"b").body) == 5_000_000
        assert dog.memory() - before < 100_000_000
        for sender in senders:
            assert sender.recv(100).startswith(b"HTTP/1.1 408")
        until(lambda: _connections(dog) == 0, "all of them are cut")
        assert dog.call("GET", "/_/health").status == 200


def _connections(dog: Watchdog) -> int:
    """Established connections to the function's port, as the kernel sees them at the watchdog's side."""
    port = f":{dog.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(fields[1].endswith(port) and fields[3] == "01" for fields in map(str.split, lines))


def test_the_memory_of_large_bodies_is_taken_over_and_not_mapped_anew():
    def faults() -> int:
        return int(Path(f"/proc/{dog.process.pid}/stat").read_text().rpartition(")")[2].split()[7])

    body = b"x" * 5_000_000
    pages = len(body) // resource.getpagesize()
    with watchdog("def handle(event, context):\n    return len(event.body)\n") as dog:
        for _ in range(3):
            assert dog.call(body=body).status == 200
        before = faults()
        for _ in range(10):
            assert dog.call(body=body).status == 200
        # Mapped anew, each body would cost its pages once or twice.
        assert (faults() - before) / 10 < pages / 4


@contextmanager
def a_cgroup(memory: int) -> Iterator[Path]:
    """A memory cgroup with this limit, of version 1 or 2; skip the test where none can be made."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory").exists():
        group, limit = root / "memory" / f"tailbound-{os.getpid()}", "memory.limit_in_bytes"
    else:
        group, limit = root / f"tailbound-{os.getpid()}", "memory.max"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if not (group / limit).exists():
            pytest.skip(f"{group} has no memory controller")
        (group / limit).write_text(str(memory))
        yield group
    finally:
        with suppress(OSError):
            group.rmdir()


def test_bodies_that_a_small_container_cannot_hold_are_refused_and_its_first_process_lives():
    handler = Path("functions/accelerator/handler.py").read_text()

    def status(body: bytes) -> int | None:
        try:
            return dog.call(body=body).status
        except ConnectionError:
            return None  # refused at its header, and closed before it had sent its body

    with a_cgroup(256 << 20) as group:
        run = f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -m batching_watchdog"
        dog = Watchdog(handler, {}, command=("sh", "-c", run))
        with ExitStack() as stack, ThreadPoolExecutor(16) as clients:
            stack.callback(dog.clean_up)
            dog.wait_ready()
            for _ in range(3):
                assert set(clients.map(status, [bytes(15 << 20)] * 16)) <= {413, 429, None}
                assert set(clients.map(status, [bytes(7 << 20)] * 16)) <= {200, 429, None}
            assert dog.call(body=bytes(7 << 20)).status == 200
            assert dog.process.poll() is None
            assert dog.metric("watchdog_worker_restarts_total") == 0
