"""The watchdog with real gunicorn workers, over real sockets: every promise of docs/behavior.md."""

import asyncio
import contextlib
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batching_watchdog.speedups import compiled
from e2e.client import Client
from e2e.processes import Watchdog, starting_watchdog, wait_until, watchdog

pytestmark = pytest.mark.e2e

ECHO = """
import time

def handle_batch(events, context):
    time.sleep(0.02)
    return [{"echo": event.body.decode(), "size": len(events)} for event in events]
"""


def test_requests_that_come_together_are_served_in_batches_and_answered_in_order():
    with watchdog(ECHO) as dog:
        bodies = [b"%d" % number for number in range(24)]
        answers = dog.call_all(bodies)
        assert [json.loads(answer.body)["echo"] for answer in answers] == [body.decode() for body in bodies]
        assert max(json.loads(answer.body)["size"] for answer in answers) > 1
        assert all(float(answer.headers["X-Duration-Seconds"]) > 0 for answer in answers)
        assert max(int(answer.headers["X-Batch-Size"]) for answer in answers) > 1
        assert {answer.headers["X-Batch-Reason"] for answer in answers} <= {
            "idle",
            "best_size",
            "full",
            "deadline",
            "late",
        }
        assert dog.metric('slo_requests_total{outcome="good"}') == 24
        assert dog.metric("http_requests_in_flight") == 0


def test_it_serves_without_its_compiled_part_and_says_that_it_lacks_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['batching_watchdog._speedups'] = None\n"  # importing it fails
    )
    with watchdog(ECHO, PYTHONPATH=str(tmp_path)) as dog:
        bodies = [b"%d" % number for number in range(24)]
        answers = [json.loads(answer.body) for answer in dog.call_all(bodies)]
        assert [answer["echo"] for answer in answers] == [body.decode() for body in bodies]
        assert max(answer["size"] for answer in answers) > 1
        assert "; built without its compiled part" in dog.log
    with watchdog(ECHO) as dog:
        assert ("; built without its compiled part" in dog.log) == (compiled is None)


def test_requests_with_another_path_or_batch_key_are_never_in_one_batch():
    handler = """
    import time
    def handle_batch(events, context):
        time.sleep(0.02)
        kinds = {(event.path, event.headers.get("X-Batch-Key")) for event in events}
        return [{"kinds": len(kinds), "size": len(events)} for _ in events]
    """
    with watchdog(handler, batch_policy="aimd") as dog:
        with ThreadPoolExecutor(24) as pool:
            calls = [("/a", "short"), ("/a", "long"), ("/b", "long")] * 8
            answers = list(
                pool.map(lambda call: dog.call("POST", call[0], b"", {"X-Batch-Key": call[1]}), calls)
            )
        assert {json.loads(answer.body)["kinds"] for answer in answers} == {1}
        assert max(json.loads(answer.body)["size"] for answer in answers) > 1


def test_an_unmodified_python3_http_handler_works():
    handler = """
    def handle(event, context):
        if event.path == "/teapot":
            return {"statusCode": 418, "body": {"method": event.method, "q": event.query["x"]},
                    "headers": {"X-Custom": event.headers["X-Ask"]}}
        return "hello " + context.hostname[:0] + event.body.decode()
    """
    with watchdog(handler) as dog:
        teapot = dog.call("PUT", "/teapot?x=1", b"", {"x-ask": "me"})
        assert (teapot.status, json.loads(teapot.body)) == (418, {"method": "PUT", "q": "1"})
        assert (teapot.headers["X-Custom"], teapot.headers["Content-Type"]) == ("me", "application/json")
        assert dog.call(body=b"you").body == b"hello you"


def test_a_chunked_request_body_reaches_the_handler():
    with watchdog("def handle(event, context):\n    return event.body\n") as dog:
        answer = dog.call(body=iter([b"ab", b"cd"]))
        assert answer.body == b"abcd"


