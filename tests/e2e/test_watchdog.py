"""The watchdog with real gunicorn workers, over real sockets: what docs/reference/ promises of the whole."""

import json
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.processes import ECHO, GATED, read_all, starting_watchdog, watchdog
from support.waits import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BATCHES = """
import time

def handle_batch(events, context):
    time.sleep(0.05)
    return [
        {"statusCode": 201, "body": event.body, "headers": {
            "X-Size": len(events), "X-Asked": f"{event.method} {event.path} {event.query.get('a')}",
            "X-Ask": event.headers.get("x-ask", "")}}
        for event in events
    ]
"""


def test_requests_that_come_together_are_served_in_batches_and_answered_in_order():
    with watchdog(BATCHES) as dog:
        bodies = [b"%d" % number for number in range(24)] + [os.urandom(3_000_000)]
        answers = dog.call_all(bodies)
        assert [answer.body for answer in answers] == bodies
        assert {answer.status for answer in answers} == {201}
        assert max(int(answer.headers["X-Size"]) for answer in answers) > 1
        assert [answer.headers["X-Size"] for answer in answers] == [
            answer.headers["X-Batch-Size"] for answer in answers
        ]
        chunked = dog.call("PUT", "/p%20q?a=1", iter([b"ab", b"cd"]), {"X-Ask": "me"})
        assert (chunked.headers["X-Asked"], chunked.headers["X-Ask"]) == ("PUT /p q 1", "me")
        assert chunked.body == b"abcd"
        assert dog.metric('slo_requests_total{outcome="good",slo_class="default"}') == 26
        assert dog.metric("http_requests_in_flight") == 0


def test_bad_bodies_are_refused_and_cost_neither_the_slo_nor_the_requests_beside_them():
    handler = """
def handle_batch(events, context):
    return [sum(event.json()) for event in events]
"""
    with watchdog(handler) as dog:
        answers = dog.call_all([b"not json", b"[1, 2]"] * 20)
        assert [answer.status for answer in answers] == [400, 200] * 20
        assert {answer.body for answer in answers[1::2]} == {b"3"}
        assert dog.metric("watchdog_client_errors_total") == 20
        assert dog.metric('slo_requests_total{outcome="good",slo_class="default"}') == 20
        assert dog.metric('slo_requests_total{outcome="error",slo_class="default"}') == 0
        assert "Traceback" not in dog.log
        until(lambda: "client error: POST /: 400, the body is not JSON" in dog.log, "it is logged")


def test_model_that_is_slower_than_its_target_is_told_once():
    handler = """
import time

def handle(event, context):
    time.sleep(0.1)
"""
    with watchdog(handler, slo_latency="50ms") as dog:
        for _ in range(5):
            dog.call()
        until(lambda: dog.log.count("longer than slo_latency") == 1, "it is logged")


WEIGHT = """
def weight(event):
    return {b"s": 0.5, b"l": 30}[event.body[:1]]
"""


def test_length_decides_where_the_weight_of_the_function_fails():
    with watchdog(BATCHES, weight=WEIGHT) as dog:
        assert {answer.status for answer in dog.call_all([b"short", b"large"] * 8)} == {201}
        assert dog.metric("watchdog_weight_failures_total") == 0
        assert {answer.status for answer in dog.call_all([b"?"] * 3)} == {201}
        assert dog.metric("watchdog_weight_failures_total") == 3
        assert dog.log.count("KeyError") == 1


def test_hung_worker_is_killed_logs_where_it_hung_and_its_request_is_answered_504():
    with watchdog(GATED, slo_latency="2s", exec_timeout="2s") as dog:
        dog.open_gate()
        until(lambda: dog.call().status == 200, "a first batch has ended")
        dog.close_gate()
        answer = dog.call()
        assert (answer.status, answer.headers["X-Watchdog-Reason"]) == (504, "expired")
        until(lambda: dog.metric("watchdog_worker_restarts_total") == 1, "it is killed")
        until(lambda: f'"{dog.folder}/handler.py", line' in dog.log, "its stack is in the log")
        dog.open_gate()
        until(lambda: dog.call(body=b"fine").status == 200, "a new worker serves")


def test_handler_that_crashes_in_native_code_logs_where():
    handler = """
    import ctypes
    def read_weights():
        ctypes.string_at(0)
    def handle(event, context):
        read_weights()
    """
    with watchdog(handler) as dog:
        dog.call()
        until(lambda: " in read_weights" in dog.log, "its stack is in the log")


