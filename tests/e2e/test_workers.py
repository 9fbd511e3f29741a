"""Workers that leak, that cannot load, that are preloaded: with real gunicorn processes."""

import json
import os
import shutil
import signal
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.processes import ECHO, GATED, import_path, starting_watchdog, watchdog
from support.waits import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

FUNCTIONS = Path(__file__).parents[2] / "functions"
LEAKING = """
import os

LEAK = []

def handle_batch(events, context):
    LEAK.extend(bytearray(1 << 20) for _ in events)
    return [{"pid": os.getpid(), "leaked": len(LEAK)} for _ in events]
"""
LOADING = """
import os, pathlib, signal, threading

TRACE, BROKEN = (pathlib.Path(__file__).with_name(name) for name in ("trace", "broken"))

def load():
    with TRACE.open("a") as trace:
        trace.write(f"{os.getpid()} ")
    MORE
    return "the model"

def handle(event, context):
    return {"pid": os.getpid(), "model": context.model, "threads": os.environ["OMP_NUM_THREADS"]}
"""
"""Writes down who loads; ``MORE`` is what load() does then."""


def loading(more: str = "pass") -> str:
    return LOADING.replace("MORE", more)


def test_leaking_worker_is_replaced_after_max_requests_and_no_request_notices():
    with watchdog(LEAKING, workers="2", max_requests="20", max_batch_size="4") as dog:
        answers = [answer for _ in range(12) for answer in dog.call_all([b"x"] * 8)]
        assert {answer.status for answer in answers} == {200}
        bodies = [json.loads(answer.body) for answer in answers]
        assert len({body["pid"] for body in bodies}) >= 3
        # Jitter, a batch begun below the limit, one sent early; twice as long while the other one is away.
        assert max(body["leaked"] for body in bodies) <= 20 * 2.1 + 2 * 4
        dog.wait_idle(2)
        assert dog.metric("watchdog_workers_recycled_total") >= 2
        assert dog.metric("watchdog_worker_restarts_total") == 0


@pytest.mark.parametrize("preload", ["auto", "false"])
def test_worker_whose_handler_has_a_thread_that_never_ends_is_replaced_after_max_requests(preload):
    handler = """
        import os, threading
        def handle(event, context):
            threading.Thread(target=threading.Event().wait).start()
            return str(os.getpid())
    """
    with watchdog(handler, preload=preload, max_requests="1") as dog:
        answers = [dog.call() for _ in range(4)]
        assert [answer.status for answer in answers] == [200] * 4
        assert len({answer.body for answer in answers}) >= 2


def test_no_worker_is_replaced_for_its_age_while_draining():
    handler = (
        GATED
        + """
def load():
    with pathlib.Path(__file__).with_name("loads").open("a") as file:
        file.write("x")
"""
    )
    with watchdog(handler, max_requests="20", max_batch_size="1") as dog, ThreadPoolExecutor(40) as pool:
        calls = [pool.submit(dog.call, body=b"x") for _ in range(40)]
        until(lambda: dog.metric("http_requests_in_flight") == 40, "the load is there")
        dog.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in dog.log, "it drains")
        dog.open_gate()
        assert {call.result().status for call in calls} == {200}
        assert dog.ended() == 0
        assert (dog.folder / "loads").read_text() == "x"


def test_replaced_worker_keeps_its_index_with_its_memory_and_its_share_of_the_devices():
    # No GPU is needed to see what a worker would give CUDA.
    handler = (
        LEAKING
        + """
def load():
    print("sees", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
"""
    )
    with watchdog(handler, workers="2", CUDA_VISIBLE_DEVICES="GPU-aa,GPU-bb") as dog:
        dog.wait_idle(2)
        names = [f'watchdog_worker_resident_bytes{{worker="{index}"}}' for index in (0, 1)]
        before = sum(map(dog.metric, names))
        for _ in range(64):
            dog.call()
        assert sum(map(dog.metric, names)) - before > 50e6
        dog.kill_workers()
        text = dog.call("GET", "/metrics", port=dog.metrics_port).body.decode()
        assert text.count("\nwatchdog_worker_resident_bytes{") == 2
        until(lambda: dog.log.count("sees ") == 4, "all that has loaded has said what it sees")
        assert [dog.log.count(f"sees {device}\n") for device in ("GPU-aa", "GPU-bb")] == [2, 2]


