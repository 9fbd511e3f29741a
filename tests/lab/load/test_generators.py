"""The generators in C and in Python against the same real servers; what only the one in C does."""

import asyncio
import os
import shutil
import socket
import time
from collections import Counter

import pytest

from lab.load.server import CHUNKED, CUT_SHORT, OK, REFUSED, Server, hangs_up_on_the_third
from tailbound_lab.load.arrivals import steps
from tailbound_lab.load.generator import Endpoint, Part, build
from tailbound_lab.load.openloop import Stream, Target, offer
from tailbound_lab.load.records import BROKEN, NO_CONNECTION, BenchError, Lagged

pytestmark = pytest.mark.e2e

PLAIN = Part(b"x" * 1000, "/there?a=1")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("load"))


@pytest.fixture
def run(compiled):
    """Offer 100 requests/s for half a second from C."""

    def run(port, *parts, **options):
        # A long SLO, for the machine may be busy; the lag that is allowed grows with it.
        planned = {"rate": 100.0, "seconds": 0.5, "slo": 30.0, "seed": 3, **options}
        return compiled.run(Endpoint(port, parts or (PLAIN,)), **planned)

    return run


def in_python(port):
    """Offer the same from Python; the statuses under the names that the one in C gives them."""
    target = Target(f"http://127.0.0.1:{port}{PLAIN.path}", (PLAIN.body,))
    (records,), _ = asyncio.run(offer([Stream(target, steps("100:0.5"))]))
    names = {BROKEN: "broken", NO_CONNECTION: "no_connection"}
    return Counter(names.get(record.status, str(record.status)) for record in records)


@pytest.fixture(params=["C", "Python"])
def statuses_at(request):
    """Offer some requests to a port with one of the two; how many have which status."""
    if request.param == "Python":
        return in_python
    run = request.getfixturevalue("run")
    return lambda port: Counter(run(port).statuses)


@pytest.mark.parametrize(
    ("reply", "close", "status"),
    [
        (OK, False, "200"),
        (OK, True, "200"),
        (CHUNKED, False, "200"),
        (REFUSED, True, "503"),
        (None, True, "broken"),
        (b"what?\r\n\r\n", False, "broken"),
    ],
    ids=["kept", "closed", "chunked", "refused", "hung up", "nonsense"],
)
def test_every_request_is_sent_whole_and_counted_once_by_what_became_of_it(statuses_at, reply, close, status):
    with Server(lambda n: reply, close=close) as server:
        found = statuses_at(server.port)
    assert found == {status: len(server.requests)}
    assert set(server.requests) == {(b"POST /there?a=1 HTTP/1.1", PLAIN.body)}


def test_request_without_a_listener_has_no_connection(statuses_at):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert statuses_at(port).keys() == {"no_connection"}


def test_request_on_a_kept_connection_that_closes_under_it_is_repeated_on_a_new_one(statuses_at):
    with Server(hangs_up_on_the_third) as server:
        found = statuses_at(server.port)
    assert found.keys() == {"200"}
    assert len(server.sockets) < len(server.requests), "some connection was used again"


def test_request_whose_answer_breaks_off_is_not_repeated(statuses_at):
    with Server(lambda count: OK if count % 4 else CUT_SHORT) as server:
        found = statuses_at(server.port)
    assert found.total() == len(server.requests)
    assert found["broken"] == len(server.requests) // 4


def test_refusals_and_broken_connections_are_misses(run):
    with Server(lambda n: {0: REFUSED, 1: None}.get(n % 4, OK), close=True) as server:
        found = run(server.port)
    assert found.good == found.ok == found.statuses["200"] < found.sent == len(server.requests)
    assert found.latency_ms["p99"] is None


def test_answers_after_the_target_are_no_goodput(run):
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


def test_build_without_a_working_compiler_says_why(tmp_path):
    with pytest.raises(BenchError, match="install a compiler"):
        build(tmp_path, compilers=("no-such-compiler",))
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho out of registers >&2; exit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(BenchError, match="out of registers"):
        build(tmp_path / "build", compilers=(str(compiler),))


def test_build_compiles_again_only_what_is_older_than_its_source(compiled):
    folder, made = compiled.program.parent, compiled.program.stat().st_mtime_ns
    assert build(folder).program.stat().st_mtime_ns == made
    os.utime(compiled.program, (0, 0))
    assert build(folder).program.stat().st_mtime_ns > 0
