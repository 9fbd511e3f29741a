"""The last seconds of a value. [P]

Owns what is remembered and for how long; frozen, so that a state can be threaded through ``decide``.
An entry belongs to the window while less than ``span`` seconds have passed since. Time that runs backwards
counts as standing still.
"""

from dataclasses import dataclass, replace

Entry = tuple[float, float]
"""(seconds, value)"""


@dataclass(frozen=True, slots=True)
class History:
    """Every value of the last ``span`` seconds, oldest first."""

    span: float
    entries: tuple[Entry, ...] = ()

    def push(self, now: float, value: float) -> "History":
        """Return the history with one more value, and without what is too old."""
        now = max(now, self.entries[-1][0]) if self.entries else now
        return replace(self, entries=(*_since(self.entries, now, self.span), (now, value)))

    def within(self, now: float, span: float) -> tuple[Entry, ...]:
        """Return the entries of the last ``span`` seconds (at most the history's own span)."""
        return _since(self.entries, now, min(span, self.span))

    def moved(self, seconds: float) -> "History":
        """Return the same history, as if everything had happened ``seconds`` later."""
        return replace(self, entries=tuple((when + seconds, value) for when, value in self.entries))


@dataclass(frozen=True, slots=True)
class SlidingMax:
    """The largest value of the last ``span`` seconds.

    Keeps only values that can still become the maximum (each is larger than all after it), so a long
    window over a steady value is one entry.
    """

    span: float
    entries: tuple[Entry, ...] = ()

    def push(self, now: float, value: float) -> "SlidingMax":
        """Return the window with one more value, and without what is too old or can no longer matter."""
        now = max(now, self.entries[-1][0]) if self.entries else now
        kept = tuple(entry for entry in _since(self.entries, now, self.span) if entry[1] > value)
        return replace(self, entries=(*kept, (now, value)))

    def value(self, now: float, span: float | None = None) -> float | None:
        """Return the maximum of the last ``span`` seconds (at most, and by default, the window's own).

        None if nothing was recorded in them.
        """
        span = self.span if span is None else min(span, self.span)
        # Values fall from the oldest entry to the newest, so the first that is young enough is the maximum.
        return next((value for when, value in self.entries if now - when < span), None)

    def moved(self, seconds: float) -> "SlidingMax":
        """Return the same window, as if everything had happened ``seconds`` later."""
        return replace(self, entries=tuple((when + seconds, value) for when, value in self.entries))


def _since(entries: tuple[Entry, ...], now: float, span: float) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries if now - entry[0] < span)