def test_a_large_body_passes_through_unchanged_both_ways():
    with watchdog("def handle(event, context):\n    return event.body\n") as dog:
        body = os.urandom(5_000_000)
        assert dog.call(body=body).body == body


def test_one_bad_input_fails_alone():
    handler = """
    import time
    def handle_batch(events, context):
        time.sleep(0.02)
        return [1 / float(event.body) for event in events]
    """
    with watchdog(handler) as dog:
        answers = dog.call_all([b"0"] + [b"2"] * 15)
        assert answers[0].status == 500
        assert b"ZeroDivisionError" not in answers[0].body
        assert {(answer.status, answer.body) for answer in answers[1:]} == {(200, b"0.5")}
        wait_until(lambda: "ZeroDivisionError" in dog.log, "the log has the reason")
        assert dog.metric('slo_requests_total{outcome="error"}') == 1


def test_an_exception_as_a_result_is_an_error_of_that_item():
    handler = """
    def handle_batch(events, context):
        return [ValueError("too short") if len(event.body) < 2 else "ok" for event in events]
    """
    with watchdog(handler) as dog:
        answers = dog.call_all([b"a", b"abc"])
        assert [(answer.status, answer.body) for answer in answers] == [(500, b"too short\n"), (200, b"ok")]


def test_a_wrong_number_of_results_never_shifts_answers():
    handler = """
    import time
    def handle_batch(events, context):
        time.sleep(0.02)
        return [event.body for event in events][: 1 if len(events) > 1 else None]
    """
    with watchdog(handler) as dog:
        bodies = [b"%d" % number for number in range(12)]
        assert [answer.body for answer in dog.call_all(bodies)] == bodies


def test_a_result_that_can_not_be_encoded_is_a_500_with_the_reason_in_the_log():
    with watchdog("def handle(event, context):\n    return object()\n") as dog:
        assert dog.call().status == 500
        wait_until(lambda: "object is not JSON" in dog.log, "the log has the reason")


KILLER = """
import os, signal, time
def handle_batch(events, context):
    if any(event.body == b"once" for event in events) and not os.path.exists("{flag}"):
        open("{flag}", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if any(event.body == b"kill" for event in events):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return ["ok"] * len(events)
"""


def test_a_worker_killed_under_a_batch_costs_no_request(tmp_path):
    with watchdog(KILLER.format(flag=tmp_path / "flag"), workers="2") as dog:
        answers = dog.call_all([b"once"] + [b"fine"] * 15)
        assert {answer.status for answer in answers} == {200}
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "the worker is replaced")
        assert dog.metric("watchdog_worker_restarts_total") == 1


def test_an_input_that_always_kills_is_tried_twice_and_the_rest_is_served(tmp_path):
    with watchdog(KILLER.format(flag=tmp_path / "flag"), workers="2") as dog:
        answers = dog.call_all([b"kill"] + [b"fine"] * 15)
        assert answers[0].status == 502
        assert answers[0].headers["X-Watchdog-Reason"] == "worker_died"
        assert {answer.status for answer in answers[1:]} == {200}
        assert dog.metric("watchdog_worker_restarts_total") == 2


def test_a_hung_worker_is_killed_and_its_request_answered_504():
    handler = """
    import time
    def handle(event, context):
        while event.body == b"hang":
            time.sleep(1)
        return "ok"
    """
    with watchdog(handler, exec_timeout="1s") as dog:
        answer = dog.call(body=b"hang")
        assert (answer.status, answer.headers["X-Watchdog-Reason"]) == (504, "expired")
        wait_until(lambda: dog.call(body=b"fine").status == 200, "a new worker serves")


