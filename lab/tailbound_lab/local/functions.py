"""Manages the deployed functions: each by namespace and name, with its replicas.

Owns the rules across functions (``Registry``), one function's desired count (``Function``), and a replacement
of a container registry (``Images``). A change calls ``reconcile``, which starts and stops replicas without
waiting. A count of 0 is valid; ``proxy`` wakes such a function.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tailbound_lab.local.errors import InvalidRequestError, NotFoundError, StartError
from tailbound_lab.local.logs import FunctionLog
from tailbound_lab.local.replica import STOP_GRACE, Replica, ReplicaSettings
from tailbound_lab.local.specs import DEFAULT_NAMESPACE, FunctionSpec

FAILED_STARTS: Final = 3
"""Failed starts after which requests no longer wait for a replica; it is still started again."""


class Function:
    """A deployed function."""

    def __init__(
        self, spec: FunctionSpec, *, handler: Path, settings: ReplicaSettings, log: FunctionLog
    ) -> None:
        self.spec = spec
        self.desired = spec.initial_replicas
        self.created_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.log = log
        self.held = 0
        """Number of requests that wait for a first ready replica."""
        self._handler = handler
        self._settings = settings
        self._replicas: list[Replica] = []
        self._ready: list[Replica] = []
        self._turn = 0
        self._changed = asyncio.Event()
        self._stops: set[asyncio.Task[None]] = set()
        self.closed = False

    @property
    def available(self) -> int:
        """Number of replicas that are ready to serve now."""
        return len(self._ready)

    @property
    def replicas(self) -> Sequence[Replica]:
        """All replicas, including draining ones."""
        return tuple(self._replicas)

    @property
    def failing(self) -> str | None:
        """Why no replica will become ready soon, as text; None if one may.

        A replica counts after ``FAILED_STARTS`` failures: a single failed start is retried within 0.1 s.
        """
        active = self._active()
        if not active or any(replica.failed_starts < FAILED_STARTS for replica in active):
            return None
        worst = max(active, key=lambda replica: replica.failed_starts)
        return f"{worst.name} ended {worst.failed_starts} times in a row before it was ready; see its log"

    def scale(self, desired: int, why: str = "") -> None:
        """Set the desired replicas; log a change, with ``why``, in the function's log."""
        if desired != self.desired:
            # Logged under the function's own name; replicas log under theirs.
            because = f": {why}" if why else ""
            self.log.write(self.spec.name, f"replicas: {self.desired} -> {desired}{because}")
        self.desired = desired
        self.reconcile()

    def update(self, spec: FunctionSpec, handler: Path) -> None:
        """Replace all replicas at the same count; requests wait until a new one is ready."""
        self.spec = spec
        self._handler = handler
        for replica in self._active():
            self._stop(replica, STOP_GRACE)
        self.reconcile()

    def pick(self) -> Replica | None:
        """Return the ready replica with the fewest outstanding requests, or None; equals take turns."""
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
        """Return at the next change of the replicas, their readiness or the desired count."""
        self._changed.clear()
        await self._changed.wait()

    async def settled(self) -> None:
        """Return when exactly the desired replicas run, and all are ready."""
        while not len(self._replicas) == len(self._ready) == self.desired:
            await self.changed()

    def reconcile(self) -> None:
        """Start and stop towards the desired replicas; called on every change."""
        if not self.closed:
            # Replicas that are not ready stop first, then the youngest: it has learned least.
            active = sorted(self._active(), key=lambda replica: not replica.ready)
            for replica in active[self.desired :]:
                self._stop(replica, STOP_GRACE)
            for _ in range(self.desired - len(active)):
                self._start()
        self._ready = [replica for replica in self._active() if replica.ready]
        self._changed.set()

    async def close(self, grace: float) -> None:
        """Stop every replica; return when all have ended."""
        self.closed = True
        self.desired = 0
        # Requests that wait for a replica need not wait for the drain.
        self._changed.set()
        for replica in self._active():
            self._stop(replica, grace)
        while self._stops:
            _, late = await asyncio.wait(set(self._stops), timeout=grace)
            if late:
                # They began to drain with a longer grace period.
                await asyncio.gather(*(replica.stop(0.0) for replica in self._replicas))
        self.log.close()

    def _active(self) -> list[Replica]:
        """Return the replicas that are not draining, in the order of their start."""
        return [replica for replica in self._replicas if not replica.draining]

    def _start(self) -> None:
        taken = {replica.index for replica in self._replicas}
        # The lowest free number, from 1: names stay short and series few.
        index = next(number for number in range(1, len(taken) + 2) if number not in taken)
        replica = Replica(
            self.spec,
            index=index,
            handler=self._handler,
            settings=self._settings,
            on_line=self.log.write,
            on_change=self.reconcile,
        )
        self._replicas.append(replica)
        replica.start()

    def _stop(self, replica: Replica, grace: float) -> None:
        # Immediately, before another request picks it.
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