def test_worker_that_cannot_load_later_is_told_by_ready_and_log_and_the_function_comes_back():
    with watchdog(loading("if BROKEN.exists(): os._exit(7)"), preload="false") as dog:
        (dog.folder / "broken").touch()
        os.kill(dog.workers()[0], signal.SIGKILL)
        until(lambda: "could not load the handler again" in dog.log, "the log has it")
        assert dog.call("GET", "/_/ready").status == 503
        assert dog.process.poll() is None
        (dog.folder / "broken").unlink()
        assert dog.call().status == 200


def test_handler_is_loaded_once_for_all_workers_and_a_dead_one_is_forked_from_the_loaded_process():
    # Many small objects: reference counts aside, only a collector would write to them.
    handler = loading("global model; model = [[number] for number in range(500_000)]")
    with watchdog(handler, workers="2") as dog:
        dog.wait_idle(2)
        arbiter, before = dog.gunicorn(), set(dog.workers())
        dog.kill_workers()
        answer = json.loads(dog.call().body)
        assert answer["model"] == "the model"
        assert answer["pid"] in set(dog.workers()) - before
        assert (dog.folder / "trace").read_text().split() == [str(arbiter)]
        assert {answer.status for answer in dog.call_all([b""] * 16)} == {200}
        for pid in dog.workers():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
            assert sizes["Rss:"] > 50_000
            assert sizes["Private_Dirty:"] < 20_000, "they share the memory of the model"


def test_workers_are_reached_again_after_the_function_has_removed_all_temporary_files():
    with watchdog(ECHO) as dog:
        for folder in dog.folder.glob("watchdog-*"):
            shutil.rmtree(folder)
        dog.kill_workers()
        assert dog.call(body=b"again").body == b"again"
        assert "has been removed, so gunicorn is started again" in dog.log


def test_what_load_leaves_for_the_end_happens_once_and_what_a_batch_leaves_in_its_worker():
    handler = """
    import atexit, os, pathlib, sys, types, weakref

    def say(what, path=str(pathlib.Path(__file__).with_name("ends")), open=open, getpid=os.getpid):
        with open(path, "a") as file:
            file.write(f"{what} {getpid()}\\n")

    library = sys.modules["library"] = types.ModuleType("library")

    def load():
        atexit.register(say, "load")
        library.kernel = set()
        weakref.finalize(library.kernel, say, "kernel")

    def handle(event, context):
        atexit.register(say, "batch")
        return "ok"
    """
    with watchdog(handler) as dog:
        arbiter, (worker,) = dog.gunicorn(), dog.workers()
        dog.call()
        assert dog.stop() == 0
        ends = sorted((dog.folder / "ends").read_text().splitlines())
        assert ends == [f"batch {worker}", f"kernel {arbiter}", f"load {arbiter}"]


def test_requests_that_kill_their_workers_fail_alone_in_the_midst_of_traffic_and_nothing_is_loaded_again():
    handler = """
    import os, pathlib, time

    def load():
        with pathlib.Path(__file__).with_name("trace").open("a") as trace:
            trace.write("loaded ")

    def handle_batch(events, context):
        time.sleep(0.010 + 0.002 * len(events))
        if any(event.body == b"kill" for event in events):
            os._exit(3)
        return ["fine"] * len(events)
    """
    bodies = [b"kill" if number % 50 == 25 else b"x" for number in range(400)]
    with watchdog(handler, workers="2") as dog, ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda body: dog.call(body=body), bodies))
        expected = [(502, "worker_died") if body == b"kill" else (200, None) for body in bodies]
        assert [(answer.status, answer.headers["X-Watchdog-Reason"]) for answer in answers] == expected
        dog.wait_idle(2)
        # Twelve at most share a batch. It is halved: one takes at most five workers with it.
        assert 8 < dog.metric("watchdog_worker_restarts_total") <= 40
        assert (dog.folder / "trace").read_text() == "loaded "


