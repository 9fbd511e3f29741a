"""One function: holds its replicas at the count that is wanted and picks one per request.

Owns the function's desired count, its generations and its replicas. Every change calls ``reconcile``, which
asks ``plan`` what to do and does it; nothing waits there. A count of 0 is one like any other here: whose
request wakes the function again is ``proxy``'s business. ``registry`` holds the functions.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tailbound_lab.local.logs import FunctionLog
from tailbound_lab.local.plan import ReplicaView, choose_index, plan
from tailbound_lab.local.replica import STOP_GRACE, Replica, ReplicaSettings
from tailbound_lab.local.specs import FunctionSpec

FAILED_STARTS: Final = 3
"""A replica that ended so often before it was ready is not worth waiting for; it is still started again."""


class Function:
    """A deployed function."""

    def __init__(
        self, spec: FunctionSpec, handler: Path, desired: int, settings: ReplicaSettings, log: FunctionLog
    ) -> None:
        self.spec = spec
        self.desired = desired
        self.created_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.log = log
        self.held = 0
        """Requests that wait for a first ready replica."""
        self._handler = handler
        self._settings = settings
        self._generation = 1
        self._replicas: list[Replica] = []
        self._ready: list[Replica] = []
        self._turn = 0
        self._changed = asyncio.Event()
        self._stops: set[asyncio.Task[None]] = set()
        self.closed = False

    @property
    def available(self) -> int:
        """Replicas that are ready to serve now."""
        return len(self._ready)

    @property
    def replicas(self) -> Sequence[Replica]:
        """All replicas, those that drain included."""
        return tuple(self._replicas)

    @property
    def failing(self) -> str | None:
        """Why no replica is to be expected soon, in words; None if one may become ready.

        Only what has failed ``FAILED_STARTS`` times counts: one bad start is tried again within 0.1 s.
        """
        active = [replica for replica in self._replicas if not replica.draining]
        if not active or any(replica.failed_starts < FAILED_STARTS for replica in active):
            return None
        worst = max(active, key=lambda replica: replica.failed_starts)
        return f"{worst.name} ended {worst.failed_starts} times in a row before it was ready; see its log"

    def scale(self, desired: int, why: str = "") -> None:
        """Want ``desired`` replicas from now on; a change, and ``why``, is a line in the function's log."""
        if desired != self.desired:
            # Under the function's own name, where the replicas' lines stand under theirs.
            because = f": {why}" if why else ""
            self.log.write(self.spec.name, f"replicas: {self.desired} -> {desired}{because}")
        self.desired = desired
        self.reconcile()

    def update(self, spec: FunctionSpec, handler: Path) -> None:
        """Roll to a new generation at the same count: new replicas come up before old ones go."""
        self.spec = spec
        self._handler = handler
        self._generation += 1
        self.reconcile()

    def pick(self) -> Replica | None:
        """The ready replica with the fewest outstanding requests, or None; equals take turns."""
        ready = self._ready
        if not ready:
            return None
        # Starting the search one further each time makes equals take turns.
        self._turn = turn = (self._turn + 1) % len(ready)
        best = ready[turn]
        for replica in ready:
            if replica.outstanding < best.outstanding:
                best = replica
        return best

    async def changed(self) -> None:
        """Return at the next change of the replicas, their readiness or the wanted count."""
        self._changed.clear()
        await self._changed.wait()

    async def settled(self) -> None:
        """Return when exactly the wanted replicas of the newest generation run, and all are ready."""
        while not (
            len(self._replicas) == len(self._ready) == self.desired
            and all(replica.generation == self._generation for replica in self._replicas)
        ):
            await self.changed()

    def reconcile(self) -> None:
        """Take the next step towards the wanted replicas; called on every change."""
        if not self.closed:
            active = [replica for replica in self._replicas if not replica.draining]
            views = [ReplicaView(replica.name, replica.generation, replica.ready) for replica in active]
            todo = plan(views, generation=self._generation, desired=self.desired)
            for replica in active:
                if replica.name in todo.stop:
                    self._stop(replica, STOP_GRACE)
            for _ in range(todo.start):
                self._start()
        self._ready = [replica for replica in self._replicas if replica.ready and not replica.draining]
        self._changed.set()

    async def close(self, grace: float) -> None:
        """Stop every replica; returns when all are gone."""
        self.closed = True
        self.desired = 0
        # Who waits for a replica need not wait for the drain.
        self._changed.set()
        for replica in self._replicas:
            if not replica.draining:
                self._stop(replica, grace)
        while self._stops:
            _, late = await asyncio.wait(set(self._stops), timeout=grace)
            if late:
                # They began to drain with a longer grace than we have now.
                await asyncio.gather(*(replica.stop(0.0) for replica in self._replicas))
        self.log.close()

    def _start(self) -> None:
        index = choose_index([replica.index for replica in self._replicas])
        replica = Replica(
            self.spec,
            index,
            self._generation,
            self._handler,
            self._settings,
            on_line=self.log.write,
            on_change=self.reconcile,
        )
        self._replicas.append(replica)
        replica.start()

    def _stop(self, replica: Replica, grace: float) -> None:
        # At once, before any other request picks it.
        replica.draining = True
        task = asyncio.create_task(self._stop_and_forget(replica, grace), name=f"stop {replica.name}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _stop_and_forget(self, replica: Replica, grace: float) -> None:
        try:
            await replica.stop(grace)
        finally:
            self._replicas.remove(replica)
            self.reconcile()
