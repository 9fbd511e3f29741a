"""What clients can cost: nothing that they send raises, hangs, or is kept without bound."""

import tracemalloc
from dataclasses import replace
from itertools import chain, repeat

import pytest

from batching_watchdog.front.answers import MAX_UNREAD
from batching_watchdog.front.connections import CONNECTION_BYTES, SURPLUS_CONNECTIONS
from batching_watchdog.front.line import LEAST_RATE, STALL_SECONDS
from batching_watchdog.front.protocol import IDLE_SECONDS, SURPLUS_SECONDS
from batching_watchdog.front.reader import MAX_HEADER_BYTES
from support.connection import (
    CHUNKED,
    GET,
    LAST,
    LIMITS,
    POST,
    Connection,
    Echo,
    clients,
    post,
    statuses,
)

READ = 1 << 16
MIB = 1 << 20
TOO_LONG = b"a: b\r\n" * (2 + MAX_HEADER_BYTES // 6)

REFUSED = {
    "a long body": (post(1001), 413),
    "long in chunks": (CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n", 413),
    "many headers": (b"GET / HTTP/1.1\r\n" + TOO_LONG, 431),
    "one long header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * MAX_HEADER_BYTES + b"\r\n\r\n", 431),
    "a long length": (POST + b"Content-Length: %b1\r\n\r\n" % (b"0" * 4400), 400),
    "a long target": (b"GET /" + b"y" * MAX_HEADER_BYTES, 431),
}
"""What comes, and the status."""


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_request_beyond_a_length_limit_is_refused(data, status):
    client = Connection()
    (answer,) = client.send(data)
    assert answer.status == status
    assert not client.application.messages


@pytest.mark.parametrize("target", [0, 1], ids=["in the headers", "in the target"])
@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 431)])
def test_header_may_have_just_so_many_bytes(target, over, status):
    # Target and headers count, a header with its colon and line end: 1 + 9 + 5 without the filling.
    fill = b"y" * (MAX_HEADER_BYTES - 15 + over)
    parts = (fill, b"") if target else (b"", fill)
    client = Connection()
    answers = client.send(b"GET /%b HTTP/1.1\r\nHost:x\r\nA:%b\r\n\r\n" % parts)
    assert [answer.status for answer in answers] == [status]


ENDLESS = {
    "a target": (b"GET /", b"y" * READ),
    "a header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"y" * READ),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 9000),
    "zeros": (CHUNKED, b"0" * READ),
    "an extension": (CHUNKED + b"1;a", b"e" * READ),
    "a quoted extension": (CHUNKED + b'1;a="', b"e" * READ),
    "extensions": (CHUNKED, b"1;" + b"e" * 20_000 + b"\r\nx\r\n"),
    "a trailer": (CHUNKED + b"0\r\nA: ", b"y" * READ),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 9000),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
def test_endless_framing_is_refused_after_the_header_limit(start, more):
    client, sent = Connection(), 0
    for piece in chain([start], repeat(more)):
        sent += len(piece)
        if answers := client.send(piece):
            break
        assert sent < 4 * READ
    assert [answer.status for answer in answers] == [431]
    assert client.wire.closed
    assert not client.application.messages


def test_body_in_chunks_of_one_byte_is_not_taken_for_abuse():
    client = Connection(limits=replace(LIMITS, max_body_bytes=20_000))
    client.send(CHUNKED, *[b"1;a=bcdefg\r\nx\r\n" * 100] * 200, b"0\r\n\r\n")
    assert [message.body for message in client.application.messages] == [b"x" * 20_000]


def test_large_read_that_ends_within_the_next_request_is_not_taken_for_long_headers():
    assert len(Connection().send(GET * 3000 + GET[:8], GET[8:])) == 3001


SMALL = replace(LIMITS, max_body_bytes=100_000, max_queued_bytes=200_000, max_connections=20)


def body(size: int) -> bytes:
    return post(size) + b"x" * size


def test_request_beyond_the_held_bytes_is_refused_until_others_are_answered():
    client, other = clients(2, Echo(hold=True), SMALL)
    client.send(body(90_000) + body(50_000))
    assert statuses(other.send(post(60_000))) == [429]
    assert other.send(b"x" * 60_000 + body(30_000)) == []
    assert client.held > 170_000
    client.application.answer(client.application.exchanges[0])
    assert client.held < 90_000
    assert other.send(body(60_000)) == []


def test_best_effort_fills_half_of_the_held_bytes_and_others_the_rest():
    client, bulk, chunked, other = clients(4, Echo(hold=True), SMALL)
    head = post(80_000).replace(b" / ", b" /bulk ")
    client.send(head + b"x" * 80_000)
    assert statuses(bulk.send(head)) == [429], "before its body"
    (answer,) = chunked.send(CHUNKED.replace(b" / ", b" /bulk ") + b"182b8\r\n" + b"x" * 30_000)
    assert (answer.status, answer.headers["connection"]) == (429, "close")
    assert other.send(body(90_000)) == []
    assert client.held > 170_000