class Images:
    """Every known image and its handler folder."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}

    def add(self, image: str, folder: Path) -> None:
        """Make ``image`` deployable. Raises ``StartError`` if the folder has no handler."""
        folder = folder.resolve()
        if not folder.is_dir():
            raise StartError(f"image {image}: {folder} is not a folder")
        if not any((folder / entry).exists() for entry in ("handler.py", "handler/__init__.py")):
            raise StartError(f"image {image}: there is no handler.py in {folder}")
        known = self._folders.setdefault(image, folder)
        if known != folder:
            raise StartError(
                f"image {image}: names both {known} and {folder}; give each handler its own image"
            )

    def folder(self, image: str) -> Path:
        """Return the handler folder of ``image``. Raises ``InvalidRequestError`` without one."""
        try:
            return self._folders[image]
        except KeyError:
            known = ", ".join(sorted(self._folders)) or "none"
            raise InvalidRequestError(
                f"image: {image!r} is not known here: images are not pulled but map to handler folders, by "
                f"--stack or --image NAME=FOLDER (known: {known})"
            ) from None


class Registry:
    """The deployed functions."""

    def __init__(self, images: Images, settings: ReplicaSettings, log_folder: Path) -> None:
        self.images = images
        self._settings = settings
        self._log_folder = log_folder
        self._functions: dict[str, Function] = {}
        self._removed: dict[asyncio.Task[None], Function] = {}

    def __iter__(self) -> Iterator[Function]:
        return iter(tuple(self._functions.values()))

    def with_removed(self) -> Iterator[Function]:
        """Yield the functions, and removed ones whose replicas still drain."""
        return iter((*self._functions.values(), *self._removed.values()))

    def deploy(self, spec: FunctionSpec) -> Function:
        """Create the function, or update an existing one, as faasd does.

        Returns at once: replicas start in the background. Raises ``InvalidRequestError`` for an unknown
        image.
        """
        if spec.full_name in self._functions:
            return self.update(spec)
        handler = self.images.folder(spec.image)
        function = Function(
            spec,
            handler=handler,
            settings=self._settings,
            log=FunctionLog(self._log_folder / spec.full_name),
        )
        self._functions[spec.full_name] = function
        function.reconcile()
        return function

    def update(self, spec: FunctionSpec) -> Function:
        """Change the function to ``spec`` at its present count. Raises ``NotFoundError`` without one."""
        function = self.get(spec.name, spec.namespace)
        function.update(spec, self.images.folder(spec.image))
        return function

    def scale(self, function: Function, replicas: int) -> None:
        """Set the desired replicas of a function.

        While requests are held, zero becomes the count to which they would wake it: the caller cannot have
        known of them.
        """
        if replicas == 0 and function.held:
            self._wake(function)
        else:
            function.scale(replicas)

    def wake(self, function: Function) -> None:
        """Start a function at zero because a request arrived; otherwise do nothing."""
        if function.desired == 0 and not function.closed:
            self._wake(function)

    def _wake(self, function: Function) -> None:
        # To the count of a new function, the gateway's max(1, min label); the autoscaler takes it from there.
        function.scale(function.spec.initial_replicas, "requests are held")

    def remove(self, function: Function) -> None:
        """Remove a function at once; its replicas drain in the background."""
        del self._functions[function.spec.full_name]
        task = asyncio.create_task(function.close(STOP_GRACE), name=f"remove {function.spec.full_name}")
        self._removed[task] = function
        task.add_done_callback(self._removed.pop)

    def find(self, path_name: str) -> Function | None:
        """Return the function that ``fn`` or ``fn.ns`` in a path names, or None."""
        functions = self._functions
        return functions.get(path_name) or functions.get(f"{path_name}.{DEFAULT_NAMESPACE}")

    def get(self, path_name: str, *namespaces: str) -> Function:
        """Return the function in the first non-empty of ``namespaces``. Raises ``NotFoundError``."""
        # Split at the last dot, as faas-provider does.
        name, _, suffix = path_name.rpartition(".") if "." in path_name else (path_name, "", "")
        namespace = next(filter(None, (*namespaces, suffix)), DEFAULT_NAMESPACE)
        function = self._functions.get(f"{name}.{namespace}")
        if function is None:
            raise NotFoundError(f"function {name} does not exist in namespace {namespace}")
        return function

    async def close(self, grace: float) -> None:
        """Stop every replica of every function; return when all have ended."""
        functions = (*self._functions.values(), *self._removed.values())
        await asyncio.gather(*(function.close(grace) for function in functions))