def test_function_serves_where_the_path_of_temporary_files_is_too_long_for_a_socket(tmp_path):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    with watchdog(ECHO, TMPDIR=str(long)) as dog:
        assert dog.call(body=b"hello").body == b"hello"


def test_health_is_good_at_once_and_ready_only_when_the_model_is_loaded(tmp_path):
    gate = tmp_path / "loaded"
    handler = f"""
    import os, time
    def load():
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.02)
    def handle(event, context):
        return "ok"
    """
    with starting_watchdog(handler) as dog, ThreadPoolExecutor(1) as pool:
        until(lambda: dog.call("GET", "/_/health").status == 200, "healthy")
        assert (dog.folder / ".lock").exists()
        assert dog.call("GET", "/_/ready").status == 503
        until(lambda: dog.metric('watchdog_workers{state="starting"}') == 1, "one starting")
        # A request that comes before the model is loaded is queued, not refused.
        early = pool.submit(dog.call)
        until(lambda: dog.metric("watchdog_queue_length") == 1, "it is queued")
        assert math.isnan(dog.metric("watchdog_start_up_seconds"))
        gate.touch()
        assert early.result().status == 200
        assert dog.ready()
        assert dog.metric("watchdog_start_up_seconds") > 0


def test_the_handler_is_measured_with_its_example_before_the_first_request_is_served():
    handler = """
    import time
    def example():
        return b"typical"
    def handle_batch(events, context):
        time.sleep(0.03)
        return [event.body for event in events]
    """
    with watchdog(handler, max_batch_size="4") as dog:
        # l(1) is known, and no machine makes it shorter than it is.
        assert dog.metric('watchdog_service_seconds_predicted{size="1"}') >= 0.03
        until(lambda: dog.metric("watchdog_capacity_requests_per_second") > 0, "the capacity is known")


def test_sigterm_under_load_loses_nothing_that_was_accepted():
    with (
        watchdog(GATED, workers="2", max_batch_size="4", healthcheck_interval="3s") as dog,
        ThreadPoolExecutor(17) as pool,
    ):
        accepted = [pool.submit(dog.call, body=b"x") for _ in range(16)]
        until(lambda: dog.metric("http_requests_in_flight") == 16, "the load is there")
        dog.process.send_signal(signal.SIGTERM)
        until(lambda: not (dog.folder / ".lock").exists(), "the lock file goes")
        # Health fails first; requests are taken in until the listener closes.
        until(lambda: dog.call("GET", "/_/health").status == 503, "health fails")
        dog.open_gate()
        assert {call.result().status for call in accepted} == {200}
        assert dog.ended() == 0
        assert "drained" in dog.log


LARGE = "def handle(event, context):\n    return bytes(20_000_000)\n"
ASK = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"


def test_an_answer_is_sent_whole_though_its_client_reads_it_late_in_the_drain():
    with watchdog(LARGE, write_timeout=f"{PATIENCE:.0f}s") as dog, dog.connect() as client:
        client.sendall(ASK + b"\r\nx")
        until(
            lambda: dog.metric('slo_requests_total{outcome="good",slo_class="default"}') == 1,
            "it is answered",
        )
        dog.begin_to_drain()
        time.sleep(1.0)
        assert len(read_all(client)) > 20_000_000
        assert dog.ended() == 0
        assert "drained" in dog.log