def test_function_that_interrupts_its_own_import_later_loses_that_worker_alone(tmp_path):
    handler = f"""
        import os, pathlib
        seen = pathlib.Path({str(tmp_path / "seen")!r})
        if seen.exists() and seen.read_text() == "once":
            seen.write_text("twice")
            raise KeyboardInterrupt
        seen.write_text(seen.read_text() + "more" if seen.exists() else "once")
        def handle(event, context):
            return os._exit(1) if event.body == b"kill" else b"ok"
    """
    with watchdog(handler, preload="false") as dog:
        assert dog.call(body=b"kill").status == 502
        assert dog.call().body == b"ok"


def test_handler_whose_load_changes_the_folder_is_loaded_again_in_the_one_of_the_start():
    handler = """
        import os, threading
        def load():
            folder = os.getcwd()
            os.chdir("/")
            threading.Thread(target=threading.Event().wait, daemon=True).start()  # no fork after this one
            return folder
        def handle(event, context):
            return context.model
    """
    with watchdog(handler) as dog:
        assert "preload=auto: " in dog.log
        assert dog.call().body.decode() == os.getcwd()


STICKY = """
import os

poisoned = False

def example():
    return b"fine"

def handle(event, context):
    global poisoned
    if event.body == b"bad":
        raise ValueError("a bad input")
    poisoned = poisoned or event.body == b"poison"
    if poisoned:
        raise ERROR
    return str(os.getpid())
"""
"""Serves nothing any more after one request."""


@pytest.mark.parametrize("example", ["example", "not_example"])
def test_worker_that_a_request_has_poisoned_is_replaced_while_the_other_one_serves(example):
    handler = STICKY.replace("ERROR", "ValueError('lost')").replace("def example", f"def {example}")
    with watchdog(handler, workers="2", max_batch_size="2") as dog:
        dog.wait_idle(2)
        assert dog.call(body=b"poison").status == 500
        answers = [answer for _ in range(25) for answer in dog.call_all([b"x"] * 8)]
        assert [answer.status for answer in answers].count(200) >= 0.9 * len(answers)
        dog.wait_idle(2)
        assert dog.metric("watchdog_workers_sick_total") == 1
        assert dog.metric("watchdog_worker_restarts_total") == 0
        assert {answer.status for answer in dog.call_all([b"x"] * 8)} == {200}


def test_inputs_of_clients_alone_cost_no_worker_that_serves_its_example():
    with watchdog(STICKY.replace("ERROR", "ValueError('lost')"), max_batch_size="4") as dog:
        (worker,) = dog.workers()
        for _ in range(8):
            assert {answer.status for answer in dog.call_all([b"bad"] * 8)} == {500}
        dog.wait_idle(1)
        assert dog.ready()
        assert dog.call().body == str(worker).encode()
        assert dog.metric("watchdog_workers_sick_total") == 0


COMPILES = """
import pathlib, time

def wait_for(name):
    while not pathlib.Path(__file__).with_name(name).exists():
        time.sleep(0.05)

def compile():
    wait_for("compiled")
    COMPILED.append(True)

COMPILED = []
EXAMPLE
def handle(event, context):
    COMPILED or compile()
    if event.body == b"hangs":
        wait_for("never")
    time.sleep(float(event.body or 0))
    return event.body
"""


@pytest.mark.parametrize("example", ["", "def example(): return b''"])
def test_first_batch_may_take_longer_than_exec_timeout_and_the_replica_is_not_ready_meanwhile(example):
    with starting_watchdog(
        COMPILES.replace("EXAMPLE", example), slo_latency="200ms", exec_timeout="1s"
    ) as dog:
        until(lambda: " listens on " in dog.log, "it listens")
        assert {dog.call().status for _ in range(4)} == {504}
        assert not dog.ready()
        (dog.folder / "compiled").touch()
        dog.wait_ready()
        assert dog.call(body=b"0").body == b"0"
        assert "died" not in dog.log


@pytest.mark.parametrize("seconds", [b"0", b"0.3"], ids=["waits in the queue", "goes to the worker early"])
def test_worker_that_hangs_while_requests_wait_is_replaced_before_they_reach_exec_timeout(seconds):
    with watchdog(COMPILES.replace("EXAMPLE", ""), slo_latency="200ms") as dog:
        (dog.folder / "compiled").touch()
        assert {dog.call(body=seconds).status for _ in range(4)} == {200}
        with ThreadPoolExecutor() as pool:
            hangs = pool.submit(dog.call, body=b"hangs", headers={"X-Timeout": "3s"})
            until(lambda: dog.metric('watchdog_workers{state="busy"}') == 1, "it hangs")
            assert dog.call(body=seconds).body == seconds
            assert hangs.result().status in (502, 504)
        assert "slo_latency" in dog.log


