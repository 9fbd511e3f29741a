"""Scales the revisions of our own autoscaler class, and maintains the objects that Knative expects.

Decides on labeled Services of other classes too, and writes nothing of them. Owns the steps of two threads
and their writes; ``allocation`` and ``status`` have the rules. Pitfalls:

- Scaling has its own thread. Writes of a status pass Knative's webhook, and while it is down each of them may
  wait for its timeout. The scale subresource does not pass it.
- All state is in the cluster. The last decision is remembered until the next; without one the present count
  stands.
- Only the leader writes.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from slo_autoscaler.errors import FunctionGoneError, NotFoundError, PlatformError, ScaleChangedError
from slo_autoscaler.kube.client import version_of
from slo_autoscaler.kube.events import Events
from slo_autoscaler.kube.loop import Loop, Writes
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.platforms.keys import MODE, OUR_CLASS
from slo_autoscaler.platforms.knative import Settings, status
from slo_autoscaler.platforms.knative.activators import Activators
from slo_autoscaler.platforms.knative.allocation import (
    SERVING,
    UNROUTED,
    Defaults,
    Json,
    Key,
    Revision,
    class_of,
    generation_of,
    is_scaled,
    key_of,
    main_of,
    may_rest,
    named_by,
    newest,
    plan,
    routings,
    scale_of,
    scales_of,
)
from slo_autoscaler.platforms.knative.objects import (
    DEPLOYMENTS,
    POD_AUTOSCALERS,
    ROUTES,
    SERVICES,
    ClusterDefaults,
    DesiredReplicas,
    announce,
    api_of,
    informer_of,
    pods_of,
    routes_of,
    service_key,
    services_of,
    strip_deployment,
    strip_managed_fields,
    strip_route,
    watchdogs_of,
    with_shortages,
)
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.settings.fields import MODES
from slo_autoscaler.settings.spec import Modes

logger = logging.getLogger(__name__)

Write = Callable[[], object]

UNANSWERED_SECONDS: Final = 3.0
"""Seconds of waiting requests after which one replica is requested without a decision."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A revision of our class, with the objects that describe it."""

    autoscaler: Json
    service: Json | None
    deployment: Json
    revision: Revision
    inactive: status.Condition | None
    """Why it must have no replicas; None: it must have some."""
    ours: bool
    """Whether it has our class; another autoscaler scales all others."""
    blind: bool = False
    """Whether its service may have none, if the activators could be read."""