def test_chunked_bodies_count_as_they_come_and_are_cut_when_it_is_too_much():
    client, *others = clients(3, limits=SMALL)
    client.send(CHUNKED + b"182b8\r\n" + b"x" * 99_000 + b"\r\n")
    # What is announced but has not come takes nothing from the others.
    assert others[0].send(post(60_000)) == []
    assert others[1].send(CHUNKED + b"182b8\r\n" + b"x" * 60_000) == []
    (answer,) = others[1].send(b"x" * 39_000)
    assert (answer.status, answer.headers["connection"]) == (429, "close")
    assert 99_000 < client.held < 105_000


def test_request_with_room_in_a_share_of_the_bytes_is_refused_beyond_it_and_another_is_not():
    client, other = clients(2, Echo(hold=True, room=0.5), SMALL)
    assert client.send(body(90_000)) == []
    assert statuses(other.send(post(30_000))) == [429]
    client.application.room = 1.0
    assert client.send(body(90_000)) == []
    (chunked,) = clients(1, Echo(hold=True, room=0.4), SMALL)
    assert statuses(chunked.send(CHUNKED + b"182b8\r\n" + b"x" * 90_000)) == [429]


def test_heads_count_while_they_come_and_while_they_wait():
    client, waiting, coming = clients(3, Echo(hold=True), SMALL)
    waiting.send(GET[:-2] + b"X: " + b"y" * 60_000 + b"\r\n\r\n")
    assert client.held > 60_000
    assert coming.send(GET[:-2] + b"X: " + b"y" * 50_000) == []
    assert client.held > 110_000
    # Many headers take more memory than they have bytes.
    assert statuses(client.send(GET[:-2] + b"a: b\r\n" * 600)) == [429]
    for each in (waiting, coming):
        each.lose()
    assert client.held == 0


def test_answers_that_wait_for_others_before_them_count_until_they_are_sent():
    client = Connection(Echo(hold=True, answer_size=50_000), SMALL)
    client.send(body(10) * 3)
    client.release(2, 1)
    assert client.held > 100_000
    # The bodies of those that are answered are not kept beside the answers.
    assert not any(each.body for each in client.application.exchanges[1:])
    assert len(client.release(0)) == 3
    assert client.held == 0


def test_answers_that_are_not_read_count_until_they_are():
    client, other = clients(2, limits=SMALL)
    client.send(GET)
    client.wire.unread = 200_000
    client.protocol.pause_writing()
    assert statuses(other.send(GET)) == [429]
    assert statuses(other.send(GET.replace(b"/a", b"/always"))) == [200]
    client.wire.unread = 0
    client.protocol.resume_writing()
    assert statuses(other.send(GET)) == [200]
    assert client.held == 0


@pytest.mark.parametrize("first", ["piece", "answer"])
def test_client_is_a_slow_reader_by_what_comes_after_one_that_is_large(first):
    client = Connection(Echo(hold=True, answer_size=8 * MIB), replace(LIMITS, max_queued_bytes=64 * MIB))
    client.send(GET + GET)
    large, stream = client.application.exchanges
    if first == "answer":
        client.application.answer(large)
    else:
        large.respond(200, b"", b"")
    stream.begin(200, b"")
    client.wire.unread = 8 * MIB
    client.protocol.pause_writing()
    assert first == "answer" or stream.send(b"x" * 8 * MIB)
    client.wire.unread += MAX_UNREAD // 2
    assert stream.send(b"x")
    client.wire.unread += MAX_UNREAD
    assert not stream.send(b"x")


def test_client_that_has_read_a_large_piece_is_bounded_as_before():
    client = Connection(Echo(hold=True))
    client.send(GET)
    (stream,) = client.application.exchanges
    stream.begin(200, b"")
    client.protocol.pause_writing()
    assert stream.send(b"x" * MIB)
    client.protocol.resume_writing()
    client.wire.unread = 2 * MAX_UNREAD
    client.protocol.pause_writing()
    assert not stream.send(b"x")


def test_answer_after_one_that_is_larger_than_the_limit_waits_for_its_client():
    client = Connection(Echo(hold=True, answer_size=300_000), SMALL)
    client.send(GET * 3)
    client.release(0)
    client.wire.unread = 300_000
    client.protocol.pause_writing()
    client.release(1)
    assert not client.wire.aborted
    client.wire.unread = 600_000
    client.release(2)
    assert client.wire.aborted