def test_a_body_that_is_complete_after_the_drain_began_is_served():
    with watchdog(ECHO) as dog, dog.connect() as client:
        client.sendall(ASK + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        dog.begin_to_drain()
        time.sleep(1.0)
        client.sendall(b"x")
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in answer
        assert dog.ended() == 0


def test_request_not_served_within_the_drain_limit_is_refused():
    with watchdog(GATED, write_timeout="1s") as dog, dog.connect() as client:
        client.sendall(ASK + b"\r\nx")
        until(lambda: dog.metric("http_requests_in_flight") == 1, "it is busy")
        dog.begin_to_drain()
        assert read_all(client).startswith(b"HTTP/1.1 503")
        assert dog.ended() == 1


def test_a_second_sigterm_ends_at_once():
    with watchdog(GATED, healthcheck_interval="200s") as dog, ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(dog.call)
        until(lambda: dog.metric("http_requests_in_flight") == 1, "it is busy")
        dog.process.send_signal(signal.SIGTERM)
        until(lambda: dog.call("GET", "/_/health").status == 503, "draining")
        dog.process.send_signal(signal.SIGTERM)
        assert dog.ended() == 1
        assert isinstance(stuck.exception(), OSError)


def test_requests_are_answered_and_sigterm_drains_while_no_process_reads_the_log():
    handler = "def handle(event, context):\n    print('x' * 3000, flush=True)\n    return event.body\n"
    reader, writer = os.pipe()
    try:
        # A pipe holds 64 KiB; the log of these requests and the output of the workers are more, each.
        with watchdog(handler, writer, access_log="true") as dog:
            for _ in range(400):
                assert dog.call("POST", "/" + "p" * 190, b"a").body == b"a"
            until(lambda: dog.metric("watchdog_log_lines_dropped_total") > 0, "lines are dropped")
            assert dog.stop() == 0
        os.close(writer)
        assert b" POST /ppp" in os.read(reader, 1 << 16)
    finally:
        os.close(reader)


def test_a_killed_watchdog_leaves_no_process_behind():
    with watchdog(ECHO, workers="2") as dog:
        until(lambda: len(dog.workers()) == 2, "both workers run")
        dog.process.kill()
        dog.ended()


@pytest.mark.parametrize(
    ("named", "value", "status"), [("slo_latency", "soon", 2), ("function_path", "/no/such/folder", 1)]
)
def test_start_that_cannot_work_ends_with_a_message_that_names_the_variable(named, value, status):
    with starting_watchdog(ECHO, **{named: value}) as dog:
        assert dog.ended() == status
        last = dog.log.splitlines()[-1]
        assert last.startswith(f"batching-watchdog: {named}=")
        assert "Traceback" not in dog.log


RAISING = """
def handle(event, context):
    return model()

def model():
    raise ValueError("no such layer")
"""


def test_failure_of_the_handler_is_one_record_that_begins_with_its_own_frame_and_names_its_request():
    with watchdog(RAISING, log_format="json", access_log="missed") as dog:
        assert dog.call(headers={"X-Call-Id": "2a7b9d50"}).status == 500
        until(lambda: dog.log.count("2a7b9d50") >= 3, "the request and its failure are logged")
        documents = [json.loads(line) for line in dog.log.splitlines()]
    (line,) = [each for each in documents if each["event"] == "request"]
    assert (line["call_id"], line["outcome"], line["batch_size"]) == ("2a7b9d50", "error", 1)
    (failure,) = [each for each in documents if each["event"] == "failure"]
    assert failure["call_id"] == "2a7b9d50"
    first, *lines = failure["trace"].splitlines()
    assert first.startswith("Traceback")
    assert lines[0] == f'  File "{dog.folder}/handler.py", line 3, in handle'
    assert lines[-1] == "ValueError: no such layer"


@pytest.mark.parametrize(("broken", "preload"), [("load", "auto"), ("load", "false"), ("weight", "auto")])
def test_trace_of_what_cannot_be_loaded_is_in_the_log_before_the_message(broken, preload):
    code = "def inner():\n    raise OSError('no weights')\n"
    handler = f"{code}def load():\n    inner()\ndef handle(event, context): ...\n"
    own = {"load": (handler, ""), "weight": (ECHO, f"{code}inner()\n")}[broken]
    with starting_watchdog(own[0], None, own[1], preload=preload, workers="2") as dog:
        assert dog.ended() == 1
        *log, last = dog.log.splitlines()
        start = log.index("Traceback (most recent call last):")
        frames = [line for line in log[start:] if line.startswith("  File ")]
        assert [line.startswith(f'  File "{dog.folder}') for line in frames] == [True, True]
        assert frames[1].endswith("line 2, in inner")
        assert log.count("OSError: no weights") == 1
        assert last.startswith("batching-watchdog: ")
        assert "OSError: no weights" in last


def test_lock_file_that_cannot_be_written_is_not_removed(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "missing" / "file")
    with watchdog(ECHO, TMPDIR=str(tmp_path)) as dog:
        dog.process.send_signal(signal.SIGTERM)
        assert dog.ended() == 0
    assert (tmp_path / ".lock").is_symlink()


def test_a_taken_port_stops_the_start_and_leaves_its_holders_lock_file_alone():
    with watchdog(ECHO) as dog, starting_watchdog(ECHO, port=str(dog.port), TMPDIR=str(dog.folder)) as second:
        assert second.ended() == 1
        assert second.log.splitlines()[-1].startswith(f"batching-watchdog: port={dog.port}: ")
        assert (dog.folder / ".lock").exists()