MENDED = """
import pathlib

def example():
    return b"x"

def handle(event, context):
    assert pathlib.Path(__file__).with_name("mended").exists()
    return "fine"
"""


def test_replica_whose_workers_fail_their_own_example_is_not_ready_until_one_serves_it():
    with starting_watchdog(MENDED) as dog:
        until(lambda: b"example()" in dog.call("GET", "/_/ready").body, "the probe's answer names it")
        assert dog.call("GET", "/_/ready").status == 503
        (dog.folder / "mended").touch()
        dog.wait_ready()
        (dog.folder / "mended").unlink()
        for _ in range(3):
            assert dog.call().status == 500
        until(lambda: not dog.ready(), "it has been found")
        assert dog.metric("watchdog_workers_sick_total") == 1
        (dog.folder / "mended").touch()
        assert dog.call().body == b"fine"


def test_worker_whose_accelerator_is_lost_ends_at_once_and_the_log_has_the_trace():
    lost = "type('AcceleratorError', (RuntimeError,), {})('CUDA error: device-side assert triggered')"
    with watchdog(STICKY.replace("ERROR", lost), workers="2") as dog:
        dog.wait_idle(2)
        assert dog.call(body=b"poison").status == 502
        dog.wait_idle(2)
        assert {answer.status for answer in dog.call_all([b"x"] * 16)} == {200}
        assert dog.metric("watchdog_workers_sick_total") == 0
        assert "AcceleratorError: CUDA error" in dog.log


def test_batches_that_run_out_of_memory_become_smaller_and_every_request_is_served():
    handler = """
    import time

    def handle_batch(events, context):
        time.sleep(0.02)
        if len(events) > 8:
            raise MemoryError
        return ["fine"] * len(events)
    """
    with watchdog(handler, max_batch_size="16") as dog:
        assert dog.metric("watchdog_batch_ceiling") == 16

        def is_lower() -> bool:
            assert {answer.status for answer in dog.call_all([b"x"] * 40)} == {200}
            return dog.metric("watchdog_batch_ceiling") < 16

        until(is_lower, "a batch was too large")
        assert {answer.status for answer in dog.call_all([b"x"] * 40)} == {200}
        assert 2 <= dog.metric("watchdog_batch_ceiling") <= 8
        assert 1 <= dog.log.count("ran out of memory") <= 2  # two batches may be under way
        assert "MemoryError" in dog.log


THREAD = "threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()"
CUDA = (
    "import types, sys; sys.modules['torch'] = "
    "types.SimpleNamespace(cuda=types.SimpleNamespace(is_initialized=lambda: True))"
)
KILLED = "os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("preload", "more"),
    [
        ("auto", KILLED),
        ("auto", "raise KeyboardInterrupt"),
        ("true", "raise OSError('no weights')"),
        ("true", "os._exit(7)"),
        ("true", THREAD),
        ("true", CUDA),
    ],
)
def test_handler_that_cannot_be_loaded_or_preloaded_ends_the_start_with_one_line_and_no_frame_of_ours(
    preload, more
):
    with starting_watchdog(loading(more), workers="2", preload=preload) as dog:
        assert dog.ended() == 1
        assert dog.log.splitlines()[-1].startswith("batching-watchdog: ")
        assert "batching_watchdog/" not in dog.log


@pytest.mark.parametrize(
    "more",
    [
        THREAD,
        "global log; log = open(TRACE)",
        "if not BROKEN.exists(): BROKEN.touch(); os._exit(7)",
        "os.register_at_fork(after_in_child=lambda: os._exit(8))",
    ],
    ids=["thread", "file", "crash", "dead fork"],
)
def test_where_a_fork_could_break_the_handler_each_worker_loads_it_and_has_its_threads(more):
    with watchdog(loading(more), workers="2", worker_threads="3") as dog:
        dog.wait_idle(2)
        _arbiter, *own = (dog.folder / "trace").read_text().split()
        assert sorted(map(int, own)) == sorted(dog.workers())
        assert json.loads(dog.call().body)["threads"] == "3"


