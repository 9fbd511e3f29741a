"""The load generator against real servers."""

import asyncio
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from lab.load.server import CUT_SHORT, OK, REFUSED, Server, hangs_up_on_the_third
from support.waits import until
from tailbound_lab.load.arrivals import Profile, peak, steps
from tailbound_lab.load.generator import Endpoint, Part, Stream, build, endpoint
from tailbound_lab.load.openloop import main, offer, offering
from tailbound_lab.load.records import (
    BROKEN,
    NO_CONNECTION,
    TIMED_OUT,
    BenchError,
    Lagged,
    Ledger,
    Load,
    RunError,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler, as the generator does"
    ),
]

BODY = b"x" * 1000
HALF_A_SECOND = steps("100:0.5")


def offered(*streams, timeout_seconds=50.0):
    """Offer streams; the records of each."""
    found, _ = asyncio.run(offer(streams, timeout_seconds=timeout_seconds))
    return found


def statuses_at(port):
    """Offer 100 requests/s for half a second; how many have which status."""
    url = f"http://127.0.0.1:{port}/there?a=1"
    (records,) = offered(Stream(endpoint(url, (BODY,)), HALF_A_SECOND, seed=3))
    return Counter(record.status for record in records)


@pytest.mark.parametrize(
    ("reply", "close", "status"),
    [
        (OK, False, 200),
        (OK, True, 200),
        (REFUSED, True, 503),
        (None, True, BROKEN),
        (b"what?\r\n\r\n", False, BROKEN),
    ],
    ids=["kept", "closed", "refused", "hung up", "nonsense"],
)
def test_request_is_sent_whole_and_counted_once_by_its_outcome(reply, close, status):
    with Server(lambda n: reply, close=close) as server:
        found = statuses_at(server.port)
    assert found == {status: len(server.requests)}
    assert set(server.requests) == {(b"POST /there?a=1 HTTP/1.1", BODY)}


def test_request_without_a_listener_has_no_connection():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert statuses_at(port).keys() == {NO_CONNECTION}


def test_request_on_a_kept_connection_that_closes_under_it_is_repeated_on_a_new_one():
    with Server(hangs_up_on_the_third) as server:
        found = statuses_at(server.port)
    assert found.keys() == {200}
    assert len(server.sockets) < len(server.requests), "some connection was used again"


def test_request_whose_answer_breaks_off_is_not_repeated():
    with Server(lambda count: OK if count % 4 else CUT_SHORT) as server:
        found = statuses_at(server.port)
    assert found.total() == len(server.requests)
    assert found[BROKEN] == len(server.requests) // 4


def test_stall_shows_in_the_latency_of_every_request_due_meanwhile():
    """A closed loop would wait, send nothing, and report one slow request (coordinated omission)."""
    over = threading.Event()
    threading.Timer(3, over.set).start()
    with Server(lambda _: over.wait() and OK) as server:
        (records,) = offered(Stream(endpoint(f"http://127.0.0.1:{server.port}/"), steps("200:0.4")))
    assert len(records) > 40
    # Each waited for the rest of the stall; most of it is left to a slow start.
    assert all(record.latency >= 0.5 - record.scheduled for record in records)


def test_request_without_an_answer_times_out():
    over = threading.Event()
    with Server(lambda _: over.wait() and None) as server:
        there = endpoint(f"http://127.0.0.1:{server.port}/")
        (records,) = offered(Stream(there, steps("50:0.2")), timeout_seconds=0.3)
        over.set()
    assert {record.status for record in records} == {TIMED_OUT}
    assert all(record.latency >= 0.3 for record in records)


def test_streams_go_to_their_own_servers_and_equal_ones_have_equal_arrivals():
    large = os.urandom(200_000)
    with Server(lambda _: OK) as one, Server(lambda _: OK) as other:
        there = [endpoint(f"http://127.0.0.1:{port}/", (b"small", large)) for port in (one.port, other.port)]
        first, twin, third = offered(
            Stream(there[0], HALF_A_SECOND, seed=1),
            Stream(there[1], HALF_A_SECOND, seed=1),
            Stream(there[0], HALF_A_SECOND, seed=2),
        )
    times = [sorted(record.scheduled for record in records) for records in (first, twin, third)]
    assert times[0] == times[1] != times[2]
    assert (len(one.requests), len(other.requests)) == (len(first) + len(third), len(twin))
    assert {body for _, body in other.requests} == {b"small", large}


LIMITED = """
import asyncio, resource, sys
from tailbound_lab.load.arrivals import steps
from tailbound_lab.load.generator import Stream, endpoint
from tailbound_lab.load.openloop import offer

resource.setrlimit(resource.RLIMIT_NOFILE, (68, 68))  # 64 of them are spare
one, other = (endpoint(url, (b"x",)) for url in sys.argv[1:])
streams = Stream(one, steps("100:0.5")), Stream(other, steps("0:1,100:0.2"))
for records in asyncio.run(offer(streams, timeout_seconds=10.0))[0]:
    print(*sorted({record.status for record in records}))
"""


def test_stream_gets_a_connection_at_the_limit_while_those_of_another_are_idle():
    build()
    with Server(lambda _: time.sleep(0.05) or OK) as one, Server(lambda _: OK) as other:
        urls = [f"http://127.0.0.1:{port}/" for port in (one.port, other.port)]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, *urls], capture_output=True, text=True, check=False
        )
    assert done.stdout.split() == ["200", "200"], done.stderr


