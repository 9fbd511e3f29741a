"""Every function by namespace and name: deploy, update, scale, remove.

Owns the rules across functions. A namespace is part of a name: it is there while a function is in it.
``provider`` and ``platform`` change the registry; ``proxy`` and ``metrics`` read it.
"""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from tailbound_lab.local.errors import NotFoundError
from tailbound_lab.local.function import Function
from tailbound_lab.local.images import Images
from tailbound_lab.local.logs import FunctionLog
from tailbound_lab.local.replica import STOP_GRACE, ReplicaSettings
from tailbound_lab.local.specs import DEFAULT_NAMESPACE, FunctionSpec, split_name

_log = logging.getLogger(__name__)


class Registry:
    """The deployed functions; ``max_replicas`` of 0 means no cap."""

    def __init__(
        self, images: Images, settings: ReplicaSettings, log_folder: Path, *, max_replicas: int = 0
    ) -> None:
        self.images = images
        self._settings = settings
        self._log_folder = log_folder
        self._max_replicas = max_replicas
        self._functions: dict[str, Function] = {}
        self._short_names: dict[str, Function] = {}
        self._removed: dict[asyncio.Task[None], Function] = {}

    def __iter__(self) -> Iterator[Function]:
        return iter(tuple(self._functions.values()))

    def with_removed(self) -> Iterator[Function]:
        """The functions, and those removed whose replicas still drain."""
        return iter((*self._functions.values(), *self._removed.values()))

    def deploy(self, spec: FunctionSpec) -> Function:
        """Create the function, or update it if it is there already, as faasd does.

        Returns at once: replicas start on their own. Raises ``InvalidRequestError`` for an unknown image or
        secret.
        """
        function = self._functions.get(spec.full_name)
        if function is not None:
            return self.update(spec)
        handler = self._check(spec)
        function = Function(
            spec,
            handler,
            self._capped(spec.full_name, spec.initial_replicas),
            self._settings,
            FunctionLog(self._log_folder / spec.full_name),
        )
        self._functions[spec.full_name] = function
        if spec.namespace == DEFAULT_NAMESPACE:
            self._short_names[spec.name] = function
        function.reconcile()
        return function

    def update(self, spec: FunctionSpec) -> Function:
        """Roll the function to ``spec`` at its present count. Raises ``NotFoundError`` if there is none."""
        function = self.get(spec.name, spec.namespace)
        function.update(spec, self._check(spec))
        return function

    def scale(self, name: str, namespace: str, replicas: int) -> int:
        """Want ``replicas`` of a function; returns the count that it got.

        The cap may make it less. Zero while requests are held becomes what they would wake it to: whoever
        asked for zero cannot have known of them.
        """
        function = self.get(name, namespace)
        if replicas == 0 and function.held:
            self._wake(function)
        else:
            function.scale(self._capped(function.spec.full_name, replicas))
        return function.desired

    def wake(self, function: Function) -> None:
        """Start a function that is at zero, as a request for it has come in; else do nothing."""
        if function.desired == 0 and not function.closed:
            self._wake(function)

    def _wake(self, function: Function) -> None:
        # To the count of a new function, the gateway's max(1, min label); the autoscaler takes it from there.
        woken = self._capped(function.spec.full_name, function.spec.initial_replicas)
        function.scale(woken, "requests are held")

    def remove(self, name: str, namespace: str) -> None:
        """Forget a function at once; its replicas drain in the background."""
        function = self.get(name, namespace)
        del self._functions[function.spec.full_name]
        if namespace == DEFAULT_NAMESPACE:
            del self._short_names[name]
        task = asyncio.create_task(function.close(STOP_GRACE), name=f"remove {name}")
        self._removed[task] = function
        task.add_done_callback(self._removed.pop)

    def get(self, name: str, namespace: str) -> Function:
        """The function. Raises ``NotFoundError``."""
        function = self._functions.get(f"{name}.{namespace}")
        if function is None:
            raise NotFoundError(f"function {name} does not exist in namespace {namespace}")
        return function

    def find(self, path_name: str) -> Function | None:
        """The function that ``fn`` or ``fn.ns`` in a path means, or None."""
        return self._short_names.get(path_name) or self._functions.get(path_name)

    def resolve(self, path_name: str, *namespaces: str) -> tuple[str, str]:
        """(name, namespace) of a path's name: the first namespace given that is not empty wins."""
        name, suffix = split_name(path_name)
        return name, next(filter(None, (*namespaces, suffix)), DEFAULT_NAMESPACE)

    async def close(self, grace: float) -> None:
        """Stop every replica of every function; returns when all are gone."""
        functions = (*self._functions.values(), *self._removed.values())
        await asyncio.gather(*(function.close(grace) for function in functions))

    def _check(self, spec: FunctionSpec) -> Path:
        self._settings.secrets.check(spec.secrets, spec.namespace)
        return self.images.folder(spec.image)

    def _capped(self, name: str, replicas: int) -> int:
        if 0 < self._max_replicas < replicas:
            _log.warning("%s: %d replicas asked for, capped at %d", name, replicas, self._max_replicas)
            return self._max_replicas
        return replicas
