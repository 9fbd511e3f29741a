"""The generator of streams against a real server."""

import pytest

from lab.load.server import Server
from tailbound_lab.load.generator import Endpoint, Part
from tailbound_lab.load.records import Lagged, Load
from tailbound_lab.load.streams import StreamGenerator, arrivals

HOUR = 3600.0
WHOLE = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: {"left": 1}\n\ndata: {"left": 0}\n\n'
BROKEN_OFF = WHOLE.rpartition(b"data")[0]
REFUSED = b"HTTP/1.1 503 No\r\nConnection: close\r\n\r\n"
PARTS = (Part(b"2", name="2"),)


def offered(answer, *, slo=HOUR, stop_share=1.0):
    """The run of some streams of two pieces, whose due times are an hour apart."""
    with Server(lambda _: answer, close=True) as server:
        generator = StreamGenerator(interval=HOUR, patience=HOUR)
        return generator.run(Endpoint(server.port, PARTS), Load(50.0, 0.4, slo, stop_share=stop_share))


def test_run_of_whole_streams_on_time_counts_all_as_good():
    run = offered(WHOLE)
    assert run.sent == run.ok == run.good > 0
    assert run.statuses == {"200": run.sent}
    assert run.latency_ms["p50"] is not None


@pytest.mark.parametrize(("answer", "status"), [(BROKEN_OFF, "broken"), (REFUSED, "503"), (None, "broken")])
def test_run_of_streams_without_all_pieces_counts_none_as_good(answer, status):
    run = offered(answer)
    assert (run.ok, run.good, run.statuses) == (0, 0, {status: run.sent})


def test_run_of_a_generator_that_lags_is_refused_with_its_late_streams():
    with pytest.raises(Lagged) as lagged:
        offered(WHOLE, slo=-1.0)  # due before they arrive: late by any clock
    run = lagged.value.run
    assert run.sent == run.ok > run.good == 0


def test_run_with_more_misses_than_allowed_is_cut_short():
    assert offered(REFUSED, stop_share=0.01).stopped_early


def test_server_that_does_not_listen_has_no_connection():
    with Server(lambda _: None) as server:
        port = server.port
    run = StreamGenerator(HOUR).run(Endpoint(port, PARTS), Load(50.0, 0.2, slo=HOUR))
    assert run.statuses == {"no_connection": run.sent}


def test_arrivals_of_a_seed_are_the_same_for_every_server():
    parts = [Part(b"2", name="2", weight=3.0), Part(b"9", name="9")]
    first, second = (list(arrivals(parts, 100.0, 10.0, 5)) for _ in range(2))
    assert first == second != list(arrivals(parts, 100.0, 10.0, 6))
    assert {part.name for _, part in first} == {"2", "9"}
