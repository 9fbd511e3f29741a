"""Workers that leak, that cannot load, that are preloaded: with real gunicorn processes."""

import json
import os
import signal
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.processes import Watchdog, starting_watchdog, wait_until, watchdog

pytestmark = pytest.mark.e2e

LEAKING = """
import os

LEAK = []

def handle_batch(events, context):
    LEAK.extend(bytearray(1 << 20) for _ in events)
    return [{"pid": os.getpid(), "leaked": len(LEAK)} for _ in events]
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_leaking_worker_is_replaced_after_max_requests_and_no_request_notices(workers: str):
    with watchdog(LEAKING, workers=workers, max_requests="20", max_batch_size="4") as dog:
        answers = [answer for _ in range(12) for answer in dog.call_all([b"x"] * 8)]
        assert {answer.status for answer in answers} == {200}
        bodies = [json.loads(answer.body) for answer in answers]
        assert len({body["pid"] for body in bodies}) >= 3
        # Jitter, a batch begun below the limit, and twice as long while the other one is away.
        assert max(body["leaked"] for body in bodies) <= 20 * (1.1 + (workers == "2")) + 4
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == int(workers), "all are back")
        assert dog.metric("watchdog_workers_recycled_total") >= 2
        assert dog.metric("watchdog_worker_restarts_total") == 0
        assert "died" not in dog.log


def test_no_worker_is_replaced_for_its_age_while_draining(tmp_path: Path):
    flag, gate = tmp_path / "loaded", tmp_path / "gate"
    handler = f"""
    import os, time
    def load():
        if os.path.exists({str(flag)!r}):
            time.sleep(30)  # longer than the drain may take
        open({str(flag)!r}, "w").close()
    def handle(event, context):
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.01)
    """
    with (
        watchdog(handler, max_requests="20", max_batch_size="1", write_timeout="5s") as dog,
        ThreadPoolExecutor(1) as pool,
    ):
        answers = pool.submit(dog.call_all, [b"x"] * 40)
        wait_until(lambda: dog.metric("http_requests_in_flight") == 40, "the load is there")
        dog.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in dog.log, "it drains")
        gate.touch()
        assert dog.process.wait(timeout=20) == 0
        assert {answer.status for answer in answers.result()} == {200}


def test_memory_is_reported_per_slot_and_a_replaced_worker_keeps_its_slot():
    with watchdog(LEAKING, workers="2") as dog:
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "both are up")
        sizes = [dog.metric(f'watchdog_worker_resident_bytes{{worker="{slot}"}}') for slot in (0, 1)]
        assert all(5e6 < size < 1e9 for size in sizes)
        for _ in range(64):
            dog.call()
        grown = [dog.metric(f'watchdog_worker_resident_bytes{{worker="{slot}"}}') for slot in (0, 1)]
        assert sum(grown) - sum(sizes) > 50e6
        for pid in dog.workers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: dog.metric("watchdog_worker_restarts_total") == 2, "both have died")
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "both are back")
        text = dog.call("GET", "/metrics", port=dog.metrics_port).body.decode()
        slots = [line for line in text.splitlines() if line.startswith("watchdog_worker_resident_bytes{")]
        assert len(slots) == 2


DIES_LOADING = """
import os, signal

def load():
    with open({trace!r}, "a") as trace:
        trace.write("x")
    {death}

def handle(event, context):
    return "ok"
