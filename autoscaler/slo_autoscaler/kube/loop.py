"""Runs a reconcile step in its own thread, and backs off from objects whose writes fail.

Owns the thread, the interval and the backoff. Knows no kind of object: the owner provides the step.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from slo_autoscaler.errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    PlatformError,
    ScaleChangedError,
    UnreachableError,
)
from slo_autoscaler.kube.informer import Key
from slo_autoscaler.logs import Changes

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS: Final = 2.0
"""Maximum seconds between two passes, and so the delay of a step that depends on time."""

DEBOUNCE_SECONDS: Final = 0.02
"""Seconds between a change and its pass, so that simultaneous changes share a pass. If the last pass took
longer, this is as long, so that many changes use at most half of a core."""

FIRST_BACK_OFF: Final = 0.2
MAX_BACK_OFF: Final = 30.0


class Loop:
    """Calls ``step`` in its own thread when woken, and after the seconds that it returned."""

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self._step = step
        self._awake = threading.Event()
        self._stop = threading.Event()
        self._said = Changes(logger)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread with a pass."""
        self._thread.start()

    def wake(self, _key: Key | None = None) -> None:
        """Request a pass soon."""
        self._awake.set()

    def close(self) -> None:
        """Stop; wait at most a second for a request under way."""
        self._stop.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        wait, took = 0.0, 0.0
        while not self._stop.is_set():
            self._awake.wait(wait)
            self._stop.wait(max(DEBOUNCE_SECONDS, took))
            self._awake.clear()
            if self._stop.is_set():
                return
            wait, began = MAX_WAIT_SECONDS, time.thread_time()
            try:
                wait = self._step()
            except PlatformError as error:
                self._said.say("", str(error))
            except Exception:
                # A bug must not end the loop: the next pass starts from the cluster's state.
                logger.exception("%s failed", self._thread.name)
            else:
                self._said.over("")
            took = time.thread_time() - began


class _Wait(NamedTuple):
    """A backoff: its end, and its length in seconds."""

    until: float = 0.0
    seconds: float = 0.0

    def longer(self) -> "_Wait":
        seconds = min(max(FIRST_BACK_OFF, 2 * self.seconds), MAX_BACK_OFF)
        return _Wait(time.monotonic() + seconds, seconds)


class Writes:
    """The writes of a loop: a failed one backs off without delaying the others.

    A write that fails for one object (refused by a rule) backs off alone. A failure of all writes (no
    answer, 5xx: with a webhook down each write waits for its timeout) ends the pass; the next pass begins
    with the untried writes.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._waits: dict[Key, _Wait] = {}
        self._all = _Wait()
        self._last: dict[Key, float] = {}
        """Time of each object's last try."""
        self._said = Changes(logger)

    def order(self, keys: Iterable[Key]) -> list[Key]:
        """Return the keys, least recently tried first; forget all others."""
        wanted = set(keys)
        self._said.keep(wanted)
        for kept in (self._waits, self._last):
            for key in kept.keys() - wanted:
                del kept[key]
        return sorted(wanted, key=lambda key: (self._last.get(key, 0.0), key))

    def failed(self, key: Key) -> bool:
        """Return whether the last write for this object failed."""
        return key in self._said

    def backing_off(self) -> bool:
        """Return whether all writes back off."""
        return time.monotonic() < self._all.until

    def pause(self) -> float:
        """Return the seconds until the next retry of a write, at most MAX_WAIT_SECONDS."""
        now = time.monotonic()
        due = [wait.until - now for wait in (self._all, *self._waits.values()) if wait.until > now]
        return min([MAX_WAIT_SECONDS, *due])

    def attempt(self, key: Key, write: Callable[[], object]) -> bool:
        """Write, unless the object backs off; return False if the pass is over."""
        now = time.monotonic()
        before = self._waits.get(key, _Wait())
        if now < before.until:
            return True
        self._last[key] = now
        try:
            write()
        except (ConflictError, NotFoundError, ScaleChangedError):
            # The cached state was old; the watch reports the new one.
            return True
        except PlatformError as error:
            self._said.say(key, f"{self._what} of {'/'.join(key)}: {error}")
            if isinstance(error, UnreachableError) or (isinstance(error, ApiError) and error.status >= 500):
                self._all = self._all.longer()
                return False
            self._waits[key] = before.longer()
            return True
        self._all = _Wait()
        self._waits.pop(key, None)
        self._said.over(key, f"{self._what} of {'/'.join(key)}: recovered")
        return True