def test_a_killed_gunicorn_is_started_again_and_queued_requests_are_served():
    with watchdog(ECHO) as dog:
        os.kill(dog.gunicorn(), signal.SIGKILL)
        assert {answer.status for answer in dog.call_all([b"x"] * 8)} == {200}
        assert "gunicorn was killed by SIGKILL; it is started again in 0.5 s" in dog.log


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
    with starting_watchdog(handler) as dog:
        wait_until(lambda: dog.call("GET", "/_/health").status == 200, "healthy")
        assert (dog.folder / ".lock").exists()
        assert dog.call("GET", "/_/ready").status == 503
        assert dog.call("POST", "/_/health").status == 405
        # The listener for metrics opens after the other.
        wait_until(lambda: dog.metric('watchdog_workers{state="starting"}') == 1, "one starting")
        gate.touch()
        # A request that came before the model was loaded is queued, not refused.
        assert dog.call().status == 200
        assert dog.call("GET", "/_/ready").status == 200


def test_ready_path_asks_the_function():
    with starting_watchdog(
        "def handle(event, context):\n    return {'statusCode': 503 if event.path == '/probe' else 200}\n",
        ready_path="/probe",
    ) as dog:
        wait_until(lambda: dog.call().status == 200, "serving")
        assert dog.call("GET", "/_/ready").status == 503


SLOW = "import time\ndef handle(event, context):\n    time.sleep(float(event.body))\n    return 'ok'\n"


def test_more_than_max_inflight_is_refused_with_429_and_retry_after():
    with watchdog(SLOW, max_inflight="4") as dog:
        answers = dog.call_all([b"0.3"] * 12)
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) == 8
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert all(answer.headers["X-Watchdog-Reason"] == "queue_full" for answer in refused)
        assert dog.metric('slo_requests_total{outcome="shed"}') == 8
        assert dog.metric('watchdog_refusals_total{reason="queue_full"}') == 8


def test_x_timeout_gives_a_request_up_earlier():
    with watchdog(SLOW) as dog:
        assert dog.call(body=b"1", headers={"X-Timeout": "100ms"}).status == 504
        assert dog.metric('slo_requests_total{outcome="expired"}') == 1


def test_time_already_spent_upstream_counts_against_the_slo():
    with watchdog(SLOW, slo_latency="2s") as dog:
        dog.call(body=b"0", headers={"X-Start-Time": str(time.time_ns())})
        dog.call(body=b"0", headers={"X-Start-Time": str(time.time_ns() - 5_000_000_000)})
        dog.call(body=b"0", headers={"X-Start-Time": "nonsense"})
        assert dog.metric('slo_requests_total{outcome="good"}') == 2
        assert dog.metric('slo_requests_total{outcome="slow"}') == 1


def test_late_requests_are_shed_when_asked():
    with watchdog(SLOW, slo_latency="200ms", late_requests="shed") as dog:
        dog.call(body=b"0.05")
        answers = dog.call_all([b"0.15"] * 6)
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503}
        shed = next(answer for answer in answers if answer.status == 503)
        assert shed.headers["X-Watchdog-Reason"] == "predicted_late"


def test_a_client_that_has_gone_leaves_the_queue():
    with watchdog(SLOW) as dog:

        async def run() -> None:
            busy = Client(*await asyncio.open_connection("127.0.0.1", dog.port))
            await busy.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n0.5")
            gone = Client(*await asyncio.open_connection("127.0.0.1", dog.port))
            await asyncio.sleep(0.1)
            await gone.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n20")
            await asyncio.sleep(0.1)
            gone.writer.close()
            assert (await busy.answer()).status == 200
            busy.writer.close()

        asyncio.run(run())
        # Had the 20 s request been served, the one worker would be busy.
        assert dog.call(body=b"0").status == 200


def test_example_bodies_teach_the_latency_before_traffic():
    handler = """
    import time
    def example():
        return b"typical"
    def handle_batch(events, context):
        time.sleep(0.005 + 0.001 * len(events))
        return [event.body for event in events]
    """
    with watchdog(handler, max_batch_size="8", slo_latency="100ms") as dog:
        capacity = dog.metric("watchdog_capacity_requests_per_second")
        # 8 requests in 13 ms; a noisy machine can only make it look slower.
        assert 200 < capacity < 8 / 0.013
        assert dog.metric('watchdog_service_seconds_predicted{size="8"}') >= 0.013