"""


def test_workers_that_die_soon_after_they_have_loaded_come_back_ever_more_slowly(tmp_path: Path):
    starts = tmp_path / "starts"
    handler = f"""
    import os, threading, time
    def load():
        with open({str(starts)!r}, "a") as file:
            file.write(f"{{time.monotonic()}}\\n")
        threading.Timer(0.2, os._exit, [9]).start()
    def handle(event, context):
        return "ok"
    """
    with starting_watchdog(handler, workers="1"):
        wait_until(lambda: starts.exists() and len(starts.read_text().split()) >= 5, "5 have loaded")
    times = [float(line) for line in starts.read_text().split()]
    # The fifth had four such before it, so it waited for a second, after the fourth had lived for 0.2.
    assert times[4] - times[3] > 1.2


@pytest.mark.parametrize(
    ("death", "message"),
    [
        ("os._exit(3)", "the last one ended with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the last one was killed by SIGSEGV"),
    ],
)
def test_workers_that_die_while_loading_end_the_start_with_one_line(tmp_path: Path, death: str, message: str):
    trace = tmp_path / "trace"
    with starting_watchdog(DIES_LOADING.format(trace=str(trace), death=death)) as dog:
        assert dog.process.wait(timeout=20) == 1
        last = dog.log.splitlines()[-1]
        assert last.startswith("batching-watchdog: 3 workers in a row died while loading the handler; ")
        assert message in last
        assert "Traceback" not in dog.log
        assert trace.read_text() == "xxx"
        wait_until(lambda: dog.processes() == [], "no child is left", 5)


def test_sys_exit_in_load_is_a_handler_that_does_not_load():
    with starting_watchdog("import sys\ndef load(): sys.exit(5)\ndef handle(e, c): ...") as dog:
        assert dog.process.wait(timeout=20) == 1
        assert "load() failed: SystemExit: 5" in dog.log.splitlines()[-1]


def test_once_up_workers_that_can_not_load_any_more_are_retried_slowly_and_the_function_comes_back(
    tmp_path: Path,
):
    trace, broken = tmp_path / "trace", tmp_path / "broken"
    death = f"if os.path.exists({str(broken)!r}): os._exit(7)"
    with watchdog(DIES_LOADING.format(trace=str(trace), death=death)) as dog:
        broken.touch()
        os.kill(dog.workers()[0], signal.SIGKILL)
        wait_until(lambda: "could not load the handler again: 3 workers in a row died" in dog.log, "said")
        assert len(trace.read_text()) == 1 + 3
        assert dog.process.poll() is None
        broken.unlink()
        assert dog.call().status == 200


COUNTED = """
import os, threading

def load():
    with open({trace!r}, "a") as trace:
        trace.write("%d " % os.getpid())
    {more}
    return "the model"

def handle(event, context):
    return {{"pid": os.getpid(), "model": context.model}}
