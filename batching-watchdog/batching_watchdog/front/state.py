"""Defines the life of one connection as a table of states and events. [P]

What is not in the table cannot happen. Requests follow each other in ``IDLE``, ``HEAD`` and ``BODY``; from
there a connection only goes forward. ``line`` keeps the state, and is the only module that changes it.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class State(IntEnum):
    """What a connection reads now, and whether it still answers. None from ``STOPPED`` on leads back."""

    IDLE = 0
    """No request is incomplete: the next one may begin. Complete ones may wait for their answers."""
    HEAD = 1
    """The head of a request is incomplete."""
    BODY = 2
    """The head is complete, the body is not; that of a refused request is dropped."""
    STOPPED = 3
    """A request that the client may still send is refused and not read: earlier answers leave first."""
    LAST = 4
    """The last request is complete: it and earlier ones are answered, and nothing is read."""
    LINGERING = 5
    """All was answered, and the client may still send: its bytes are dropped, so that it sees the answer."""
    CLOSING = 6
    """All was answered, and written bytes still leave."""
    LOST = 7
    """The transport is gone."""


class Event(IntEnum):
    """What changes the state."""

    BEGIN = 0
    """The first bytes of a request came."""
    HEAD_COMPLETE = 1
    COMPLETE = 2
    """The request is complete."""
    STOP = 3
    """No request is taken after this one."""
    CLOSE = 4
    """No answer is sent after this one."""
    LOSE = 5
    """The transport ended, whatever for."""


# By name: a class attribute of an enumeration costs a call in Python 3.11.
IDLE, HEAD, BODY, STOPPED, LAST, LINGERING, CLOSING, LOST = State
BEGIN, HEAD_COMPLETE, COMPLETE, STOP, CLOSE, LOSE = Event

TAKES: Final = (IDLE, HEAD, BODY)
"""States in which further bytes are read as requests."""
ANSWERS: Final = (*TAKES, STOPPED, LAST)
"""States in which answers are sent."""

NEXT: Final[Mapping[State, Mapping[Event, State]]] = {
    IDLE: {BEGIN: HEAD, STOP: LAST, CLOSE: CLOSING, LOSE: LOST},
    HEAD: {HEAD_COMPLETE: BODY, STOP: STOPPED, CLOSE: LINGERING, LOSE: LOST},
    BODY: {COMPLETE: IDLE, STOP: STOPPED, CLOSE: LINGERING, LOSE: LOST},
    STOPPED: {COMPLETE: LAST, CLOSE: LINGERING, LOSE: LOST},
    LAST: {CLOSE: CLOSING, LOSE: LOST},
    LINGERING: {COMPLETE: LINGERING, LOSE: LOST},
    CLOSING: {LOSE: LOST},
    LOST: {},
}
"""The state after each event that may come in a state."""
