"""The watchdog's sockets and its parts together; what it does as a process is in tests/e2e."""

import asyncio
import socket

import pytest

from batching_watchdog.app import (
    PROBE_AFTER_SECONDS,
    SEARCH_SHARE,
    build,
    configured,
    listening_socket,
    pause,
)
from batching_watchdog.observe.metrics import ROWS


def reached(bound: socket.socket, host: str) -> bool:
    try:
        socket.create_connection((host, bound.getsockname()[1])).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the kernel has no IPv6")
def test_listener_is_reached_by_ipv4_and_by_ipv6():
    with listening_socket(0) as bound:
        assert reached(bound, "127.0.0.1")
        assert reached(bound, "::1")


def test_listener_without_ipv6_is_reached_by_ipv4(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listening_socket(0) as bound:
        assert bound.family == socket.AF_INET
        assert reached(bound, "127.0.0.1")


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="another system's options")
def test_connection_whose_client_has_vanished_is_noticed():
    with (
        listening_socket(0) as bound,
        socket.create_connection(("127.0.0.1", bound.getsockname()[1])),
        bound.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBE_AFTER_SECONDS


@pytest.mark.parametrize("holder", ["127.0.0.1", "0.0.0.0"])
def test_port_that_is_taken_for_ipv4_alone_cannot_be_bound(holder):
    with socket.create_server((holder, 0)) as other, pytest.raises(OSError, match="in use"):
        listening_socket(other.getsockname()[1])


def test_every_metric_of_a_watchdog_is_connected():
    async def families() -> list[str]:
        return [family.name for family in build(configured({}), {}).metrics.collect()]

    assert asyncio.run(families()) == [row.name for row in ROWS]


@pytest.mark.parametrize("cpus", [0.1, 0.25, 1.0, 16.0])
def test_capacity_search_takes_its_share_of_the_cpu_quota_at_most(cpus):
    used = 0.004
    assert used / (used + pause(used, cpus)) <= SEARCH_SHARE * cpus