"""


def test_preload_loads_once_for_all_workers_and_a_dead_one_is_forked_from_the_loaded_process(tmp_path: Path):
    trace = tmp_path / "trace"
    handler = COUNTED.format(trace=str(trace), more="")
    with watchdog(handler, workers="2", preload="true") as dog:
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "both are up")
        arbiter, before = dog.gunicorn(), set(dog.workers())
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: dog.metric("watchdog_worker_restarts_total") == 2, "both have died")
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "both are back")
        answer = json.loads(dog.call().body)
        assert answer["model"] == "the model"
        assert answer["pid"] in set(dog.workers()) - before
        assert trace.read_text().split() == [str(arbiter)]


def test_preloaded_workers_share_the_memory_of_the_model(tmp_path: Path):
    # Many small objects: reference counts aside, only a collector would write to them.
    more = "global model; model = [[number] for number in range(500_000)]"
    handler = COUNTED.format(trace=str(tmp_path / "trace"), more=more)
    with watchdog(handler, workers="2", preload="true") as dog:
        wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "both are up")
        assert {answer.status for answer in dog.call_all([b""] * 16)} == {200}
        for pid in dog.workers():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
            assert sizes["Rss:"] > 50_000
            assert sizes["Private_Dirty:"] < 20_000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("raise OSError('no weights')", "load() failed: OSError: no weights"),
        ("os._exit(7)", "gunicorn ended with status 7 while it preloaded the handler"),
        ("os.kill(os.getpid(), 11)", "gunicorn was killed by SIGSEGV while it preloaded the handler"),
        (
            "threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()",
            "preload=true: 1 more thread(s) run after load() (poller)",
        ),
        (
            "import torch; torch.set_num_threads(2); torch.rand(999, 999) @ torch.rand(999, 999)",
            "more thread(s) run after load() (native ",
        ),
        (
            "import types, sys; sys.modules['torch'] = types.SimpleNamespace("
            "cuda=types.SimpleNamespace(is_initialized=lambda: True))",
            "preload=true: load() initialized CUDA",
        ),
    ],
)
def test_what_can_not_be_preloaded_ends_the_start_with_one_line(tmp_path: Path, more: str, message: str):
    handler = COUNTED.format(trace=str(tmp_path / "trace"), more=more)
    with starting_watchdog(handler, workers="2", preload="true") as dog:
        assert dog.process.wait(timeout=20) == 1
        last = dog.log.splitlines()[-1]
        assert last.startswith("batching-watchdog: ")
        assert message in last
        assert len(dog.log.splitlines()) <= 2


def test_a_handler_that_fails_to_preload_later_is_loaded_anew_by_a_new_gunicorn(tmp_path: Path):
    broken = tmp_path / "broken"
    more = f"assert not os.path.exists({str(broken)!r}), 'weights are away'"
    handler = COUNTED.format(trace=str(tmp_path / "trace"), more=more)
    with watchdog(handler, preload="true") as dog:
        broken.touch()
        os.kill(dog.gunicorn(), signal.SIGKILL)
        wait_until(lambda: "weights are away" in dog.log, "the failure is logged")
        broken.unlink()
        assert dog.call().status == 200


def test_each_worker_sees_its_share_of_the_devices_and_so_does_its_successor():
    # No GPU is needed to see what a worker would give CUDA.
    handler = """
    import os
    def load():
        return os.environ["CUDA_VISIBLE_DEVICES"]
    def handle(event, context):
        import time; time.sleep(0.1)
        return context.model
    """
    with watchdog(handler, workers="2", max_batch_size="1", CUDA_VISIBLE_DEVICES="GPU-aa,GPU-bb") as dog:
        for _ in range(2):
            wait_until(lambda: dog.metric('watchdog_workers{state="idle"}') == 2, "both are up")
            assert {answer.body for answer in dog.call_all([b""] * 8)} == {b"GPU-aa", b"GPU-bb"}
            before = dog.metric("watchdog_worker_restarts_total")
            os.kill(dog.workers()[0], signal.SIGKILL)
            wait_until(
                lambda before=before: dog.metric("watchdog_worker_restarts_total") == before + 1,
                "it has died",
            )


TABULAR = Path(__file__).parents[2] / "functions" / "tabular" / "handler.py"


def test_the_torch_function_serves_preloaded_with_its_threads_and_the_same_answers():
    handler = TABULAR.read_text() + textwrap.dedent("""
    import os
    inner, inner_load = handle_batch, load
    def load():
        print("loaded in", os.getpid(), flush=True)
        model = inner_load()
        with torch.inference_mode():
            model(torch.zeros(512, FEATURES))  # the intra-op pool would start here
        return model
    def handle_batch(events, context):
        if events[0].path == "/threads":
            with torch.inference_mode():
                context.model(torch.zeros(4096, FEATURES))
            return [torch.get_num_threads() for _ in events]
        return inner(events, context)
    """)
    answers = {}
    for preload in ("false", "true"):
        with watchdog(handler, workers="2", worker_threads="2", preload=preload) as dog:
            wait_until(lambda dog=dog: dog.metric('watchdog_workers{state="idle"}') == 2, "both are up")
            body = json.dumps({"features": [0.25] * 32}).encode()
            answers[preload] = {answer.body for answer in dog.call_all([body] * 16)}
            assert dog.call(path="/threads").body == b"2"
            assert loads(dog) == (1 if preload == "true" else 2)
    assert {json.loads(body)["label"] for bodies in answers.values() for body in bodies} <= {0, 1}
    scores = [json.loads(body)["score"] for bodies in answers.values() for body in bodies]
    assert max(scores) - min(scores) < 1e-5


def loads(dog: Watchdog) -> int:
    return dog.log.count("loaded in")
