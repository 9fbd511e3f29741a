"""Logs a state once when it begins or changes, and its end once."""

import logging
from collections.abc import Collection, Hashable, Set


class Changes:
    """The present states of one module, each under a key; any thread may change them."""

    def __init__(self, logger: logging.Logger) -> None:
        """``logger`` is the module's."""
        self._logger = logger
        self._states: dict[Hashable, str] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Return whether ``key`` has a state."""
        return key in self._states

    def keys(self) -> Set[Hashable]:
        """Return the keys that have a state."""
        return self._states.keys()

    def say(
        self, key: Hashable, text: str, *, state: str | None = None, level: int = logging.WARNING
    ) -> bool:
        """Log ``text`` if ``state`` (default: the text) is not the state of ``key``; return whether so."""
        state = text if state is None else state
        new = self._states.get(key) != state
        self._states[key] = state
        if new:
            self._logger.log(level, "%s", text)
        return new

    def over(self, key: Hashable, text: str = "") -> None:
        """End the state of ``key``, and log ``text``, if any, unless there was none."""
        if self._states.pop(key, None) is not None and text:
            self._logger.info("%s", text)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget the states of all other keys."""
        for key in set(self._states).difference(keys):
            self._states.pop(key, None)
