"""The watchdog's edge with real processes: many idle connections, slow clients, slow readers."""

import json
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from e2e.processes import ECHO, GATED, Watchdog, wait_until, watchdog

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


def connect(dog: Watchdog, *, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    # Closing resets, so that thousands of ports do not wait out their time afterwards.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(120)
    connection.connect(("127.0.0.1", dog.port))
    return connection


def memory(dog: Watchdog) -> int:
    """Resident bytes of the watchdog process itself."""
    pages = int(Path(f"/proc/{dog.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def answered(connection: socket.socket) -> bytes:
    """All that comes until the end of a head."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


def test_ten_thousand_idle_connections_cost_bounded_memory_and_others_are_served():
    with many_files() as files, ExitStack() as stack, watchdog(ECHO) as dog:
        count = min(10_000, files - 1000)
        for _ in range(100):
            dog.call(body=b"warm")
        before = memory(dog)
        connections = [stack.enter_context(connect(dog)) for _ in range(count)]
        for connection in connections:
            connection.sendall(HEALTH)
        for connection in connections:
            assert answered(connection).startswith(b"HTTP/1.1 200")
        each = (memory(dog) - before) / count
        assert dog.call(body=b"still").body == b"still"
        # 3.2 KiB were measured; the rest is for other allocators.
        assert each < 8192


def test_slow_senders_and_slow_readers_are_cut_and_others_are_served_meanwhile_in_bounded_memory():
    handler = "def handle(event, context):\n    return event.body * 5_000_000\n"
    large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"
    starts = [b"GET / HTTP/1.1\r\nHo", large[:-1], large[:-1].replace(b": 1", b": 9") + b"1"]
    with ExitStack() as stack, watchdog(handler, read_timeout="3s", write_timeout="2s") as dog:
        assert len(dog.call(body=b"a").body) == 5_000_000
        before = memory(dog)
        senders = [stack.enter_context(connect(dog)) for _ in range(300)]
        for number, sender in enumerate(senders):
            sender.sendall(starts[number % len(starts)])
        readers = [stack.enter_context(connect(dog, receive_buffer=4096)) for _ in range(8)]
        for reader in readers:
            reader.sendall(large)
        wait_until(
            lambda: dog.metric('slo_requests_total{outcome="good",slo_class="default"}') >= 9,
            "all are answered",
        )
        for reader in readers:
            reader.sendall(large * 20)  # what they ask for while they do not read is not taken
        for _ in range(5):
            assert len(dog.call(body=b"b").body) == 5_000_000
        assert memory(dog) - before < 100_000_000
        for sender in senders:
            assert answered(sender).startswith(b"HTTP/1.1 408")
        wait_until(lambda: _connections(dog) == 0, "all of them are cut")
        assert dog.call("GET", "/_/health").status == 200


def test_connections_beyond_the_bound_are_refused_but_the_health_check_is_answered():
    with watchdog(GATED, max_connections="3") as dog, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(dog)).sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: dog.metric("http_requests_in_flight") == 3, "all are busy")
        assert dog.call("GET", "/_/health").status == 200
        refused = dog.call()
        assert (refused.status, refused.headers["X-Watchdog-Reason"]) == (503, "too_many_connections")


def test_in_json_every_line_is_an_object_and_a_failed_request_is_found_by_its_call_id():
    handler = """
    def handle(event, context):
        return 1 / int(event.body)
    """
    with watchdog(handler, access_log="missed", log_format="json") as dog:
        assert dog.call("POST", "/ok", b"1", {"X-Call-Id": "c-1"}).status == 200
        assert dog.call("POST", "/bad", b"0", {"X-Call-Id": "c-2"}).status == 500
        wait_until(lambda: "ZeroDivisionError: " in dog.log and '"c-2"' in dog.log, "both have been written")
        documents = [json.loads(line) for line in dog.log.splitlines()]
    (line,) = [each for each in documents if each["event"] == "request"]
    assert (line["call_id"], line["outcome"], line["batch_size"]) == ("c-2", "error", 1)
    assert any("POST /bad [c-2]" in each["text"] for each in documents if each["event"] == "failure")
    assert not any("c-1" in str(each) for each in documents)


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
