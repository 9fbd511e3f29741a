"""Knative Serving: as an autoscaler class of our own, or as a floor under Knative's own autoscaler.

Owns the threads' steps and what they write; the rules are ``knative_revisions``', ``knative_status``' and
``knative_floor``'s. A function is a Service: ``<service>.<namespace>`` (``knative_revisions`` says why).
What this module minds:

- Scaling comes first and has a thread of its own. Writes of a status pass Knative's webhook, which may let
  each of them wait for its timeout when it is away; the scale subresource does not pass it.
- Nothing is kept that the cluster does not know: what was decided last is a memory for the time between two
  decisions, and without it the count that is there stands.
- Only the leader writes, and nothing is written before ``attach``: without it (a dry run) this only reads.
- A count is written with the version of the Deployment that it was decided on, so a write that was held up
  somewhere and comes late, when another leader has written, fails.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from slo_autoscaler.config import KnativeConfig
from slo_autoscaler.errors import ConflictError, FunctionGoneError, NotFoundError, PlatformError
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import Leader
from slo_autoscaler.platforms.knative import minimum as knative_floor
from slo_autoscaler.platforms.knative import status as knative_status
from slo_autoscaler.platforms.knative.allocation import (
    SERVING,
    UNROUTED,
    Json,
    Key,
    Revision,
    annotation,
    class_of,
    generation_of,
    key_of,
    main_of,
    newest,
    plan,
    service_of,
    shares,
)
from slo_autoscaler.platforms.knative.objects import (
    DEPLOYMENTS,
    POD_AUTOSCALERS,
    REVISIONS,
    ROUTES,
    SERVICES,
    Given,
    Loop,
    Objects,
    Settings,
    Wishes,
    Writes,
    api_of,
    lean,
    lean_deployment,
    lean_revision,
    lean_route,
    version_number,
)

logger = logging.getLogger(__name__)

Write = Callable[[], object]

_TRIES = 4
_MOMENT = 0.05
"""Seconds between two tries to write what others change too."""


class _Nobody:
    """Leads never: until somebody else is attached, nothing is written."""

    def leads(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Member:
    """A revision of our class, with the objects that say what it is."""

    autoscaler: Json
    service: Json | None
    deployment: Json
    revision: Revision
    rest: knative_status.Verdict | None


class KnativeClass:
    """The autoscaler class slo.tailbound.dev: every PodAutoscaler that names it is ours alone."""

    def __init__(self, config: KnativeConfig) -> None:
        """Begin to watch at once; raises ``ConfigError`` if there are no credentials."""
        self._config = config
        self._leader: Leader = _Nobody()
        self._api = api_of(config, kinds=4)
        self._settings = Settings(self._api)
        self._given = Given()
        self._wishes = Wishes()
        self._scaling, self._telling = Loop("knative scale", self.rescale), Loop("knative status", self.tell)
        self._scale_writes = Writes("scale")
        self._service_writes, self._status_writes = Writes("ServerlessService"), Writes("status")
        self._told: dict[Key, str] = {}
        """The version of each PodAutoscaler to which its present status was the answer."""
        self._autoscalers = Objects(self._api, POD_AUTOSCALERS, config, self._wake, lean=lean)
        self._services = Objects(self._api, SERVICES, config, self._telling.wake, lean=lean)
        self._deployments = Objects(
            self._api,
            DEPLOYMENTS,
            config,
            self._wake,
            lean=lean_deployment,
            labelled=SERVING + "revision",
        )
        self._routes = Objects(self._api, ROUTES, config, self._wake, lean=lean_route)

    def attach(self, leader: Leader) -> None:
        """Begin to act, whenever ``leader`` leads."""
        self._leader = leader
        self._scaling.start()
        self._telling.start()

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return replicas and bounds of every Service that has a revision of our class."""
        return {
            name: _scale(main_of(each.revision for each in members), self._config)
            for name, members in self._functions().items()
        }

    def scale(self, function_name: str) -> Scale:
        """Return replicas and bounds of one."""
        return _scale(main_of(each.revision for each in self._members(function_name)), self._config)

    def set_scale(self, function_name: str, replicas: int) -> None:
        """Scale the main revision now, the others with the next pass.

        0 becomes 1: nothing would wake it. Raises ``PlatformError``, also when this is not the leader.
        """
        if not self._leader.leads():
            raise PlatformError(f"{function_name}: not the leader")
        members = self._members(function_name)
        wanted = max(1, replicas)
        targets = plan([each.revision for each in members], wanted)
        main = main_of(each.revision for each in members).key
        (member,) = [each for each in members if each.revision.key == main]
        # First, lest the scaling thread undoes in between what is written here.
        before = self._wishes.put(function_name, wanted)
        try:
            self._write(member, targets[main])
        except PlatformError:
            self._wishes.put(function_name, before)
            raise
        self._scaling.wake()

    def close(self) -> None:
        """Give up threads, watches and connections; the revisions stay as they are."""
        for loop in (self._scaling, self._telling):
            loop.close()
        for objects in (self._autoscalers, self._services, self._deployments, self._routes):
            objects.close()
        self._api.close()

    def rescale(self) -> float:
        """Give every revision its count, as far as it does not have it: the step of the scaling thread.

        Returns the seconds after which to look again at the latest, as ``tell`` does.
        """
        if not self._leads():
            return self._scale_writes.pause()
        functions = self._functions()
        self._wishes.keep(functions)
        members = {each.revision.key: each for group in functions.values() for each in group}
        self._given.forget(key_of(member.deployment) for member in members.values())
        targets = self._targets(functions)
        self._work(self._scale_writes, members, lambda each: self._scale_write(each, targets))
        return self._scale_writes.pause()

    def tell(self) -> float:
        """Keep every ServerlessService and every status: the step of the status thread."""
        if self._leads():
            functions = self._functions()
            members = {each.revision.key: each for group in functions.values() for each in group}
            targets = self._targets(functions)
            self._told = {key: version for key, version in self._told.items() if key in members}
            self._work(self._service_writes, members, self._service_write)
            self._work(self._status_writes, members, lambda each: self._status_write(each, targets))
        return min(self._service_writes.pause(), self._status_writes.pause())

    def _work(
        self, writes: Writes, members: Mapping[Key, _Member], needed: Callable[[_Member], Write | None]
    ) -> None:
        """Make the writes that are needed, as far as that goes."""
        for key in writes.order(members):
            write = None if writes.resting() else needed(members[key])
            if write is not None and not (self._leads() and writes.attempt(key, write)):
                return

    def _leads(self) -> bool:
        leads = self._leader.leads()
        if not leads:
            # Another one decides now; what it decides is seen in the counts.
            self._wishes.keep(())
        return leads

    def _wake(self, _key: str) -> None:
        self._scaling.wake()
        self._telling.wake()

    def _functions(self) -> dict[str, list[_Member]]:
        """Return the members of every function, or raise ``PlatformError``: they may have changed unseen."""
        autoscalers = self._autoscalers.items()
        services, deployments = self._services.items(), self._deployments.items()
        routed = shares(self._routes.items().values(), newest(autoscalers.values()))
        defaults, now = self._settings.defaults(), time.time()
        started = _newest_started(autoscalers.values())
        functions: dict[str, list[_Member]] = {}
        for key, autoscaler in autoscalers.items():
            if class_of(autoscaler, defaults) != knative_status.CLASS:
                continue
            if autoscaler["metadata"].get("deletionTimestamp") is not None:
                continue
            deployment = deployments.get((key[0], autoscaler["spec"]["scaleTargetRef"]["name"]))
            if deployment is None:
                continue  # the watches are not in step: it is there before its PodAutoscaler
            share = routed.get(key, UNROUTED)
            superseded = started.get((key[0], service_of(autoscaler)), 0) > generation_of(autoscaler)
            rest = knative_status.rests(autoscaler, share, defaults, now, superseded=superseded)
            revision = knative_status.revision_of(
                autoscaler, self._current(deployment), share, defaults, rests=rest is not None
            )
            member = _Member(autoscaler, services.get(key), deployment, revision, rest)
            functions.setdefault(revision.function_name, []).append(member)
        return functions

    def _targets(self, functions: Mapping[str, Iterable[_Member]]) -> dict[Key, int]:
        """Return the count of every revision, by what was decided for its function."""
        return {
            key: target
            for name, members in functions.items()
            for key, target in plan([each.revision for each in members], self._wishes.get(name)).items()
        }

    def _members(self, function_name: str) -> list[_Member]:
        members = self._functions().get(function_name)
        if not members:
            raise FunctionGoneError(f"{function_name}: no revision of the class {knative_status.CLASS}")
        return members

    def _current(self, deployment: Json) -> Json:
        """Return the Deployment with the count that was written, where the watch does not know it yet."""
        replicas = deployment["spec"].get("replicas")
        shown = 1 if replicas is None else int(replicas)
        return {**deployment, "spec": {"replicas": self._given.count(key_of(deployment), deployment, shown)}}

    def _scale_write(self, member: _Member, targets: Mapping[Key, int]) -> Write | None:
        """Return what gives the revision its count; None if it has it."""
        target = targets[member.revision.key]
        if member.rest is not None:
            defaults = self._settings.defaults()
            gone = knative_status.may_go(member.autoscaler, member.service, defaults, time.time())
            target = 0 if gone else target
        return None if target == member.revision.replicas else lambda: self._write(member, target)

    def _write(self, member: _Member, target: int) -> None:
        """Scale a Deployment, unless somebody else has since it was looked at."""
        revision = member.revision
        if target == revision.replicas:
            return
        key = key_of(member.deployment)
        try:
            answer = self._patch_scale(key, self._given.version(key, member.deployment), revision, target)
        except NotFoundError as error:
            raise FunctionGoneError(str(error)) from error
        self._given.note(key, answer, target)
        logger.info("%s/%s: scaled from %d to %d", *revision.key, revision.replicas, target)
        self._telling.wake()

    def _patch_scale(self, key: Key, version: str, revision: Revision, target: int) -> Json:
        path = DEPLOYMENTS.path(*key, "scale")
        for left in reversed(range(_TRIES)):
            body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": target}}
            try:
                return self._api.patch(path, body)
            except ConflictError:
                found = self._api.get(path)
                now = (found.get("spec") or {}).get("replicas", 0)
                if now == target:
                    return found  # the other thread was quicker
                # Most often only the status has changed; another count is for the next pass to look at.
                if now != revision.replicas or not left or not self._leader.leads():
                    raise
                version = found["metadata"]["resourceVersion"]
        raise AssertionError("the last try returns or raises")

    def _service_write(self, member: _Member) -> Write | None:
        """Return what makes or changes the ServerlessService; None if it is as it should be."""
        autoscaler, service = member.autoscaler, member.service
        mode = "Serve" if member.rest is None else "Proxy"
        namespace, name = member.revision.key
        if service is None:
            body = knative_status.service_body(autoscaler, mode)
            return lambda: self._api.create(SERVICES.path(namespace), body, patient=False)
        if not knative_status.is_owned(service, autoscaler):
            return None
        change = knative_status.service_change(service, autoscaler, mode)
        if change is None:
            return None
        return lambda: self._api.patch(SERVICES.path(namespace, name), change, patient=False)

    def _status_write(self, member: _Member, targets: Mapping[Key, int]) -> Write | None:
        """Return what brings the status up to date; None if it is."""
        autoscaler, key = member.autoscaler, member.revision.key
        version = autoscaler["metadata"].get("resourceVersion", "")
        if self._told.get(key) == version:
            return None  # it was answered already, and the watch has not told yet
        wanted = knative_status.status(
            autoscaler,
            member.service,
            member.revision,
            targets[key],
            member.rest,
            time.time(),
            failed=member.service is None and self._service_writes.fails(key),
        )
        if wanted == autoscaler.get("status"):
            return None
        body = {"metadata": {"resourceVersion": version}, "status": wanted}

        def write() -> None:
            answer = self._api.patch(POD_AUTOSCALERS.path(*key, "status"), body, patient=False)
            if answer["metadata"].get("resourceVersion") != version:
                self._told[key] = version

        return write


