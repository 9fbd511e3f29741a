"""Raises min-scale to a floor from forecast and capacity, for revisions that Knative's autoscaler scales.

Owns the step of one thread and its writes; ``allocation`` and ``minimum`` have the rules. Only the leader
writes. All state is in the annotations of the Revisions, so a restart changes nothing.
"""

import logging
import time
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any, Final

from slo_autoscaler.errors import ConflictError, FunctionGoneError, PlatformError, ScaleChangedError
from slo_autoscaler.kube.client import version_of
from slo_autoscaler.kube.events import Events
from slo_autoscaler.kube.loop import Loop, Writes
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.platforms.keys import FLOOR_APPLIED, MODE, OUR_CLASS
from slo_autoscaler.platforms.knative import Settings, minimum
from slo_autoscaler.platforms.knative.allocation import (
    UNROUTED,
    Json,
    Key,
    Revision,
    annotation,
    class_of,
    is_scaled,
    key_of,
    main_of,
    named_by,
    newest,
    scale_of,
    scales_of,
    service_of,
    shares,
)
from slo_autoscaler.platforms.knative.objects import (
    REVISIONS,
    ROUTES,
    ClusterDefaults,
    DesiredReplicas,
    announce,
    api_of,
    informer_of,
    pods_of,
    routes_of,
    services_of,
    strip_revision,
    strip_route,
    watchdogs_of,
    with_shortages,
)
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.settings.spec import Modes

logger = logging.getLogger(__name__)

_TRIES: Final = 4
"""Tries of a write: others change the Revision too."""
_RETRY_SECONDS: Final = 0.05
"""Seconds between two tries, in which the watch reports the conflicting change."""