class OwnClass:
    """The autoscaler class slo.tailbound.dev: scales every PodAutoscaler that names it."""

    def __init__(self, config: Settings, leader: Leader, modes: Modes) -> None:
        """Begin to watch, and to act while ``leader`` leads. Raises ``ConfigError``."""
        self._config = config
        self._leader = leader
        self._modes = modes
        most = max(modes.most, "recommend", key=MODES.index)
        self._modes_of_others = replace(modes, most=most)
        self._api = api_of(config, kinds=7)
        self._cluster = ClusterDefaults(self._api)
        self._desired = DesiredReplicas()
        self._activators = Activators(self._api, config.resync)
        self._asked: frozenset[str] = frozenset()
        """Functions for which no replicas were requested."""
        self._resting: Mapping[Key, str] = {}
        """Revision -> function of those that have none, or are on their way there."""
        self._scaling = Loop("knative scale", self.reconcile_scale)
        self._telling = Loop("knative status", self.reconcile_status)
        self._scale_writes = Writes("scale")
        self._service_writes, self._status_writes = Writes("ServerlessService"), Writes("status")
        watch = partial(informer_of, self._api, config=config)
        self._autoscalers = watch(
            POD_AUTOSCALERS, transform=strip_managed_fields, changed=self._wake, index=services_of
        )
        self._services = watch(SERVICES, transform=strip_managed_fields, changed=self._telling.wake)
        self._deployments = watch(
            DEPLOYMENTS, transform=strip_deployment, changed=self._wake, label=SERVING + "revision"
        )
        self._routes = watch(ROUTES, transform=strip_route, changed=self._wake, index=named_by)
        self._pods, self._watchdogs = pods_of(self._api, config), watchdogs_of(self._api, config)
        self._scaling.start()
        self._events = Events(self._api)
        self._telling.start()

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return replicas and bounds of every Service that has a revision of our class, or our label."""
        functions = self._functions()
        scales: dict[str, Scale | PlatformError] = {}
        for ours, modes in ((True, self._modes), (False, self._modes_of_others)):
            revisions = {
                name: _revisions(group) for name, group in functions.items() if group[0].ours is ours
            }
            scales |= scales_of(revisions, self._config.cap, modes)
        return with_shortages(scales, self._pods)

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds of one Service."""
        members = self._members(function_name)
        modes = self._modes if members[0].ours else self._modes_of_others
        return scale_of(_revisions(members), self._config.cap, modes)

    def set_scale(self, function_name: str, replicas: int, seen: Scale) -> None:
        """Scale the main revision now; the next pass scales the others.

        0 takes Knative's steps, which the threads make; where the activators cannot be read it becomes 1.
        Raises ``PlatformError``, also if this is not the leader. A correction by the scaling thread since
        ``seen`` does not count as another writer.
        """
        if not self._leader.leads():
            raise PlatformError(f"{function_name}: not the leader")
        members = {member.revision: member for member in self._members(function_name) if member.ours}
        if not members:
            raise FunctionGoneError(f"{function_name}: no revision of the class {OUR_CLASS}")
        main = main_of(members)
        if main.name != seen.revision:
            raise ScaleChangedError(f"{function_name}: {main.name} has taken over from {seen.revision}")
        last = self._desired.get(function_name)
        set_right = last is not None and main.replicas == plan(members, last)[main.key]
        before = main.replicas if set_right else seen.desired
        version = main.version if main.replicas == before else seen.version
        if replicas == 0 and not self._may_rest(function_name, main):
            replicas = 1
        with self._desired.deciding(function_name, replicas):
            # By this decision, which begins or ends a rest.
            members = {member.revision: member for member in self._members(function_name)}
            main = main_of(members)
            if main.waiting is None:
                self._write_scale(members[main], plan(members, replicas)[main.key], before, version)
        self._wake(main.key)

    def waiting(self) -> dict[str, float]:
        """Return {function without replicas: its requests at the activators}."""
        waiting: dict[str, float] = {}
        for key, name in self._resting.items():
            waiting[name] = waiting.get(name, 0.0) + self._activators.count(key)
        return waiting

    def announce(self, function_name: str, reason: str, message: str) -> None:
        """Queue a warning event on the Service, not of changes: these are set right."""
        if self._leader.leads() and reason != Reason.SET_BY_HAND:
            announce(self._events, self._routes, function_name, reason, message)

    def denied(self) -> dict[str, str]:
        """Return the namespaces in which a kind of object may not be listed."""
        kinds = self._autoscalers, self._services, self._deployments, self._routes
        return {name: why for informer in kinds for name, why in informer.denied().items()}

    def watchdogs(self) -> dict[str, str]:
        """Return the metrics pages of running pods."""
        return self._watchdogs.pages()

    def close(self) -> None:
        """Stop threads and watches; close connections. The revisions stay unchanged."""
        watches = self._autoscalers, self._services, self._deployments, self._routes
        threads = self._scaling, self._telling, self._activators, self._events
        for part in (*threads, *watches, self._pods, self._watchdogs):
            part.close()
        self._api.close()

    def reconcile_scale(self) -> float:
        """Set every revision's count: the step of the scaling thread.

        Returns the maximum seconds until the next pass, as ``reconcile_status`` does.
        """
        if self._leads():
            functions = self._own_functions()
            self._desired.keep({name for name, group in functions.items() if self._is_scaled(name, group)})
            self._recall(functions)
            targets = self._targets(functions)
            self._work(self._scale_writes, functions, lambda member: self._scale_write(member, targets))
        return self._scale_writes.pause()

    def reconcile_status(self) -> float:
        """Update every ServerlessService and every status: the step of the status thread."""
        if self._leads():
            functions = self._own_functions()
            targets = self._targets(functions)
            self._work(self._service_writes, functions, self._service_write)
            self._work(self._status_writes, functions, lambda member: self._status_write(member, targets))
        return min(self._service_writes.pause(), self._status_writes.pause())

    def _work(
        self,
        writes: Writes,
        functions: Mapping[str, Iterable[_Member]],
        needed: Callable[[_Member], Write | None],
    ) -> None:
        """Make the necessary writes, until a failure concerns all of them."""
        members = {member.revision.key: member for group in functions.values() for member in group}
        for key in writes.order(members):
            write = None if writes.backing_off() else needed(members[key])
            if write is not None and not (self._leads() and writes.attempt(key, write)):
                return

    def _leads(self) -> bool:
        leads = self._leader.leads()
        if not leads:
            # Another leader decides now; its decisions show in the counts.
            self._desired.keep(())
            self._rest({})
        return leads

    def _wake(self, _key: Key) -> None:
        self._scaling.wake()
        self._telling.wake()

    def _functions(self) -> dict[str, list[_Member]]:
        """Return the members of every function; raise ``PlatformError`` if the watches are not current."""
        self._wait()
        autoscalers, routes = self._autoscalers.items().values(), self._routes.items().values()
        services, deployments = self._services.items(), self._deployments.items()
        return self._grouped(autoscalers, routes, services.get, deployments.get)

    def _own_functions(self) -> dict[str, list[_Member]]:
        return {name: members for name, members in self._functions().items() if members[0].ours}

    def _members(self, function_name: str) -> list[_Member]:
        """Return the members of one function without reading others; raises as ``_functions``."""
        self._wait()
        service, _, namespace = function_name.rpartition(".")
        autoscalers = self._autoscalers.by((namespace, service)).values()
        routes = routes_of(self._routes, autoscalers)
        members = self._grouped(autoscalers, routes, self._services.get, self._deployments.get)
        if not members:
            raise FunctionGoneError(
                f"{function_name}: no revision of the class {OUR_CLASS}, and no label {MODE}"
            )
        return members[function_name]

    def _wait(self) -> None:
        for informer in (self._autoscalers, self._services, self._deployments, self._routes):
            informer.wait(self._config.timeout)

    def _grouped(
        self,
        autoscalers: Collection[Json],
        routes: Iterable[Json],
        service_of: Callable[[Key], Json | None],
        deployment_of: Callable[[Key], Json | None],
    ) -> dict[str, list[_Member]]:
        """Return the members of every function that has one of the PodAutoscalers.

        A Service with a revision of our class is ours; one of another class is here if a label asks for it.
        """
        routed = routings(routes, newest(autoscalers))
        defaults, now = self._cluster.defaults(), time.time()
        started = _newest_started(autoscalers)
        functions: dict[bool, dict[str, list[_Member]]] = {True: {}, False: {}}
        for autoscaler in autoscalers:
            key = key_of(autoscaler)
            ours = class_of(autoscaler, defaults) == OUR_CLASS
            if not ours and routed.get(key, UNROUTED).mode is None:
                continue
            if autoscaler["metadata"].get("deletionTimestamp") is not None:
                continue
            deployment = deployment_of((key[0], autoscaler["spec"]["scaleTargetRef"]["name"]))
            if deployment is None:
                continue  # the watch of PodAutoscalers has not reported its own yet
            routing = routed.get(key, UNROUTED)
            superseded = started.get(service_key(autoscaler), 0) > generation_of(autoscaler)
            why = status.inactivity(autoscaler, routing, defaults, now, superseded=superseded)
            revision = status.revision_of(autoscaler, deployment, routing, defaults, inactive=why is not None)
            member = _Member(autoscaler, service_of(key), deployment, revision, why, ours)
            functions[ours].setdefault(revision.function_name, []).append(member)
        own = {name: self._rested(name, members, defaults) for name, members in functions[True].items()}
        return functions[False] | own

    def _rested(self, name: str, members: list[_Member], defaults: Defaults) -> list[_Member]:
        """Return the members of a function by the decision for no replicas, if that may stand."""
        main = main_of(_revisions(members))
        rests = self._rests(name, main)
        if not (rests or main.zero_after is not None or name in self._asked):
            return members
        able = may_rest(main, defaults, self._version(), self._modes)
        if able:
            self._activators.watch()
        blind = able and self._activators.lost()
        if blind or not able:
            return [
                replace(member, blind=blind, revision=replace(member.revision, zero_after=None))
                for member in members
            ]
        keys = [member.revision.key for member in members]
        if not rests or max(map(self._activators.waited, keys)) > UNANSWERED_SECONDS:
            return members
        waiting = sum(map(self._activators.count, keys))
        return [
            replace(
                member,
                inactive=status.IDLE,
                revision=replace(member.revision, inactive=True, waiting=waiting),
            )
            if member.inactive is None and member.revision.started and member.revision.least == 0
            else member
            for member in members
        ]

    def _rests(self, name: str, main: Revision) -> bool:
        """Return whether the last decision for a function was for no replicas, or it has none since then."""
        decided = self._desired.get(name)
        return (main.replicas if decided is None else decided) == 0

    def _version(self) -> tuple[int, int] | None:
        with suppress(PlatformError):
            return self._cluster.version()
        return None

    def _may_rest(self, function_name: str, main: Revision) -> bool:
        """Return whether a function may have no replicas; say so if the activators cannot be read."""
        self._asked |= {function_name}
        able = may_rest(main, self._cluster.defaults(), self._version(), self._modes)
        answered = able and self._activators.answer()
        if able and not answered:
            self._say_blind(function_name)
        return answered

    def _recall(self, functions: Mapping[str, Collection[_Member]]) -> None:
        """Take one replica for the decision of functions that may not be without any more."""
        resting: dict[Key, str] = {}
        for name, members in functions.items():
            main = main_of(_revisions(members))
            if main.waiting is not None:
                resting |= {member.revision.key: name for member in members if member.inactive is status.IDLE}
            elif main.started and not main.inactive and self._rests(name, main):
                self._desired.put(name, 1)
                if any(member.blind for member in members):
                    self._say_blind(name)
        self._asked &= functions.keys()
        self._rest(resting)

    def _rest(self, resting: Mapping[Key, str]) -> None:
        self._resting = resting
        self._activators.read_often(often=bool(resting))

    def _say_blind(self, function_name: str) -> None:
        why = self._activators.problem()
        logger.warning("%s: keeps a replica: an activator cannot be read: %s", function_name, why)
        self.announce(function_name, status.TO_ZERO, status.ZERO_REFUSED.message)

    def _targets(self, functions: Mapping[str, Iterable[_Member]]) -> dict[Key, int]:
        """Return the count of every revision, by the last decision for its function."""
        targets: dict[Key, int] = {}
        for name, members in functions.items():
            targets |= plan([member.revision for member in members], self._desired.get(name))
        return targets

    def _is_scaled(self, function_name: str, members: Iterable[_Member]) -> bool:
        return is_scaled(function_name, main_of(member.revision for member in members).routing, self._modes)

    def _scale_write(self, member: _Member, targets: Mapping[Key, int]) -> Write | None:
        """Return the write that sets the revision's count; None if it has it."""
        target = targets[member.revision.key]
        if member.inactive is not None:
            defaults = self._cluster.defaults()
            gone = status.may_go(member.autoscaler, member.service, defaults, time.time())
            if member.inactive is status.IDLE:
                # The last look: a request that came meanwhile is on its way to the pod.
                gone = gone and self._activators.quiet(member.revision.key)
            target = 0 if gone else target
        revision = member.revision
        if target == revision.replicas:
            return None
        return lambda: self._write_scale(member, target, revision.replicas, revision.version)

    def _write_scale(self, member: _Member, target: int, before: int, version: str) -> None:
        """Scale a Deployment, unless another writer did after ``version``, which had ``before`` replicas."""
        revision, key = member.revision, key_of(member.deployment)
        if target == revision.replicas == before:
            return
        try:
            path = DEPLOYMENTS.path(*key, "scale")
            made = self._api.scale(path, version, before, target, may_retry=self._leader.leads)
        except NotFoundError as error:
            raise FunctionGoneError(str(error)) from error
        metadata = {**member.deployment["metadata"], "resourceVersion": made}
        self._deployments.wrote(
            key, made, {**member.deployment, "metadata": metadata, "spec": {"replicas": target}}
        )
        logger.info("%s/%s: scaled from %d to %d", *revision.key, before, target)
        self._telling.wake()

    def _service_write(self, member: _Member) -> Write | None:
        """Return the write that creates or corrects the ServerlessService; None if it is correct."""
        autoscaler, service = member.autoscaler, member.service
        mode = "Serve" if member.inactive is None else "Proxy"
        namespace, name = member.revision.key
        if service is None:
            body = status.service_body(autoscaler, mode)
            return lambda: self._api.create(SERVICES.path(namespace), body, patient=False)
        if not status.is_owned(service, autoscaler):
            return None
        change = status.service_change(service, autoscaler, mode)
        if change is None:
            return None
        return lambda: self._api.patch(SERVICES.path(namespace, name), change, patient=False)

    def _status_write(self, member: _Member, targets: Mapping[Key, int]) -> Write | None:
        """Return the write that updates the status; None if it is current."""
        autoscaler, key = member.autoscaler, member.revision.key
        wanted = status.status(
            autoscaler,
            member.service,
            member.revision,
            target=targets[key],
            inactive=member.inactive,
            now=time.time(),
            failed=member.service is None and self._service_writes.failed(key),
            blind=member.blind,
        )
        if wanted == autoscaler.get("status"):
            return None
        body = {"metadata": {"resourceVersion": version_of(autoscaler)}, "status": wanted}

        def write() -> None:
            answer = self._api.patch(POD_AUTOSCALERS.path(*key, "status"), body, patient=False)
            self._autoscalers.wrote(key, version_of(answer), strip_managed_fields(answer))

        return write


def _revisions(members: Iterable[_Member]) -> list[Revision]:
    return [member.revision for member in members]


def _newest_started(autoscalers: Iterable[Json]) -> dict[Key, int]:
    """Return {(namespace, service): generation of its newest revision that has started}."""
    generations: dict[Key, int] = {}
    for autoscaler in autoscalers:
        if status.has_started(autoscaler):
            service = service_key(autoscaler)
            generations[service] = max(generations.get(service, 0), generation_of(autoscaler))
    return generations