class KnativeFloor:
    """A floor from forecast and capacity, for revisions that Knative's own autoscaler keeps."""

    def __init__(self, config: KnativeConfig) -> None:
        """Begin to watch at once; raises ``ConfigError`` if there are no credentials."""
        self._config = config
        self._leader: Leader = _Nobody()
        self._api = api_of(config, kinds=2)
        self._settings = Settings(self._api)
        self._given: dict[Key, Json] = {}
        """Revisions as the API answered, until the watch tells of them."""
        self._lock = threading.Lock()
        self._wishes = Wishes()
        self._loop, self._writes = Loop("knative floor", self.give), Writes("floor")
        self._revisions = Objects(self._api, REVISIONS, config, self._loop.wake, lean=lean_revision)
        self._routes = Objects(self._api, ROUTES, config, self._loop.wake, lean=lean_route)

    def attach(self, leader: Leader) -> None:
        """Begin to act, whenever ``leader`` leads."""
        self._leader = leader
        self._loop.start()

    def scales(self) -> dict[str, Scale | PlatformError]:
        """Return floor, replicas and bounds of every Service that asks for a floor."""
        return {
            name: _scale(main_of(members.values()), self._config)
            for name, members in self._functions().items()
            if not all(member.rests for member in members.values())
        }

    def scale(self, function_name: str) -> Scale:
        """Return floor, replicas and bounds of one."""
        return _scale(main_of(self._members(function_name).values()), self._config)

    def set_scale(self, function_name: str, replicas: int) -> None:
        """Give the main revision its floor now, the others theirs with the next pass."""
        if not self._leader.leads():
            raise PlatformError(f"{function_name}: not the leader")
        members = self._members(function_name)
        main = main_of(members.values()).key
        floor = knative_floor.floors(members.values(), replicas)[main]
        # First, as for the class.
        before = self._wishes.put(function_name, replicas)
        try:
            self._write_floor(main, floor)
        except PlatformError:
            self._wishes.put(function_name, before)
            raise
        self._loop.wake()

    def close(self) -> None:
        """Give up the thread, watches and connections; the floors stay, so that a restart is no dip."""
        self._loop.close()
        for objects in (self._revisions, self._routes):
            objects.close()
        self._api.close()

    def give(self) -> float:
        """Give every revision its floor, or its user's own minimum back: the step of the thread.

        Returns the seconds after which to look again at the latest.
        """
        if not self._leader.leads():
            # Another one decides now; what it decides is seen in the floors.
            self._wishes.keep(())
            return self._writes.pause()
        functions = self._functions()
        self._wishes.keep(functions)
        floors = {
            key: floor
            for name, members in functions.items()
            for key, floor in knative_floor.floors(members.values(), self._wishes.get(name)).items()
        }
        for key in self._writes.order(floors):
            change = None if self._writes.resting() else self._change(key, floors[key])
            if change is None:
                continue
            if not (self._leader.leads() and self._writes.attempt(key, partial(self._write, key, change))):
                break
        return self._writes.pause()

    def _functions(self) -> dict[str, dict[Key, Revision]]:
        """Return the revisions of every function that has, or had, a floor."""
        self._check_version()
        revisions = self._current()
        routed = shares(self._routes.items().values(), newest(revisions.values()))
        defaults = self._settings.defaults()
        functions: dict[str, dict[Key, Revision]] = {}
        for key, each in revisions.items():
            asks = knative_floor.takes_part(each) or annotation(each, knative_floor.GIVEN) is not None
            if asks and class_of(each, defaults) != knative_status.CLASS:
                revision = knative_floor.revision_of(each, routed.get(key, UNROUTED), defaults)
                functions.setdefault(revision.function_name, {})[key] = revision
        return functions

    def _members(self, function_name: str) -> dict[Key, Revision]:
        members = self._functions().get(function_name)
        if not members:
            raise FunctionGoneError(
                f"{function_name}: no revision with the annotation {knative_floor.OPT_IN}"
            )
        return members

    def _check_version(self) -> None:
        version = self._settings.version()
        if version is not None and version < knative_floor.LEAST_VERSION:
            least = ".".join(map(str, knative_floor.LEAST_VERSION))
            found = ".".join(map(str, version))
            raise PlatformError(f"platform.mode: floor needs Knative {least} or later; this is {found}")

    def _current(self) -> Mapping[Key, Json]:
        """Return all Revisions, with what was written where the watch does not know it yet."""
        revisions = self._revisions.items()
        with self._lock:
            self._given = {
                key: given
                for key, given in self._given.items()
                if key in revisions and _is_older(revisions[key], given)
            }
            return revisions | self._given

    def _change(self, key: Key, floor: int) -> dict[str, Any] | None:
        revision = self._current().get(key)
        if revision is None:
            return None
        return knative_floor.change(revision, floor, self._settings.defaults())

    def _write_floor(self, key: Key, floor: int) -> None:
        """Give a revision its floor; what has changed it meanwhile, the watch tells in a moment."""
        for left in reversed(range(_TRIES)):
            change = self._change(key, floor)
            if change is None:
                return
            try:
                self._write(key, change)
            except ConflictError:
                if not left or not self._leader.leads():
                    raise
                time.sleep(_MOMENT)
            else:
                return

    def _write(self, key: Key, change: dict[str, Any]) -> None:
        answer = self._api.patch(REVISIONS.path(*key), change, patient=False)
        with self._lock:
            self._given[key] = lean_revision(answer)
        annotations = change["metadata"]["annotations"]
        given = annotations.get(knative_floor.GIVEN)
        logger.info("%s/%s: %s", *key, f"floor {given}" if given else "min-scale is the user's own again")


def knative(config: KnativeConfig) -> KnativeClass | KnativeFloor:
    """Return the platform for the configured mode; raises ``ConfigError``."""
    return KnativeFloor(config) if config.mode == "floor" else KnativeClass(config)


def _scale(main: Revision, config: KnativeConfig) -> Scale:
    """Return what a decision starts from: the main revision's counts and bounds."""
    return Scale(
        desired=main.replicas,
        available=main.ready,
        min=main.least or None,
        max=main.most,
        cap=config.cap,
        revision=main.name,
    )


def _newest_started(autoscalers: Iterable[Json]) -> dict[Key, int]:
    """Return {(namespace, service): generation of its newest revision that has started}."""
    found: dict[Key, int] = {}
    for each in autoscalers:
        if knative_status.has_started(each):
            service = key_of(each)[0], service_of(each)
            found[service] = max(found.get(service, 0), generation_of(each))
    return found


def _is_older(one: Json, other: Json) -> bool:
    first, second = version_number(one), version_number(other)
    return first is not None and second is not None and first < second
