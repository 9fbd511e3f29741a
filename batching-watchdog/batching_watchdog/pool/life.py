"""The life of the pool: starting, serving, draining, ended. [P]

Each state has the transitions that it allows, and no other. ``supervisor`` holds one of them.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Ended:
    """The pool stops: it takes no workers in, and a worker that ends is no restart."""

    def drain(self) -> "Ended":
        """Return the state in which workers are not replaced by age."""
        return self


@dataclass(frozen=True, slots=True)
class Draining:
    """Workers are not replaced by age: loading again could outlast the drain."""

    def drain(self) -> "Draining":
        """Return the state in which workers are not replaced by age."""
        return self


@dataclass(frozen=True, slots=True)
class Serving:
    """A worker has served. One that cannot load now is replaced."""

    def drain(self) -> Draining:
        """Return the state in which workers are not replaced by age."""
        return Draining()


@dataclass(frozen=True, slots=True)
class Starting:
    """No worker has served yet: new ones are measured, and one that cannot load ends the watchdog."""

    drains: bool = False
    """Whether the drain has begun."""

    def drain(self) -> "Starting":
        """Return the state in which workers are not replaced by age."""
        return Starting(drains=True)

    def came_up(self) -> Serving | Draining:
        """Return the state once the first worker serves."""
        return Draining() if self.drains else Serving()


Life: TypeAlias = Starting | Serving | Draining | Ended
