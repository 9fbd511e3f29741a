"""A function that streams, with real workers and real sockets."""

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from support.processes import Watchdog, read_all, starting_watchdog, watchdog
from support.waits import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

COUNTS = """
import os, pathlib, time

HERE = pathlib.Path(__file__).parent

def log(text):
    with (HERE / "calls").open("a") as calls:
        calls.write(text + "\\n")

def start(events, context):
    log("start " + " ".join(event.body.decode() for event in events))
    for event in events:
        if event.body == b"unstartable":
            raise ValueError("cannot start")
    return [{"name": event.body.decode(), "at": 0} for event in events]

def step(states, context):
    time.sleep(0.01)
    if any(state["name"] == "gated" and state["at"] == 1 for state in states):
        while not (HERE / "gate").exists():
            time.sleep(0.01)
    results = []
    for state in states:
        state["at"] += 1
        name, at = state["name"], state["at"]
        if name == "bad" and at == 3:
            results.append(ValueError("bad at 3"))
        elif name == "die" and at == 3:
            os._exit(1)
        elif name == "few" and at >= 3:
            return results
        elif name == "large":
            results.append((b"x" * 100_000, False))
        elif name == "endless":
            results.append((at, False))
        elif name == "pid":
            results.append((os.getpid(), False))
        elif name == "empty":
            results.append(({"statusCode": 204}, True))
        elif name == "quiet":
            results.append((None if at < 3 else "end", at == 3))
        elif name == "whole":
            whole = {"body": {"all": 3}, "headers": {"Content-Type": "application/json"}}
            results.append((None if at < 3 else whole, at == 3))
        elif name == "own":
            results.append(({"body": b"a%d" % at, "headers": {"Content-Type": "text/csv"}}, at == 2))
        else:
            results.append(({"token": at}, at == 3))
    return results

def finish(state, context):
    log("finish " + state["name"])
    if state["name"] == "unfinishable":
        raise RuntimeError("cannot finish")
"""


@contextmanager
def counting(**environment: str) -> Iterator[Watchdog]:
    """A watchdog with ``COUNTS``, whose steps may take as long as they like."""
    with watchdog(COUNTS, slo_interval="60s", **environment) as dog:
        yield dog


def calls(dog: Watchdog) -> list[str]:
    path = dog.folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def lines(body: bytes) -> list[object]:
    return [json.loads(line) for line in body.splitlines()]


def message(partial: bytes) -> str:
    """The error at the end of lines that broke off."""
    return json.loads(partial.splitlines()[-1])["error"]["message"]