class Floor:
    """The Services with our label."""

    def __init__(self, config: Settings, leader: Leader, modes: Modes) -> None:
        """Begin to watch, and to act while ``leader`` leads. Raises ``ConfigError``."""
        self._config = config
        self._leader = leader
        self._modes = modes
        self._api = api_of(config, kinds=4)
        self._cluster = ClusterDefaults(self._api)
        self._desired = DesiredReplicas()
        self._loop, self._writes = Loop("knative floor", self.reconcile_floors), Writes("floor")
        watch = partial(informer_of, self._api, config=config, changed=self._loop.wake)
        # All revisions: one that lost its label may still have a floor to remove.
        self._revisions = watch(REVISIONS, transform=strip_revision, index=services_of)
        self._routes = watch(ROUTES, transform=strip_route, index=named_by, label=MODE)
        self._pods, self._watchdogs = pods_of(self._api, config), watchdogs_of(self._api, config)
        self._events = Events(self._api)
        self._loop.start()

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return floor, replicas and bounds of every Service with our label."""
        functions = {name: members for name, members in self._functions().items() if _labeled(members)}
        return with_shortages(scales_of(functions, self._config.cap, self._modes), self._pods)

    def scale(self, function_name: str) -> Scale:
        """Return floor, replicas and bounds of one Service."""
        return scale_of(self._members(function_name), self._config.cap, self._modes)

    def set_scale(self, function_name: str, replicas: int, seen: Scale) -> None:
        """Write the main revision's floor now; the next pass writes the others'.

        Keeps the user's own minimum, also one that is set meanwhile.
        """
        if not self._leader.leads():
            raise PlatformError(f"{function_name}: not the leader")
        members = self._members(function_name)
        main = main_of(members)
        if main.name != seen.revision:
            raise ScaleChangedError(f"{function_name}: {main.name} has taken over from {seen.revision}")
        last = self._desired.get(function_name)
        set_right = last is not None and main.replicas == minimum.floors(members, last)[main.key]
        if main.replicas != seen.desired and not set_right:
            raise ScaleChangedError(
                f"{function_name}: the floor has become {main.replicas} where it was {seen.desired}"
            )
        floor = minimum.floors(members, replicas)[main.key]
        with self._desired.deciding(function_name, replicas):
            self._write_floor(main.key, floor)
        self._loop.wake()

    def waiting(self) -> dict[str, float]:
        """Return none: Knative's autoscaler wakes a revision."""
        return {}

    def announce(self, function_name: str, reason: str, message: str) -> None:
        """Queue a warning event on the Service, not of changes: these are the user's own minimum."""
        if self._leader.leads() and reason != Reason.SET_BY_HAND:
            announce(self._events, self._routes, function_name, reason, message)

    def denied(self) -> dict[str, str]:
        """Return the namespaces in which a kind of object may not be listed."""
        return {**self._routes.denied(), **self._revisions.denied()}

    def watchdogs(self) -> dict[str, str]:
        """Return the metrics pages of running pods."""
        return self._watchdogs.pages()

    def close(self) -> None:
        """Stop the thread and watches; close connections. The floors stay: a restart keeps replicas."""
        watches = self._revisions, self._routes, self._pods, self._watchdogs
        for part in (self._loop, self._events, *watches, self._api):
            part.close()

    def reconcile_floors(self) -> float:
        """Write every revision's floor, or restore its user's own minimum: the step of the thread.

        Returns the maximum seconds until the next pass.
        """
        if not self._leader.leads():
            # Another leader decides now; its decisions show in the floors.
            self._desired.keep(())
            return self._writes.pause()
        functions = self._functions()
        self._desired.keep({name for name, members in functions.items() if not main_of(members).inactive})
        floors: dict[Key, int] = {}
        for name, members in functions.items():
            floors |= minimum.floors(members, self._desired.get(name))
        for key in self._writes.order(floors):
            change = None if self._writes.backing_off() else self._change(key, floors[key])
            if change is None:
                continue
            if not (self._leader.leads() and self._writes.attempt(key, partial(self._write, key, change))):
                break
        return self._writes.pause()

    def _functions(self) -> dict[str, list[Revision]]:
        """Return the revisions of every function that has, or had, a floor."""
        self._wait()
        return self._grouped(self._revisions.items().values(), self._routes.items().values())

    def _members(self, function_name: str) -> list[Revision]:
        """Return the revisions of one function without reading others."""
        self._wait()
        service, _, namespace = function_name.rpartition(".")
        revisions = self._revisions.by((namespace, service)).values()
        members = self._grouped(revisions, routes_of(self._routes, revisions)).get(function_name, [])
        if not _labeled(members):
            raise FunctionGoneError(f"{function_name}: no route to it has the label {MODE}")
        return members

    def _wait(self) -> None:
        self._check_version()
        for informer in (self._revisions, self._routes):
            informer.wait(self._config.timeout)

    def _grouped(self, revisions: Collection[Json], routes: Iterable[Json]) -> dict[str, list[Revision]]:
        """Return those of the revisions that have, or had, a floor, by function."""
        routed = shares(routes, newest(revisions))
        defaults = self._cluster.defaults()
        functions: dict[str, list[Revision]] = {}
        for document in revisions:
            share = routed.get(key_of(document), UNROUTED)
            ours = share.mode is not None or annotation(document, FLOOR_APPLIED) is not None
            if ours and class_of(document, defaults) != OUR_CLASS:
                name = f"{service_of(document)}.{key_of(document)[0]}"
                floored = share.mode is not None and is_scaled(name, share, self._modes)
                revision = minimum.revision_of(document, share, defaults, floored=floored)
                functions.setdefault(revision.function_name, []).append(revision)
        return functions

    def _check_version(self) -> None:
        version = self._cluster.version()
        if version is not None and version < minimum.LEAST_VERSION:
            least, present = (".".join(map(str, numbers)) for numbers in (minimum.LEAST_VERSION, version))
            raise PlatformError(f"platform.mode: floor needs Knative {least} or later; this is {present}")

    def _change(self, key: Key, floor: int) -> dict[str, Any] | None:
        revision = self._revisions.get(key)
        return None if revision is None else minimum.change(revision, floor, self._cluster.defaults())

    def _write_floor(self, key: Key, floor: int) -> None:
        """Write a revision's floor; retry after a conflict with the watch's newer state."""
        for left in reversed(range(_TRIES)):
            change = self._change(key, floor)
            if change is None:
                return
            try:
                self._write(key, change)
            except ConflictError:
                if not left or not self._leader.leads():
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def _write(self, key: Key, change: dict[str, Any]) -> None:
        answer = self._api.patch(REVISIONS.path(*key), change, patient=False)
        self._revisions.wrote(key, version_of(answer), strip_revision(answer))
        floor = change["metadata"]["annotations"].get(FLOOR_APPLIED)
        logger.info("%s/%s: %s", *key, f"floor {floor}" if floor else "min-scale is the user's own again")


def _labeled(members: Iterable[Revision]) -> bool:
    return any(member.share.mode is not None for member in members)
