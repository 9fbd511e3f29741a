"""Lets at most one of several autoscalers act: two scalers cannot share a function.

A leader is a class with the two methods of ``Leader``. A standby observes and
decides as well, so that it has the history when it takes over.
"""

from typing import Protocol


class Leader(Protocol):
    """The election, as the controller needs it."""

    def leads(self) -> bool:
        """Return whether this process may act now; try to become the leader if it is not; never wait.

        Called before each reconcile and before each change, from several threads.
        """
        ...

    def close(self) -> None:
        """Let others lead."""
        ...


class Alone:
    """Always the leader, since this autoscaler is the only one; or never, if no platform may write."""

    def __init__(self, *, leads: bool = True) -> None:
        self._leads = leads

    def leads(self) -> bool:
        """Return the same each time."""
        return self._leads

    def close(self) -> None:
        """Do nothing."""
