"""The generator in C against small real servers: counts, statuses, broken connections, early end, lag."""

import os
import shutil
import socket
import time
from collections import Counter

import pytest

from lab.load.server import CHUNKED, OK, REFUSED, Server, hangs_up_on_the_third
from tailbound_lab.load.generator import Endpoint, Part, build
from tailbound_lab.load.records import BenchError, Lagged

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("load"))


@pytest.fixture
def offer(compiled):
    """Offer 100 requests/s for half a second to a server that answers so."""

    def offer(answer, *parts, close=False, **options):
        parts = parts or (Part(b"x" * 1000, "/there?a=1", (("Content-Type", "text/plain"),)),)
        # A long SLO, for the machine may be busy; the lag that is allowed grows with it.
        planned = {"rate": 100.0, "seconds": 0.5, "slo": 30.0, "seed": 3, **options}
        with Server(answer, close=close) as server:
            return server, compiled.run(Endpoint(server.port, parts), **planned)

    return offer


@pytest.mark.parametrize(
    ("reply", "close"), [(OK, False), (OK, True), (CHUNKED, False)], ids=["kept", "closed", "chunked"]
)
def test_every_request_is_sent_whole_and_every_answer_counted(offer, reply, close):
    server, run = offer(lambda n: reply, close=close)
    assert run.sent == run.ok == run.good == len(server.requests)
    assert run.statuses == {"200": run.sent}
    assert set(server.requests) == {(b"POST /there?a=1 HTTP/1.1", b"x" * 1000)}
    assert run.latency_ms["p50"] <= run.latency_ms["p99"]


def test_refusals_and_broken_connections_are_misses(offer):
    _, run = offer(lambda n: {0: REFUSED, 1: None}.get(n % 4, OK), close=True)
    assert run.statuses["503"] + run.statuses["broken"] + run.statuses["200"] == run.sent
    assert run.good == run.statuses["200"] < run.sent
    assert run.latency_ms["p99"] is None


def test_answers_after_the_target_are_no_goodput(offer):
    # Three times the SLO, of which a tenth may be lag: the rate is one that any machine offers in time.
    _, run = offer(lambda n: time.sleep(3) or OK, rate=20.0, slo=1.0)
    assert (run.good, run.ok) == (0, run.sent)
    assert run.latency_ms["p50"] >= 3000.0


def test_parts_of_a_mix_are_drawn_by_weight_sent_as_they_are_and_counted_by_name(offer):
    mix = (
        Part(b"1", "/a", (("X-SLO-Class", "slow"),), weight=1.0, name="a", slo=1.0),
        Part(b"22", "/b", weight=2.0, name="b"),
        Part(b"333", "/b", weight=2.0, name="b"),
    )
    server, run = offer(lambda n: time.sleep(3) or OK, *mix, seconds=1.0)
    sent = Counter(server.requests)
    one, two, three = (b"POST /a HTTP/1.1", b"1"), (b"POST /b HTTP/1.1", b"22"), (b"POST /b HTTP/1.1", b"333")
    assert [round(5 * sent[kind] / run.sent) for kind in (one, two, three)] == [1, 2, 2]
    assert run.parts == {"a": (sent[one], 0), "b": (sent[two] + sent[three], run.good)}
    asked = {(head.split()[1], b"X-SLO-Class: slow\r\n" in head) for head in server.heads}
    assert asked == {(b"/a", True), (b"/b", False)}


def test_run_without_a_listener_counts_misses(compiled):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run = compiled.run(Endpoint(port, (Part(b""),)), rate=50.0, seconds=0.3, slo=30.0)
    assert run.statuses == {"no_connection": run.sent}
    assert run.goodput == 0.0


def test_a_kept_connection_that_closes_as_the_request_leaves_is_tried_again(offer):
    _, run = offer(hangs_up_on_the_third)
    assert run.ok == run.sent


def test_a_hopeless_run_is_cut_short(offer):
    _, run = offer(lambda n: REFUSED, seconds=20.0, slo=0.5, stop_share=0.01)
    assert run.stopped_early
    assert run.sent < 1000


def test_a_run_in_which_the_generator_was_late_does_not_count(offer):
    # No machine sends within a nanosecond of when it was due.
    with pytest.raises(Lagged, match="lag"):
        offer(lambda n: OK, slo=1e-5)


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
