"""Pages of counters over real sockets: what is read, what is left out, and how long a poll takes."""

import socket
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest

from slo_autoscaler.errors import SourceError
from slo_autoscaler.http.pages import fetched
from slo_autoscaler.signals import direct
from slo_autoscaler.signals.direct import AGAIN, GIVEN_UP, Direct
from slo_autoscaler.signals.prometheus import PrometheusSource
from slo_autoscaler.signals.source import Settings as PrometheusSettings
from support import doubles
from support.doubles import a_fleet, a_gateway, a_prometheus, exposing
from support.waits import until

A, B = "a.openfaas-fn", "b.openfaas-fn"


class Listed:
    """What Prometheus would say of where pages are; an error for as long as it is set."""

    def __init__(self, gateways=None, watchdogs=None):
        self.error = None
        self._gateways, self._watchdogs = gateways or {}, watchdogs or {}
        self.asked = []

    def gateways(self):
        return self._told("gateways", self._gateways)

    def watchdogs(self):
        return self._told("watchdogs", self._watchdogs)

    def _told(self, what, answer):
        self.asked.append(what)
        if self.error is not None:
            raise self.error
        return answer


class Counting:
    """A gateway's page whose counters the test moves."""

    def __init__(self):
        self.counts = {}
        self.reads = 0
        self._server = exposing(self._page)
        self.address = self._server.address

    def _page(self, _path):
        self.reads += 1
        return "".join(
            f'gateway_function_invocation_started{{function_name="{name}"}} {count}\n'
            for name, count in self.counts.items()
        )

    def close(self):
        self._server.close()


def counting():
    return closing(Counting())


@contextmanager
def sending(*parts, pause=0.0):
    """The address of a server that sends these bytes to each client, with a pause after each part."""

    def serve():
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client):
        with client, suppress(OSError):
            for part in parts:
                client.sendall(part)
                if ended.wait(pause):
                    return

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)


class Looking:
    """A ``Direct`` without its thread: the test polls, a second apart."""

    def __init__(self, listing, *names, watchdogs=dict):
        self.now = 100.0
        self.direct = Direct(listing, 1.0, watchdogs, lambda: self.now)
        self.direct.watch(names)
        self.poll()
        until(self._listed, "it is known where pages are")

    def _listed(self):
        asking = self.direct._asking  # noqa: SLF001 - its answer changes nothing that can be seen
        return asking is None or asking.done()

    def close(self):
        self.direct.close()

    def poll(self, seconds=1.0):
        self.now += seconds
        self.direct.poll()
        return {name: load.rate for name, load in self.direct.loads().items()}


def looking(listing, *names, **settings):
    return closing(Looking(listing, *names, **settings))


def test_look_gives_what_surely_arrives_at_all_gateways_together():
    with counting() as one, counting() as two:
        one.counts, two.counts = {A: 0, B: 50}, {A: 1000}
        with looking(Listed({one.address: {A, B}, two.address: {A}}), A, B) as eye:
            assert eye.poll() == {}
            for _ in range(3):
                one.counts[A] += 300
                two.counts[A] += 100
                rates = eye.poll()
            # 400/s in the last three seconds, less 3 x sqrt(1200) / 3.
            assert rates[A] == pytest.approx(400.0 - 1200.0**0.5)
            assert rates[B] == 0.0


def test_look_reads_watchdogs_of_the_functions_that_no_gateway_has():
    with a_fleet() as fleet, a_fleet() as other, counting() as gateway:
        fleet.rate = 1e4
        listing = Listed({gateway.address: {B}}, {fleet.address: A, other.address: B, "stranger:80": "x.fn"})
        with looking(listing, A, B) as eye:
            eye.poll()
            time.sleep(0.05)
            assert eye.poll()[A] > 0.0
            assert (fleet.scrapes, other.scrapes) == (2, 0)
        with looking(listing, B):
            assert listing.asked[-1] == "gateways"


@pytest.mark.parametrize(
    "fault",
    [doubles.status(500), doubles.panic, doubles.half(b"x" * 100), doubles.dribble(threading.Event())],
)
def test_page_that_fails_is_left_out_and_tried_again_later(fault):
    with a_gateway() as broken, counting() as page:
        broken.faults["GET"] = fault
        page.counts = {A: 0}
        address = broken.url.removeprefix("http://")
        with looking(Listed({address: {B}, page.address: {A}}), A) as eye:
            for _ in range(3):
                page.counts[A] += 500
                rates = eye.poll()
            assert rates[A] > 300.0
            assert len(broken.requests) <= 1
            eye.now += GIVEN_UP
            until(lambda: eye.poll() is not None and len(broken.requests) > 1, "it is tried again")