@pytest.mark.parametrize("preload", ["auto", "false"])
def test_load_that_hangs_ends_the_start_with_one_line_and_the_log_says_where_it_was(preload):
    with starting_watchdog(loading("threading.Event().wait()"), preload=preload, load_timeout="2s") as dog:
        assert dog.ended() == 1
        *log, last = dog.log.splitlines()
        assert last.startswith("batching-watchdog: ")
        assert "load_timeout" in last
        stack = log[log.index("Stack (most recent call last):") + 1 :]
        assert [line.rpartition(" in ")[2] for line in stack if line.startswith("  File ")] == [
            "load",
            "wait",
            "wait",
        ]


@pytest.mark.parametrize("preload", ["true", "false"])
def test_load_that_crashes_in_native_code_ends_the_start_and_the_log_says_where(preload):
    with starting_watchdog(loading("import ctypes; ctypes.string_at(0)"), preload=preload) as dog:
        assert dog.ended() == 1
        dying = dog.log.splitlines()[:-1]
        assert any(line.endswith(" in load") for line in dying)
        assert any(line.endswith(" in string_at") for line in dying)


def test_load_that_holds_the_gil_for_longer_than_exec_timeout_is_not_taken_for_a_hang():
    handler = loading("import ctypes; ctypes.PyDLL(None).sleep(5)")
    with watchdog(handler, preload="false", exec_timeout="1s", slo_latency="1s") as dog:
        assert [int(pid) for pid in (dog.folder / "trace").read_text().split()] == dog.workers()


def test_handler_that_fails_to_preload_later_is_preloaded_anew_by_a_new_gunicorn():
    with watchdog(loading("assert not BROKEN.exists(), 'weights are away'")) as dog:
        (dog.folder / "broken").touch()
        os.kill(dog.gunicorn(), signal.SIGKILL)
        until(lambda: "weights are away" in dog.log, "the failure is logged")
        (dog.folder / "broken").unlink()
        assert dog.call().status == 200
        assert int((dog.folder / "trace").read_text().split()[-1]) == dog.gunicorn()


def test_torch_computes_in_preloaded_workers_with_their_own_threads():
    handler = (FUNCTIONS / "tabular" / "handler.py").read_text() + textwrap.dedent("""
    read, inner = parse, handle_batch
    def parse(event):
        return None if event.path == "/threads" else read(event)
    def handle_batch(rows, context):
        if rows[0] is not None:
            return inner(rows, context)
        with torch.inference_mode():
            context.model(torch.zeros(4096, FEATURES))
        return [[torch.get_num_threads(), context.threads, context.device] for _ in rows]
    """)
    body = json.dumps({"features": [0.25] * 32}).encode()
    with watchdog(handler, workers="2", worker_threads="2", preload="true") as dog:
        answers = dog.call_all([body] * 16)
        assert len({round(json.loads(answer.body)["score"], 5) for answer in answers}) == 1
        assert json.loads(dog.call(path="/threads").body) == [2, 2, "cpu"]


def test_first_process_of_a_container_reaps_orphans_and_still_sees_how_gunicorn_ended(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes, sys\n"
        "if 'batching_watchdog' in sys.orig_argv:\n"
        "    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: inherits orphans, as process 1 does\n"
    )
    handler = """
    import subprocess

    def handle(event, context):
        return subprocess.check_output(["sh", "-c", "sleep 0.2 >/dev/null & echo $!"])
    """
    with watchdog(handler, PYTHONPATH=import_path(tmp_path)) as dog:
        for deaths in (1, 2):
            orphans = [Path("/proc", dog.call().body.decode().strip()) for _ in range(3)]
            for orphan in orphans:
                until(lambda orphan=orphan: not orphan.exists(), "it is reaped")
            os.kill(dog.gunicorn(), signal.SIGKILL)
            until(lambda deaths=deaths: dog.metric("watchdog_worker_restarts_total") == deaths, "it died")
            dog.wait_ready()
        assert dog.log.count("gunicorn was killed by SIGKILL") == 2
