"""Refuses requests at their complete head: for their length, the bytes held, or the connections.

An announced length reserves no bytes: otherwise a few clients that send nothing would block others.
"""

from typing import Final

from batching_watchdog.errors import BodyTooLarge, QueueFull, TooManyConnections, WatchdogError
from batching_watchdog.front.connections import Connections
from batching_watchdog.front.exchange import Exchange
from batching_watchdog.front.line import Line
from batching_watchdog.front.state import STOP

DISCARD_BYTES: Final = 1 << 16
"""Bytes of a refused request's body up to which it is read and dropped to keep the connection open."""


def refusal(connections: Connections, line: Line, exchange: Exchange) -> WatchdogError | None:
    """Return the error that refuses a request before its body; None if none does."""
    length, limits, application = exchange.length or 0, connections.limits, connections.application
    surplus = line.surplus
    if length > limits.max_body_bytes:
        return BodyTooLarge(
            f"the body has {length} bytes, the limit (max_body_bytes) is {limits.max_body_bytes}"
        )
    if surplus:
        exchange.keep_alive = False
    exchange.most_held = most = int(limits.max_queued_bytes * application.share(exchange))
    full = connections.queued_bytes + length > most
    if (full or surplus) and exchange.path not in application.always_served:
        if surplus:
            return TooManyConnections(connections.max_connections)
        return QueueFull.of_bytes(most)
    return application.refuse(exchange)


def refuse(connections: Connections, line: Line, exchange: Exchange, error: WatchdogError) -> None:
    """Answer at the header; drop a short body, stop reading for a long one."""
    exchange.refused = True
    connections.charge(exchange, 0)
    length = exchange.length or 0
    if exchange.chunked or length > DISCARD_BYTES or (length and exchange.expects_continue):
        exchange.keep_alive = False
    if not exchange.keep_alive:
        line.go(STOP)
    connections.application.answer_error(exchange, error)