def test_look_goes_on_where_pages_were_while_prometheus_is_away():
    with counting() as page:
        page.counts = {A: 0}
        listing = Listed({page.address: {A}})
        with looking(listing, A) as eye:
            listing.error = SourceError("away")
            for _ in range(20):
                page.counts[A] += 500
                rates = eye.poll()
            assert listing.asked.count("gateways") > 2
            assert rates[A] > 400.0


def test_look_without_prometheus_reads_the_replicas_that_the_platform_names():
    listing = Listed()
    listing.error = SourceError("away")
    with a_fleet(capacity=50.0, slo=0.2) as fleet, a_fleet() as other:
        fleet.rate = 1e4
        pages = {fleet.address: A, other.address: B}
        with looking(listing, A, watchdogs=lambda: pages) as eye:
            eye.poll()
            time.sleep(0.05)
            assert eye.poll().keys() == {A}, "the other function is not wanted"
            told = eye.direct.loads()[A].told
            assert (told.capacity, told.slo_latency, told.up_replicas) == (50.0, 0.2, 1.0)
            assert told.arrival_rate == eye.direct.loads()[A].rate > 0.0


def test_rates_that_were_not_read_for_long_are_none():
    with counting() as page:
        page.counts = {A: 0}
        with looking(Listed({page.address: {A}}), A) as eye:
            eye.poll()
            page.counts = {A: 500}
            assert eye.poll()
            eye.now += 60.0
            assert eye.direct.loads() == {}


@pytest.mark.e2e
def test_pages_are_where_the_real_prometheus_scrapes(tmp_path):
    with a_fleet() as fleet, counting() as gateway:
        gateway.counts = {B: 1}
        served, liar = (
            exposing(lambda _: f'gateway_service_count{{function_name="{B}"}} 1\n') for _ in range(2)
        )
        static = [
            {"targets": [fleet.address], "labels": {"function_name": A}},
            {"targets": [liar.address], "labels": {"function_name": "liar.openfaas-fn"}},
            {"targets": [served.address]},
        ]
        jobs = [{"job_name": "all", "static_configs": static}]
        with a_prometheus(tmp_path, {}, jobs) as prometheus:
            source = PrometheusSource(PrometheusSettings(url=prometheus.url))
            until(lambda: source.gateways() and source.watchdogs(), "both are scraped")
            assert source.gateways() == {served.address: {B}}
            assert source.watchdogs() == {fleet.address: A}
            source.close()
        served.close()
        liar.close()


def test_page_whose_load_rises_is_read_again_soon_and_others_are_not():
    with counting() as one, counting() as two:
        one.counts, two.counts = {A: 0}, {B: 0}
        with looking(Listed({one.address: {A}, two.address: {B}}), A, B) as eye:
            for arrived in (22, 22, 81):
                one.counts[A] += arrived
                two.counts[B] += 22
                eye.now += 1.0
                pause = eye.direct.poll()
            assert pause == AGAIN
            reads = one.reads, two.reads
            one.counts[A] += 42
            rates = eye.poll(AGAIN)
            assert (one.reads, two.reads) == (reads[0] + 1, reads[1])
            assert rates[A] > 60.0
            for _ in range(8):
                one.counts[A] += 42
                eye.now += AGAIN
                pause = eye.direct.poll()
            assert pause == 1.0, "steady again"


def test_page_that_fails_while_its_load_rises_hastens_no_further_look(monkeypatch):
    def refuse(*_):
        raise ConnectionRefusedError

    with counting() as page:
        page.counts = {A: 0}
        with looking(Listed({page.address: {A}}), A) as eye:
            for arrived in (22, 22, 81):
                page.counts[A] += arrived
                eye.now += 1.0
                pause = eye.direct.poll()
            assert pause == AGAIN
            monkeypatch.setattr("slo_autoscaler.signals.direct.fetched", refuse)
            eye.now += AGAIN
            assert eye.direct.poll() == 1.0


def test_direct_looks_by_itself_from_start_to_close():
    with counting() as page:
        page.counts = {A: 0}
        direct = Direct(Listed({page.address: {A}}), 0.05)
        direct.watch({A})
        told = []
        direct.start(lambda: told.append(page.reads))
        until(lambda: page.reads > 3, "it polls")
        until(lambda: told[-1] > 3, "it calls after a round")
        page.counts = {A: 10_000}
        until(lambda: direct.loads().get(A), "it sees")
        direct.close()


@pytest.fixture
def pages(monkeypatch):
    """Return {address: its page, or the error of reading it}, in place of sockets."""
    texts = {}

    def fetched(address, *_limits):
        page = texts[address]
        if isinstance(page, Exception):
            raise page
        return page.encode()

    monkeypatch.setattr(direct, "fetched", fetched)
    return texts