def test_client_stalled_longest_is_cut_while_too_much_is_held():
    *stalled, last = clients(4, limits=SMALL)
    for client in stalled:
        client.send(GET)
        client.wire.unread = 80_000
        client.protocol.pause_writing()
        assert not stalled[0].wire.aborted
        client.clock.now += STALL_SECONDS / 2.5
    # The third was too much, but no client had had its time to read.
    last.wire.unread = 1
    last.protocol.pause_writing()
    assert [client.wire.aborted for client in (*stalled, last)] == [True, False, False, False]


def test_answers_pause_while_clients_have_too_many_bytes_to_read():
    client, other = clients(2, limits=SMALL)
    for one in (client, other):
        one.send(GET)
        one.wire.unread = SMALL.max_queued_bytes // 3
        assert not client.connections.paused
        one.protocol.pause_writing()
    assert client.connections.paused
    client.wire.unread = 0
    client.protocol.resume_writing()
    assert not client.connections.paused


@pytest.mark.parametrize("end", ["lose", "cut"])
def test_answers_go_on_once_a_client_that_does_not_read_has_gone(end):
    client, other = clients(2, limits=SMALL)
    client.wire.unread = SMALL.max_queued_bytes
    client.protocol.pause_writing()
    assert other.connections.paused
    if end == "lose":
        client.lose()
    else:
        other.pass_time(STALL_SECONDS)
        assert client.wire.aborted
    assert not other.connections.paused


@pytest.mark.parametrize(("rate", "aborted"), [(LEAST_RATE - 1, True), (LEAST_RATE, False)])
def test_client_is_cut_while_answers_pause_if_it_reads_too_slowly(rate, aborted):
    client = Connection(limits=SMALL)
    client.wire.unread = 10 * LEAST_RATE
    client.protocol.pause_writing()
    for _ in range(3):
        client.wire.unread -= rate
        client.pass_time(1.0)
    assert client.wire.aborted == aborted


def test_small_parts_of_a_body_take_about_as_much_memory_as_the_body():
    client = Connection(limits=SMALL)
    client.send(CHUNKED)
    pieces = [b"2\r\nxy\r\n" * 100] * 100
    tracemalloc.start()
    try:
        client.send(*pieces)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 60_000, "10,000 objects of two bytes would take 430,000"
    client.send(b"0\r\n\r\n")
    assert client.application.messages[0].body == b"xy" * 10_000


ONE, TWO = (replace(LIMITS, max_connections=number) for number in (1, 2))


def test_connection_too_many_is_refused_at_its_request_but_probes_are_answered():
    *served, refused, probe = clients(4, Echo(hold=True), TWO)
    for client in served:
        client.send(GET)
    served[0].application.hold = False
    for client, target, status in ((refused, b"/a", 503), (probe, b"/always", 200)):
        (answer,) = client.send(GET.replace(b"/a", target))
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert client.wire.closed
        client.lose()
    served[0].lose()
    assert statuses(Connection(beside=served[1]).send(GET)) == [200]


def test_connection_too_many_that_asks_nothing_is_closed_soon():
    busy = Connection(Echo(hold=True), ONE)
    busy.send(GET)
    silent, slow = Connection(beside=busy), Connection(beside=busy)
    slow.send(GET[:9])
    assert busy.pass_time(SURPLUS_SECONDS) == []
    assert not silent.wire.closed
    busy.pass_time(1.0)
    assert (busy.wire.closed, silent.wire.closed) == (False, True)
    assert statuses(slow.answers()) == [408]


def test_connections_far_too_many_are_reset():
    busy = Connection(Echo(hold=True), ONE)
    busy.send(GET)
    others = [Connection(beside=busy) for _ in range(SURPLUS_CONNECTIONS + 1)]
    assert [client.wire.aborted for client in others] == [False] * SURPLUS_CONNECTIONS + [True]
    for client in others:
        client.lose()
    assert not Connection(beside=busy).wire.aborted


def test_idle_connection_makes_room_for_a_new_one():
    busy, idle = clients(2, Echo(hold=True), TWO)
    busy.send(GET)
    busy.clock.now += IDLE_SECONDS
    new = Connection(beside=busy)
    assert [client.wire.closed for client in (busy, idle, new)] == [False, True, False]
    idle.lose()
    # The new one has had no time to send its request yet.
    late = Connection(beside=busy)
    assert not new.wire.closed
    assert statuses(late.send(GET)) == [503]


def test_connections_hold_no_more_than_half_of_the_bytes():
    limits = replace(SMALL, max_connections=1000)
    *_, last, surplus = clients(SMALL.max_queued_bytes // CONNECTION_BYTES // 2 + 1, Echo(hold=True), limits)
    assert [statuses(client.send(LAST)) for client in (last, surplus)] == [[], [503]]