def test_arrivals_follow_a_profile_of_steps_ramps_and_pauses():
    profile = Profile((*peak(200, 2000, 2.0, 0.2).points, (2.2, 0.0), (2.4, 0.0), (2.4, 500.0), (2.6, 500.0)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (records,) = offered(Stream(Endpoint(port, (Part(b""),)), profile, seed=7))
    for (begin, r0), (end, r1) in pairwise(profile.points):
        expected = (end - begin) * (r0 + r1) / 2
        seen = sum(begin <= record.scheduled < end for record in records)
        assert abs(seen - expected) <= 6 * math.sqrt(expected)


@pytest.fixture(scope="module")
def compiled():
    return build()


@pytest.fixture
def run(compiled):
    """Offer 100 requests/s for half a second and evaluate the run."""

    def run(port, *parts, **options):
        # A long SLO, for the machine may be busy; the lag that is allowed grows with it.
        planned = {"rate": 100.0, "seconds": 0.5, "slo": 30.0, "seed": 3, **options}
        return compiled.run(Endpoint(port, parts or (Part(BODY),)), Load(**planned))

    return run


def test_run_counts_refusals_and_broken_connections_as_misses(run):
    with Server(lambda n: {0: REFUSED, 1: None}.get(n % 4, OK), close=True) as server:
        found = run(server.port)
    assert found.good == found.ok == found.statuses["200"] < found.sent == len(server.requests)
    assert found.latency_ms["p99"] is None


def test_run_counts_no_answer_after_the_slo_as_goodput(run):
    # Three times the SLO, of which a tenth may be lag: the rate is one that any machine offers in time.
    with Server(lambda n: time.sleep(3) or OK) as server:
        found = run(server.port, rate=20.0, slo=1.0)
    assert (found.good, found.ok) == (0, found.sent)
    assert found.latency_ms["p50"] >= 3000.0


def test_parts_of_a_mix_are_drawn_by_weight_sent_as_they_are_and_counted_by_name(run):
    mix = (
        Part(b"1", "/a", (("X-SLO-Class", "slow"),), weight=1.0, name="a", slo=1.0),
        Part(b"22", "/b", weight=2.0, name="b"),
        Part(b"333", "/b", weight=2.0, name="b"),
    )
    with Server(lambda n: time.sleep(3) or OK) as server:
        found = run(server.port, *mix, seconds=1.0)
    sent = Counter(server.requests)
    one, two, three = (b"POST /a HTTP/1.1", b"1"), (b"POST /b HTTP/1.1", b"22"), (b"POST /b HTTP/1.1", b"333")
    assert [round(5 * sent[kind] / found.sent) for kind in (one, two, three)] == [1, 2, 2]
    assert found.parts == {"a": (sent[one], 0), "b": (sent[two] + sent[three], found.good)}
    assert set(server.classes) == {("/a", "slow"), ("/b", None)}


def test_hopeless_run_is_cut_short(run):
    with Server(lambda n: REFUSED) as server:
        found = run(server.port, seconds=20.0, slo=0.5, stop_share=0.01)
    assert found.stopped_early
    assert found.sent < 1000


def test_run_in_which_the_generator_was_late_does_not_count(run):
    # No machine sends within a microsecond of when it was due.
    with Server(lambda n: OK) as server, pytest.raises(Lagged, match="lag"):
        run(server.port, slo=1e-5)


def test_build_without_a_working_compiler_raises_with_the_remedy(tmp_path):
    with pytest.raises(BenchError, match="install"):
        build(tmp_path, compilers=("no-such-compiler",))
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho out of registers >&2; exit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(BenchError, match="out of registers"):
        build(tmp_path / "build", compilers=(str(compiler),))


def test_build_that_is_ended_while_a_part_of_the_compiler_writes_ends_as_told(tmp_path):
    compiler, started, stop = (tmp_path / name for name in ("cc", "started", "stop"))
    writes = f'n=0; while [ ! -e {stop} ]; do : >"$TMPDIR/$n"; n=$((n + 1)); done'
    compiler.write_text(f"#!/bin/sh\n({writes}) &\nsleep 0.3\n: >{started}\nwait\n")
    compiler.chmod(0o755)
    code = (
        "import signal, sys; from pathlib import Path; from tailbound_lab.load.generator import build\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "build(Path(sys.argv[1]), (sys.argv[2],))"
    )
    command = (sys.executable, "-c", code, str(tmp_path / "build"), str(compiler))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as ended:
        try:
            until(started.exists, "it compiles")
            ended.terminate()
            assert ended.wait(50) == 3
        finally:
            stop.touch()


def test_build_compiles_a_source_once(tmp_path):
    program = build(tmp_path / "new").program
    assert build(tmp_path / "new", compilers=()).program == program


def test_offer_to_an_unknown_host_names_it():
    with pytest.raises(OSError, match=r"no-such-host\.invalid"):
        offered(Stream(endpoint("http://no-such-host.invalid/"), HALF_A_SECOND))


def test_offer_whose_generator_dies_raises():
    async def run():
        async with offering([Stream(endpoint("http://127.0.0.1:1/"), steps("1:60"))]) as traffic:
            await traffic.begun()
            traffic.kill()
            await traffic.read([Ledger(1.0)])

    with pytest.raises(RunError):
        asyncio.run(run())


def test_command_reports_the_outcomes(capsys):
    with Server(lambda _: OK) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert main(["--url", url, "--rate", "50:0.3", "--slo", "50s"]) == 0
        assert main(["--url", url, "--rate", "0:0.1"]) == 0
    assert "100.0000%" in capsys.readouterr().out
    assert main(["--url", "http://127.0.0.1:1/", "--rate", "50:0.3"]) == 1


@pytest.mark.parametrize(
    "wrong", ["", "--url=ftp://x", "--rate=fast", "--slo=soon", "--body=/does/not/exist"]
)
def test_command_with_a_wrong_argument_ends_with_status_2(wrong):
    with pytest.raises(SystemExit) as stop:
        main(["--url=http://127.0.0.1:1/", wrong] if wrong else [])
    assert stop.value.code == 2