@pytest.mark.parametrize(
    "hostile",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"slo_requests_total{\n" * 2**20,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n" + b"x" * (3 * 2**20),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 2**17,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2**18,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"\0" * 100,
        b"",
    ],
)
def test_page_that_is_hostile_leaves_other_functions_read(hostile):
    with sending(hostile) as liar, a_fleet() as fleet:
        fleet.rate = 1e4
        with looking(Listed({}, {liar: B, fleet.address: A}), A, B) as eye:
            eye.poll()
            time.sleep(0.05)
            assert eye.poll().keys() == {A}


def test_pages_of_one_namespace_that_hang_leave_readers_for_the_others(monkeypatch):
    released = threading.Event()

    def fetched(address, *_limits):
        if address.startswith("liar"):
            released.wait(30.0)
        return a_watchdogs_page(7).encode()

    monkeypatch.setattr(direct, "fetched", fetched)
    monkeypatch.setattr(direct, "READ_SECONDS", 0.1)
    liars = {f"liar-{number}:1": "liar.team-b" for number in range(2 * direct.MOST_PAGES)}
    try:
        with looking(Listed({}, {**liars, "a:1": A}), A, "liar.team-b") as eye:
            eye.poll()
            until(lambda: eye.poll().keys() == {A}, "the other is read")
    finally:
        released.set()


def test_page_that_sends_its_headers_byte_by_byte_holds_no_reader():
    with sending(*[b"X"] * 1000, pause=0.1) as liar, pytest.raises(TimeoutError):
        fetched(liar, 0.5, 1000)


def a_watchdogs_page(identity, inside=4, arrived=0):
    lines = f"watchdog_identity {identity}", f"http_requests_in_flight {inside}"
    return "\n".join([*lines, f'slo_requests_total{{outcome="good"}} {arrived}', ""])


def test_page_that_failed_counts_from_its_next_read_on(pages):
    pages["a:1"] = a_watchdogs_page(1)
    with looking(Listed({}, {"a:1": A}), A) as eye:
        eye.poll()
        pages["a:1"] = OSError("gone")
        eye.poll()
        pages["a:1"] = a_watchdogs_page(1, arrived=9000)
        assert eye.poll(GIVEN_UP + 1.0) == {}


@pytest.mark.parametrize(("identities", "inside"), [((7, 7), 4.0), ((7, 8), 8.0)])
def test_pod_at_two_addresses_counts_once(pages, identities, inside):
    pages.update(zip(("a:1", "a:2"), map(a_watchdogs_page, identities), strict=True))
    with looking(Listed({}, dict.fromkeys(pages, A)), A) as eye:
        eye.poll()
        eye.poll()
        assert eye.direct.loads()[A].in_flight == inside


def test_page_with_the_identity_of_another_functions_takes_nothing_from_it(pages):
    pages |= {"a:1": a_watchdogs_page(7), "b:1": a_watchdogs_page(7, inside=1)}
    with looking(Listed({}, {"a:1": A, "b:1": B}), A, B) as eye:
        eye.poll()
        eye.poll()
        assert {name: load.in_flight for name, load in eye.direct.loads().items()} == {A: 4.0, B: 1.0}


def test_page_whose_counters_vanish_and_fall_leaves_other_functions_read(pages):
    pages |= {"a:1": a_watchdogs_page(1), "b:1": a_watchdogs_page(2, arrived=900)}
    with looking(Listed({}, {"a:1": A, "b:1": B}), A, B) as eye:
        eye.poll()
        for text in ("", a_watchdogs_page(2, inside=0, arrived=1)):
            pages["b:1"] = text
            assert eye.poll().keys() >= {A}


def test_page_that_failed_for_long_has_no_requests_inside(pages):
    pages |= {"a:1": a_watchdogs_page(1), "a:2": a_watchdogs_page(2)}
    with looking(Listed({}, dict.fromkeys(pages, A)), A) as eye:
        eye.poll()
        pages["a:2"] = OSError("gone")
        for _ in range(12):
            eye.poll()
        assert eye.direct.loads()[A].in_flight == 4.0


def test_address_that_is_no_host_and_port_is_not_read(pages):
    pages |= {"a:1": a_watchdogs_page(1), "a:1@b/x": a_watchdogs_page(2)}
    with looking(Listed({}, dict.fromkeys(pages, A)), A) as eye:
        eye.poll()
        eye.poll()
        assert eye.direct.loads()[A].in_flight == 4.0


def test_address_that_another_function_takes_over_counts_anew(pages):
    pages["a:1"], watchdogs = a_watchdogs_page(1), {"a:1": A}
    with looking(Listed({}, watchdogs), A, B) as eye:
        eye.poll()
        eye.poll()
        watchdogs["a:1"] = B
        pages["a:1"] = a_watchdogs_page(2, arrived=9000)
        rates = [eye.poll() for _ in range(10)]
        until(lambda: B in eye.poll(), "it is read for the other function")
    assert max(load.get(B, 0.0) for load in rates) == 0.0