@contextmanager
def streaming(
    dog: Watchdog, body: str, headers: Mapping[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """A stream whose first piece has come."""
    connection = http.client.HTTPConnection("127.0.0.1", dog.port, timeout=PATIENCE)
    connection.request("POST", "/", body, dict(headers or {}))
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def test_pieces_come_as_json_lines_and_finish_follows_once():
    with counting() as dog:
        answer = dog.call(body=b"a")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
        assert lines(answer.body) == [{"token": 1}, {"token": 2}, {"token": 3}]
        assert calls(dog) == ["start a", "finish a"]
        assert dog.metric('slo_requests_total{outcome="good",slo_class="default"}') == 1
        assert dog.metric('watchdog_first_piece_seconds_count{slo_class="default"}') == 1
        assert dog.metric('watchdog_piece_interval_seconds_count{slo_class="default"}') == 2
        assert dog.metric('watchdog_joins_total{reason="idle"}') == 1
        assert dog.metric("watchdog_streams") == 0
        assert dog.metric("watchdog_concurrency") > 0
        assert dog.metric("watchdog_capacity_requests_per_second") > 0
        assert dog.metric("http_requests_in_flight") == 0


def test_pieces_come_as_events_where_the_client_accepts_them():
    with counting() as dog:
        answer = dog.call(body=b"a", headers={"Accept": "text/event-stream"})
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.body == b'data: {"token":1}\n\ndata: {"token":2}\n\ndata: {"token":3}\n\n'
        quiet = dog.call(body=b"quiet", headers={"Accept": "text/event-stream"})
        assert quiet.body == b"data: end\n\n"


def test_pieces_with_their_own_content_type_are_sent_as_they_are():
    with counting() as dog:
        answer = dog.call(body=b"own")
        assert (answer.headers["Content-Type"], answer.body) == ("text/csv", b"a1a2")


def test_whole_answer_in_json_is_one_although_a_stream_has_json_lines():
    with counting() as dog:
        answer = dog.call(body=b"whole")
        assert (answer.headers["Content-Type"], answer.body) == ("application/json", b'{"all":3}')


def test_browser_that_connects_again_after_the_end_is_told_to_stop():
    with counting() as dog:
        events = {"Accept": "text/event-stream"}
        first = dog.call("GET", "/", b"", headers=events)
        assert first.body.startswith(b'data: {"token":1}\n\n')
        last = first.body.split(b"\n\n")[-2]
        fields = dict(line.split(b": ", 1) for line in last.splitlines() if b": " in line)
        again = dog.call("GET", "/", b"", headers=events | {"Last-Event-ID": fields[b"id"].decode()})
        assert again.status == 204
        assert calls(dog) == ["start ", "finish "]


def test_request_joins_streams_that_run_and_ends_before_them():
    with counting() as dog, streaming(dog, "endless") as first:
        assert first.readline() == b"1\n"
        assert lines(dog.call(body=b"b").body)[-1] == {"token": 3}
        assert dog.metric('watchdog_joins_total{reason="join"}') == 1
        assert calls(dog) == ["start endless", "start b", "finish b"]


def test_first_piece_with_the_status_of_an_answer_without_body_begins_a_stream():
    with counting() as dog:
        assert dog.call(body=b"empty").status == 200


@pytest.mark.parametrize(
    "leave",
    [socket.socket.close, lambda client: client.shutdown(socket.SHUT_WR)],
    ids=["resets", "closes its sending side"],
)
def test_client_that_leaves_frees_its_place_for_the_next(leave):
    with counting(max_streams="1") as dog, dog.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nendless")
        client.recv(1)
        leave(client)
        assert dog.call(body=b"b").status == 200
        assert calls(dog) == ["start endless", "finish endless", "start b", "finish b"]
        assert dog.metric('watchdog_stream_cancels_total{reason="client_left"}') == 1


def test_client_that_reads_byte_by_byte_is_cut_and_others_go_on():
    def is_cut():
        with suppress(ConnectionError):
            slow.recv(1)
        return dog.metric('watchdog_stream_cancels_total{reason="slow_reader"}') == 1

    with counting() as dog, dog.connect() as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nlarge")
        until(is_cut, "it is cut")
        until(lambda: "finish large" in calls(dog), "its state is finished")
        assert dog.call(body=b"b").status == 200


def test_error_before_the_first_piece_has_its_own_status():
    with counting() as dog:
        assert dog.call(body=b"unstartable").status == 500
        until(lambda: "cannot start" in dog.log, "the log has the reason")
        assert dog.metric('slo_requests_total{outcome="error",slo_class="default"}') == 1


def test_exception_for_one_state_breaks_off_that_stream_alone():
    with counting() as dog, streaming(dog, "endless") as other, streaming(dog, "bad") as bad:
        assert bad.status == 200
        with pytest.raises(http.client.IncompleteRead) as broken:
            bad.read()
        assert message(broken.value.partial) == "bad at 3"
        assert other.readline()
        assert "finish bad" in calls(dog)


def test_stream_that_fails_tells_a_client_of_events_by_an_error_event():
    with counting() as dog, streaming(dog, "bad", {"Accept": "text/event-stream"}) as bad:
        with pytest.raises(http.client.IncompleteRead) as broken:
            bad.read()
        assert broken.value.partial.endswith(b'event: error\ndata: {"error": {"message": "bad at 3"}}\n\n')


def test_step_with_too_few_results_names_both_counts_and_fails_its_stream_alone():
    with counting() as dog, streaming(dog, "endless") as other:
        other.readline()
        with streaming(dog, "few") as few, pytest.raises(http.client.IncompleteRead):
            few.read()
        until(lambda: "step returned 0 results for 1 states" in dog.log, "both counts are named")
        assert calls(dog)[-1] == "finish few"
        assert json.loads(other.readline()) > 1
        assert dog.metric("watchdog_worker_restarts_total") == 0


def test_stream_whose_worker_dies_breaks_off():
    with counting() as dog, streaming(dog, "die") as dying:
        with pytest.raises(http.client.IncompleteRead):
            dying.read()
        until(lambda: dog.call(body=b"b").status == 200, "another serves")


def test_worker_that_the_kernel_kills_costs_its_own_streams_alone():
    with counting(workers="2", max_streams="1") as dog, streaming(dog, "pid") as first:
        killed = int(first.readline())
        with streaming(dog, "pid") as other:
            other.readline()
            os.kill(killed, signal.SIGKILL)  # as for lack of memory
            with pytest.raises(http.client.IncompleteRead) as broken:
                first.read()
            assert "worker died" in message(broken.value.partial)
            assert dog.call(body=b"b").status == 200
            assert other.readline()


def test_body_that_parse_refuses_is_the_clients_error_and_starts_no_stream():
    handler = """
    def parse(event):
        return int(event.body)
    def start(numbers, context):
        return list(numbers)
    def step(states, context):
        return [(state, True) for state in states]
    """
    with watchdog(handler, slo_interval="60s") as dog:
        assert dog.call(body=b"x").status == 400
        assert dog.call(body=b"7").body == b"7\n"
        assert dog.metric('watchdog_first_piece_seconds_count{slo_class="default"}') == 1


def test_finish_that_raises_is_logged_and_harms_no_answer():
    with counting() as dog:
        assert lines(dog.call(body=b"unfinishable").body)[-1] == {"token": 3}
        until(lambda: "cannot finish" in dog.log, "it is logged")
        assert dog.call(body=b"b").status == 200


def test_exec_timeout_breaks_off_a_stream_and_frees_its_place():
    with counting(max_streams="1") as dog:
        with streaming(dog, "endless", {"X-Timeout": "1s"}) as first:
            with pytest.raises(http.client.IncompleteRead) as broken:
                first.read()
            assert "not ended within" in message(broken.value.partial)
        assert dog.call(body=b"b").status == 200
        assert dog.metric('watchdog_stream_cancels_total{reason="expired"}') == 1


HANGS = """
import time

def start(events, context):
    return [bytes(event.body) for event in events]

def step(states, context):
    while b"hangs" in states:
        time.sleep(0.05)
    return [(state, True) for state in states]
"""


def test_step_that_hangs_while_streams_wait_is_ended_before_exec_timeout():
    with watchdog(HANGS, slo_latency="200ms", slo_interval="50ms") as dog, ThreadPoolExecutor() as pool:
        assert dog.call(body=b"a").status == 200
        pool.submit(dog.call, body=b"hangs", headers={"X-Timeout": "8s"})
        until(lambda: not dog.ready(), "it hangs")
        pool.submit(dog.call, body=b"waits", headers={"X-Timeout": "8s"})
        until(lambda: dog.metric("watchdog_worker_restarts_total") == 1, "its worker is ended")


def test_http_1_0_client_reads_until_the_connection_closes():
    with counting() as dog, dog.connect() as old:
        old.sendall(b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\na")
        head, _, body = read_all(old).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert lines(body)[-1] == {"token": 3}


def test_head_gets_the_headers_and_its_stream_is_dropped():
    with counting() as dog:
        answer = dog.call("HEAD", "/", b"endless")
        assert (answer.status, answer.headers["Content-Type"], answer.body) == (
            200, "application/x-ndjson", b"",
        )  # fmt: skip
        until(lambda: "finish endless" in calls(dog), "its state is finished")


def test_answers_of_a_pipelining_client_keep_their_order():
    with counting() as dog, dog.connect() as client:
        request = b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: 1\r\n\r\n%b"
        client.sendall(request % (b"", b"a") + request % (b"Connection: close\r\n", b"b"))
        first, second = read_all(client).split(b"HTTP/1.1 200 OK")[1:]
        assert first.endswith(b"0\r\n\r\n")
        assert first.count(b"token") == second.count(b"token") == 3


def test_stream_that_ends_within_the_grace_of_the_drain_ends_well():
    with counting(write_timeout=f"{PATIENCE:.0f}s") as dog, streaming(dog, "gated") as stream:
        stream.readline()
        dog.begin_to_drain()
        dog.open_gate()
        assert lines(stream.read())[-1] == {"token": 3}
        assert dog.ended() == 0


def test_drain_breaks_off_streams_after_its_grace():
    with counting(write_timeout="1s") as dog, streaming(dog, "endless") as stream:
        stream.readline()
        dog.process.send_signal(signal.SIGTERM)
        with pytest.raises(http.client.IncompleteRead) as broken:
            stream.read()
        assert "shutting down" in message(broken.value.partial)
        assert dog.ended() == 1


def test_requests_that_come_while_the_worker_loads_are_streamed(tmp_path):
    gate = tmp_path / "loaded"
    handler = f"""
    import os, time
    def load():
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.01)
    def start(events, context):
        return [3 for event in events]
    def step(states, context):
        return [("x", True) for state in states]
    """
    with starting_watchdog(handler) as dog:
        until(lambda: "listens on" in dog.log, "it listens")
        with dog.connect() as client:
            client.sendall(b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\na")
            until(lambda: dog.metric("watchdog_queue_length") == 1, "it waits")
            gate.touch()
            assert read_all(client).endswith(b'"x"\n')


GENERATOR = """
def handle_batch(events, context):
    for at in range(3):
        yield [f"{event.body.decode()}{at}" if event.body != b"short" or at == 0 else StopIteration
               for event in events]
"""


def test_handle_batch_that_is_a_generator_streams_its_yields():
    with watchdog(GENERATOR, slo_interval="60s") as dog:
        assert dog.call(body=b"a").body == b'"a0"\n"a1"\n"a2"\n'
        assert dog.call(body=b"short").body == b'"short0"\n'


PROFILED = """
import time

def example():
    return b"e"

def start(events, context):
    return [0 for event in events]

def step(states, context):
    time.sleep(0.03)
    return [("x", True) for state in states]
"""


def test_example_is_measured_before_ready():
    with watchdog(PROFILED, slo_interval="100ms", max_streams="8") as dog:
        dog.call()
        assert dog.metric("watchdog_concurrency") == 8


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        ("def start(e, c): pass\ndef step(s, c): pass\ndef handle(e, c): pass\n", "handle"),
        ("def start(e, c): pass\n", "step(states, context)"),
        ("def example(): return b''\ndef start(e, c): return 1 / 0\ndef step(s, c): pass\n", "example()"),
    ],
    ids=["both", "half", "fails on its example"],
)  # fmt: skip
def test_handler_that_cannot_stream_stops_the_start(handler, named):
    with starting_watchdog(handler) as dog:
        assert dog.ended() != 0
        assert named in dog.log


def test_worker_ends_after_max_requests_once_its_streams_have_ended():
    with counting(max_requests="2") as dog:
        pids = set()
        for _ in range(6):
            assert dog.call(body=b"a").status == 200
            pids.update(dog.workers())
        until(lambda: dog.metric("watchdog_workers_recycled_total") >= 1, "one is replaced")
        assert len(pids | set(dog.workers())) > 1


def test_probe_of_the_function_itself_is_answered_by_its_first_piece():
    with watchdog(COUNTS, slo_interval="60s", ready_path="/warm") as dog:
        assert dog.call("GET", "/_/ready").status == 200
        until(lambda: calls(dog)[-1:] == ["finish "], "its stream is dropped")