@pytest.mark.parametrize("computes", [True, False])
def test_the_cores_bound_the_capacity_of_what_computes_and_not_of_what_waits(*, computes: bool):
    busy = "while time.process_time() < ends: pass" if computes else "time.sleep(0.01 * len(events))"
    handler = f"""
    import time
    def example():
        return b"typical"
    def handle_batch(events, context):
        ends = time.process_time() + 0.01 * len(events)
        {busy}
        return [event.body for event in events]
    """
    cores = len(os.sched_getaffinity(0))
    with watchdog(handler, workers=str(4 * cores), worker_threads="1", slo_latency="1s") as dog:
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 4 * cores, "all serve")
        capacity = dog.metric("watchdog_capacity_requests_per_second")
    # A core that does nothing else computes 100 requests per second.
    assert (capacity < 100 * cores) == computes


def test_no_worker_serves_before_the_handler_has_been_measured_on_those_that_have_loaded(tmp_path: Path):
    handler = f"""
    import os, time
    def load():
        # None is ready before the other has been seen.
        open({str(tmp_path)!r} + f"/loaded-{{os.getpid()}}", "w").close()
        while len([name for name in os.listdir({str(tmp_path)!r}) if name.startswith("loaded")]) < 2:
            time.sleep(0.01)
    def example():
        return b"typical"
    def handle_batch(events, context):
        if events[0].body == b"typical":
            with open({str(tmp_path)!r} + f"/measured-{{os.getpid()}}", "a") as file:
                file.write(f"{{len(events)}} ")
        time.sleep(0.03)
        return [event.body for event in events]
    """
    with watchdog(handler, workers="2", max_batch_size="4", slo_latency="1s") as dog:
        assert dog.call(body=b"mine").status == 200
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "both serve")
        measured = [set(file.read_text().split()) for file in tmp_path.glob("measured-*")]
    assert measured == [{"1", "2", "4"}, {"1", "2", "4"}]


@pytest.mark.parametrize(
    ("cost", "settings", "largest"),
    [
        pytest.param("0.01 * len(events) ** 2", {}, 4, id="no larger batch is worth it"),
        pytest.param("0.01", {"max_body_bytes": "1Ki", "max_queued_bytes": "2Ki"}, 2, id="no more fits"),
    ],
)
def test_no_larger_batches_are_measured_than_could_be_of_use(
    tmp_path: Path, cost: str, settings: dict[str, str], largest: int
):
    handler = f"""
    import time
    def example():
        return b"x" * 800
    def handle_batch(events, context):
        with open({str(tmp_path / "measured")!r}, "a") as file:
            file.write(f"{{len(events)}} ")
        time.sleep({cost})
        return [event.body for event in events]
    """
    with watchdog(handler, workers="1", slo_latency="10s", **settings):
        measured = (tmp_path / "measured").read_text().split()
    assert max(map(int, measured)) == largest


async def _hammer(dog: Watchdog, count: int, until: asyncio.Event, seen: list[int | None]) -> None:
    """Keep ``count`` connections busy; each request's status, or None if it was cut off unanswered."""

    async def one() -> None:
        while not until.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", dog.port)
            except OSError:
                return
            client = Client(reader, writer)
            with contextlib.suppress(ConnectionError):
                while not until.is_set():
                    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n0.01")
                    try:
                        answer = await client.answer()
                    except asyncio.IncompleteReadError as error:
                        # Closed while idle: the request crossed the close, and no byte of it was answered.
                        seen.append(None if error.partial else 0)
                        break
                    seen.append(answer.status)
                    if answer.headers.get("connection") == "close":
                        break
            writer.close()

    await asyncio.gather(*(one() for _ in range(count)))


