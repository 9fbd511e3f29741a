from types import SimpleNamespace
from typing import Any

import pytest

from batching_watchdog.function.event import Event
from batching_watchdog.function.messages import DROPPED, Crash, Reply
from batching_watchdog.worker.results import FAILED
from batching_watchdog.worker.serve import serve_but


@pytest.mark.parametrize("cancelled", [set(), {1}, {0, 2}, {0, 1, 2}])
def test_cancelled_requests_do_not_run_and_the_others_keep_their_places(cancelled):
    ran: list[bytes] = []

    def serve(events: list[Event]) -> list[Reply]:
        ran.extend(event.body for event in events)
        return [Reply(200, b"", event.body) for event in events]

    bodies = [b"a", b"b", b"c"]
    handler: Any = SimpleNamespace(serve=serve)
    replies = serve_but(cancelled, [Event(b"POST /\r\n", body) for body in bodies], handler)
    assert ran == [body for place, body in enumerate(bodies) if place not in cancelled]
    assert replies == [
        DROPPED if place in cancelled else Reply(200, b"", body) for place, body in enumerate(bodies)
    ]


def test_crash_of_those_that_are_not_cancelled_is_that_of_the_batch():
    crash = Crash("Traceback ...", FAILED)
    handler: Any = SimpleNamespace(serve=lambda _: crash)
    assert serve_but({0}, [Event(b"POST /\r\n", b"")] * 3, handler) is crash