def test_sigterm_under_load_loses_nothing_that_was_accepted():
    with watchdog(SLOW, workers="2", healthcheck_interval="1s") as dog:
        seen: list[int | None] = []

        async def run() -> int:
            until = asyncio.Event()
            load = asyncio.create_task(_hammer(dog, 16, until, seen))
            await asyncio.sleep(0.5)
            dog.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            # Health fails first, while requests are still served.
            health = Client(*await asyncio.open_connection("127.0.0.1", dog.port))
            await health.send(b"GET /_/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await health.answer()).status == 503
            health.writer.close()
            assert not (dog.folder / ".lock").exists()
            status = await asyncio.to_thread(dog.process.wait, 20)
            until.set()
            await load
            return status

        assert asyncio.run(run()) == 0
        assert len(seen) > 50
        # 0: on a busy machine a request may cross the close of its idle connection, once on each of them.
        assert set(seen) <= {0, 200, 503}
        assert seen.count(0) <= 16
        assert "drained" in dog.log
        assert dog.processes() == []


def test_a_second_sigterm_ends_at_once():
    with watchdog(SLOW, healthcheck_interval="60s") as dog:
        dog.process.send_signal(signal.SIGTERM)
        wait_until(lambda: dog.call("GET", "/_/health").status == 503, "draining")
        dog.process.send_signal(signal.SIGTERM)
        assert dog.process.wait(timeout=10) == 1
        wait_until(lambda: dog.processes() == [], "no child is left", 5)


def test_a_killed_watchdog_leaves_no_process_behind():
    with watchdog(SLOW, workers="2") as dog:
        wait_until(lambda: len(dog.workers()) == 2, "both workers run")
        dog.process.kill()
        dog.process.wait()
        wait_until(lambda: dog.processes() == [], "no child is left", 10)


@pytest.mark.parametrize(
    ("handler", "environment", "status", "message"),
    [
        (SLOW, {"slo_latency": "soon"}, 2, "slo_latency='soon': must be a duration above zero"),
        (SLOW, {"max_inflight": "0"}, 2, "max_inflight='0': must be a whole number of at least 1"),
        ("import nothing_like_it", {}, 1, "No module named 'nothing_like_it'"),
        ("def handle(event:\n", {}, 1, "SyntaxError"),
        ("answer = 42", {}, 1, "defines neither handle_batch(events, context) nor handle(event, context)"),
        ("def load():\n    raise OSError('no weights')\ndef handle(e, c): ...", {}, 1, "no weights"),
        ("raise SystemExit(3)", {}, 1, "sys.exit(3)"),
        ("def example(): return 'text'\ndef handle(e, c): ...", {}, 1, "example() must return bytes"),
        (SLOW, {"function_path": "/no/such/folder"}, 1, "there is no handler.py in /no/such/folder"),
    ],
)
def test_what_can_not_start_stops_with_one_clear_message(handler, environment, status, message):
    with starting_watchdog(handler, **environment) as dog:
        assert dog.process.wait(timeout=20) == status
        last = dog.log.splitlines()[-1]
        assert last.startswith("batching-watchdog: ")
        assert message in last
        assert "Traceback" not in dog.log
        assert len(dog.log.splitlines()) <= 2


def test_a_taken_port_stops_the_start_and_names_the_variable():
    with watchdog(SLOW) as dog, starting_watchdog(SLOW, port=str(dog.port)) as second:
        assert second.process.wait(timeout=20) == 1
        assert second.log.splitlines()[-1] == (
            f"batching-watchdog: port={dog.port}: cannot listen on it: Address already in use"
        )


def test_a_taken_port_leaves_its_holders_lock_file_alone():
    with (
        watchdog(SLOW) as dog,
        starting_watchdog(SLOW, port=str(dog.port), TMPDIR=str(dog.folder)) as second,
    ):
        assert second.process.wait(timeout=20) == 1
        assert (dog.folder / ".lock").exists()
