"""A Kubernetes API server that behaves, on a real socket: what our clients use of it, and nothing else.

Objects of any kind in a dict, with resourceVersions that grow, conflicts on stale ones, merge patches, the
subresources scale, status and resize, lists in pages, and watches with bookmarks that fail with 410 once
history is compacted. ``faults`` spoil requests, ``freeze`` stops a user's network, ``calls`` lists requests
in the words of RBAC, and ``rules`` refuse what a user's roles do not allow.
"""

import copy
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from kubernetes.utils.quantity import parse_quantity

from support.doubles import Fault, Server, status

Document = dict[str, Any]
Key = tuple[str, str, str]
"""Group and plural, namespace, name."""

WITHOUT_STATUS = {"events", "leases"}
"""Kinds without a status subresource: a write to the object writes it all."""
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Target(NamedTuple):
    """What a path names; empty parts were not given."""

    api: str
    plural: str
    namespace: str
    name: str
    part: str

    @property
    def key(self) -> Key:
        return f"{self.api}/{self.plural}", self.namespace, self.name


class Call(NamedTuple):
    """A request in the words of a Role's rule."""

    verb: str
    group: str
    resource: str
    name: str
    user: str


class Refused(Exception):
    """An answer other than success, as a Status object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"kind": "Status", "code": code, "reason": reason, "message": message}


class KubeServer:
    """One API server; attributes may be set at any time."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        """Method and path prefix ("PATCH /apis/apps/v1/") -> what happens instead."""
        self.calls: list[Call] = []
        self.requests: list[str] = []
        """Method, path and query of each request."""
        self.rules: dict[str, list[Mapping[str, Any]]] = {}
        """User, who is a bearer token -> rules of a Role or ClusterRole; any other user may do all."""
        self.bookmarks = 0.1
        """Seconds between two bookmarks of a watch."""
        self.longest_watch = 60.0
        """Seconds after which the server ends a watch, however long it was asked for."""
        self.offers = ["pods", "pods/resize"]
        """Resources that every group has."""
        self.kinds: dict[str, str] = {}
        """Resource, such as rollouts -> its kind."""
        self.pending: tuple[str, str] | None = None
        """Reason and message with which kubelets leave a raised CPU pending; None: they apply it at once."""
        self.instantly_ready = True
        """A Deployment's pods are ready as soon as they are asked for."""
        self.version = 100
        self._objects: dict[Key, Document] = {}
        self._history: list[tuple[int, str, str, Document]] = []
        """(version, group and plural, event type, object as it was then)."""
        self._compacted = 0
        self._changed = threading.Condition()
        self._frozen = ""
        self._watched: list[str] = []
        self._generation = 0
        """Of watches: those of an earlier one end."""
        self._last_event: int | None = None
        """Status of the ERROR event with which they end; None: they are broken off."""
        self._server = Server(self._handle)

    @property
    def address(self) -> str:
        return self._server.address

    def close(self) -> None:
        self.thaw()
        self.end_watches()
        self._server.close()

    def kubeconfig(self, folder: Path, token: str | None = None) -> str:
        """Write a kubeconfig, of a user if the test says so; return its path."""
        user = {} if token is None else {"token": token}
        return write_kubeconfig(folder, {"server": f"http://{self.address}"}, user)

    # What the tests do themselves, past faults and rules.

    def put(self, api: str, plural: str, document: Document) -> None:
        """Create an object, or merge this into it; its status included."""
        target = Target(api, plural, document["metadata"]["namespace"], document["metadata"]["name"], "")
        with self._changed:
            self._store(target, copy.deepcopy(_merged(self._objects.get(target.key), document)))

    def all(self, api: str, plural: str) -> list[Document]:
        with self._changed:
            return [found for key, found in self._objects.items() if key[0] == f"{api}/{plural}"]

    def compact(self) -> None:
        """Forget history: a watch from an older version fails with 410."""
        with self._changed:
            self._history.clear()
            self._compacted = self.version

    def end_watches(self, code: int | None = None) -> None:
        """Break off every watch that is under way: in the middle of a chunk, or with an ERROR event."""
        with self._changed:
            self._generation += 1
            self._last_event = code
            self._changed.notify_all()

    def watches(self) -> bool:
        """Tell whether a watch is under way."""
        with self._changed:
            return bool(self._watched)

    def writes(self) -> list[str]:
        """Return the requests that read nothing, in their order."""
        return [line for line in self.requests if not line.startswith("GET ")]

    def freeze(self, user: str) -> None:
        """Stop a user's network: what is under way is neither refused nor delivered before ``thaw``."""
        self._frozen = user

    def thaw(self) -> None:
        with self._changed:
            self._frozen = ""
            self._changed.notify_all()

    # Requests

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        # Before the faults: a request that got past them is of the watches that end later.
        generation = self._generation
        split = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append(f"{handler.command} {handler.path}")
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        user = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if user:
            with self._changed:
                self._changed.wait_for(lambda: user != self._frozen)
        for prefix, fault in list(self.faults.items()):
            if f"{handler.command} {split.path}".startswith(prefix):
                return fault(handler)
        try:
            target = _target(split.path)
            review = target.plural == "selfsubjectaccessreviews"
            if review or not target.plural:
                # Every user may ask these.
                answer = self._review(json.loads(body), user) if review else self._discovery()
                return status(201 if review else 200, json.dumps(answer).encode())(handler)
            reads = "get" if target.name else "watch" if "watch" in query else "list"
            verb = VERBS.get(handler.command, reads)
            resource = f"{target.plural}/{target.part}" if target.part else target.plural
            self._allow(Call(verb, target.api.rpartition("/")[0], resource, target.name, user))
            if verb == "watch":
                return self._watch(handler, target, query, user, generation)
            with self._changed:
                kind = handler.headers.get("Content-Type", "")
                code, answer = 200, self._answer(verb, target, query, body, kind)
        except Refused as refusal:
            code, answer = refusal.code, refusal.body
        return status(code, json.dumps(answer).encode())(handler)

    def _discovery(self) -> Document:
        return {
            "kind": "APIResourceList",
            "resources": [
                {"name": each, "kind": self.kinds.get(each.partition("/")[0], "")} for each in self.offers
            ],
        }

    def _review(self, review: Document, user: str) -> Document:
        asked = review["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        call = Call(asked["verb"], asked["group"], resource, "", user)
        return {**review, "status": {"allowed": self._allows(call)}}

    def _allows(self, call: Call) -> bool:
        return call.user not in self.rules or any(
            call.verb in rule["verbs"]
            and call.group in rule["apiGroups"]
            and call.resource in rule["resources"]
            and call.name in rule.get("resourceNames", [call.name])
            for rule in self.rules[call.user]
        )

    def _allow(self, call: Call) -> None:
        self.calls.append(call)
        if not self._allows(call):
            why = f"cannot {call.verb} resource {call.resource} in group {call.group!r}"
            raise Refused(403, "Forbidden", why)

    def _answer(
        self, verb: str, target: Target, query: Mapping[str, str], body: bytes, kind: str
    ) -> Document:
        if verb == "list":
            return self._list(target, query)
        if verb == "create":
            return self._create(target, json.loads(body))
        before = self._objects.get(target.key)
        if before is None:
            raise Refused(404, "NotFound", f'{target.plural} "{target.name}" not found')
        if verb == "delete":
            return self._remove(target.key)
        shown = _scale(before) if target.part == "scale" else before
        if verb == "get":
            return shown
        new = json.loads(body)
        merged = partial(_merged, by_name="strategic" in kind)
        return self._update(target, before, merged(shown, new) if verb == "patch" else new)

    def _list(self, target: Target, query: Mapping[str, str]) -> Document:
        found = sorted(self._objects.items())
        wanted = [each for key, each in found if _selected(target, key[0], each, query)]
        begin, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(wanted) or 1
        metadata = {"resourceVersion": str(self.version)}
        if begin + limit < len(wanted):
            metadata["continue"] = str(begin + limit)
        return {"metadata": metadata, "items": wanted[begin : begin + limit] or None}  # Go's nil slice

    def _create(self, target: Target, document: Document) -> Document:
        target = target._replace(name=document["metadata"]["name"])
        if target.key in self._objects:
            raise Refused(409, "AlreadyExists", f'{target.plural} "{target.name}" already exists')
        document["metadata"]["namespace"] = target.namespace
        if target.plural not in WITHOUT_STATUS:
            document.pop("status", None)
        return self._store(target, document)

    def _update(self, target: Target, before: Document, new: Document) -> Document:
        version = new.get("metadata", {}).get("resourceVersion")
        if version and version != before["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", f'"{target.name}": the object has been modified')
        after = copy.deepcopy(before)
        if target.part == "scale":
            after["spec"]["replicas"] = new["spec"]["replicas"]
        elif target.part == "resize":
            after = self._resized(before, new)
        elif target.part == "status":
            after["status"] = new.get("status")
        elif target.plural in WITHOUT_STATUS:
            after = copy.deepcopy(new)
        else:
            after = {**copy.deepcopy(new), "status": before.get("status")}
        stored = self._store(target, after)
        return _scale(stored) if target.part == "scale" else stored

    def _resized(self, before: Document, new: Document) -> Document:
        """Return a pod with the new resources, applied or pending; all other changes are dropped."""
        after = copy.deepcopy(before)
        wanted = {each["name"]: each.get("resources", {}) for each in new["spec"]["containers"]}
        for container in after["spec"]["containers"]:
            container["resources"] = wanted.get(container["name"], container.get("resources", {}))
            limits, requests = (container["resources"].get(part, {}) for part in ("limits", "requests"))
            if any(key in limits and cores(requests[key]) > cores(limits[key]) for key in requests):
                raise Refused(422, "Invalid", "must be less than or equal to cpu limit")
        if _qos(after["spec"]) != before["status"]["qosClass"]:
            raise Refused(422, "Invalid", "Pod QOS Class may not change as a result of resizing")
        there = after["status"]["containerStatuses"]
        others = [each for each in after["status"]["conditions"] if each["type"] != "PodResizePending"]
        if self.pending is not None and any(
            cores(wanted[each["name"]]["limits"]["cpu"]) > cores(each["resources"]["limits"]["cpu"])
            for each in there
            if each["resources"].get("limits")
        ):
            reason, message = self.pending
            pending = {"type": "PodResizePending", "status": "True", "reason": reason, "message": message}
            after["status"]["conditions"] = [*others, pending]
        else:
            after["status"]["conditions"] = others
            after["status"]["containerStatuses"] = _statuses(after["spec"])
        return after

    def _store(self, target: Target, document: Document) -> Document:
        """Write an object, with a new version if there is anything new, and tell the watches."""
        before = self._objects.get(target.key)
        metadata = document["metadata"]
        if before is None:
            metadata |= {"uid": str(uuid.uuid4()), "generation": 1}
            document |= {"apiVersion": target.api, "kind": document.get("kind", target.plural)}
        else:
            metadata |= {part: before["metadata"][part] for part in ("uid", "generation", "resourceVersion")}
            if before.get("spec") != document.get("spec"):
                metadata["generation"] += 1
            if document == before:
                return before
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self._objects[target.key] = document
        self._record(target.key, "ADDED" if before is None else "MODIFIED", document)
        replicas = (document.get("spec") or {}).get("replicas")
        if target.plural == "deployments" and self.instantly_ready and replicas is not None:
            ready = {**(document.get("status") or {}), "readyReplicas": replicas}
            if ready != document.get("status"):
                self._store(target, {**copy.deepcopy(document), "status": ready})
        return document

    def _remove(self, key: Key) -> Document:
        document = copy.deepcopy(self._objects.pop(key))
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        self._record(key, "DELETED", document)
        return document

    def _record(self, key: Key, event: str, document: Document) -> None:
        self._history.append((self.version, key[0], event, copy.deepcopy(document)))
        self._changed.notify_all()

    def _watch(
        self,
        handler: BaseHTTPRequestHandler,
        target: Target,
        query: Mapping[str, str],
        user: str,
        generation: int,
    ) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        self._watched.append(target.plural)
        handler.close_connection = True
        try:
            for event in self._events(target, query, user, generation):
                line = json.dumps(event).encode() + b"\n"
                handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            handler.wfile.write(b"0\r\n\r\n")
        except (OSError, _BrokenOffError):
            pass
        finally:
            self._watched.remove(target.plural)

    def _events(
        self, target: Target, query: Mapping[str, str], user: str, generation: int
    ) -> Iterator[Document]:
        """Give events until the time is up; raises ``_BrokenOffError`` if the watch is broken off instead."""
        end = time.monotonic() + min(float(query["timeoutSeconds"]), self.longest_watch)
        at, bookmark = int(query["resourceVersion"]), time.monotonic() + self.bookmarks
        while True:
            with self._changed:
                if generation != self._generation:
                    if self._last_event is None:
                        raise _BrokenOffError
                    error = Refused(self._last_event, "InternalError", "etcdserver: leader changed")
                    yield {"type": "ERROR", "object": error.body}
                    return
                if user and user == self._frozen:
                    self._changed.wait()
                    continue
                if at < self._compacted:
                    gone = Refused(410, "Expired", f"too old resource version: {at}")
                    yield {"type": "ERROR", "object": gone.body}
                    return
                found = [
                    {"type": _event(event, document, query), "object": document}
                    for version, kind, event, document in self._history
                    if version > at and _selected(target, kind, document, query, event)
                ]
                at, now = self.version, time.monotonic()
                if not found and now < min(end, bookmark):
                    self._changed.wait(min(end, bookmark) - now)
                    continue
            yield from found
            if now >= bookmark:
                yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(at)}}}
                bookmark = now + self.bookmarks
            if now >= end:
                return


class _BrokenOffError(Exception):
    """The test ends all watches."""


def a_kube_server() -> closing[KubeServer]:
    return closing(KubeServer())


def write_kubeconfig(folder: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> str:
    document = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "ours"}}],
        "clusters": [{"name": "c", "cluster": dict(cluster)}],
        "users": [{"name": "u", "user": dict(user)}],
    }
    path = folder / f"kubeconfig-{uuid.uuid4().hex[:6]}"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def a_deployment(
    name: str = "web", namespace: str = "shop", replicas: int = 2, mode: str | None = None, **annotations: str
) -> Document:
    """Return a Deployment; an annotation's underscores stand for dashes, under tailbound.dev/.

    ``mode`` is the label tailbound.dev/mode; None: it has none.
    """
    ours = {f"tailbound.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}
    label = {} if mode is None else {"tailbound.dev/mode": mode}
    labels = {"app": name}
    containers = [{"name": "c", "image": "example.invalid/none"}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "annotations": ours, "labels": label},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def a_pod(
    deployment: str,
    namespace: str = "shop",
    *,
    why: str = "0/1 nodes are available: 1 Insufficient cpu.",
    labels: Mapping[str, str] | None = None,
    containers: Sequence[Document] = (),
) -> Document:
    """Return a pod of a Deployment that is on no node, and the scheduler's word on that."""
    owner = {"kind": "ReplicaSet", "name": f"{deployment}-5d59d67564", "controller": True}
    refusal = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    return {
        "metadata": {
            "name": f"{deployment}-5d59d67564-{uuid.uuid4().hex[:5]}",
            "namespace": namespace,
            "labels": {"pod-template-hash": "5d59d67564", **(labels or {})},
            "ownerReferences": [owner],
        },
        "spec": {"containers": list(containers)},
        "status": {"phase": "Pending", "conditions": [refusal]},
    }


def a_replica_set(
    deployment: str = "web",
    namespace: str = "shop",
    *containers: Document,
    labels: Mapping[str, str] | None = None,
) -> Document:
    """Return a Deployment's ReplicaSet with the label of a boost."""
    labels = {"tailbound.dev/boost": "", **(labels or {})}
    owner = {"kind": "Deployment", "name": deployment, "controller": True}
    metadata = {"name": f"{deployment}-5d59d67564", "namespace": namespace, "labels": labels}
    return {
        "metadata": {**metadata, "ownerReferences": [owner]},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": list(containers)}}},
    }


def a_running_pod(of: Document, name: str = "a", *, ready: bool = True) -> Document:
    """Return a pod of a ReplicaSet, on a node, with what the API server adds to it."""
    template = copy.deepcopy(of["spec"]["template"])
    for container in template["spec"]["containers"]:
        resources = container.setdefault("resources", {})
        if "limits" in resources:
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
    owner = {"kind": "ReplicaSet", "name": of["metadata"]["name"], "controller": True}
    return {
        "metadata": {
            "name": f"{of['metadata']['name']}-{name}",
            "namespace": of["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner],
        },
        "spec": {**template["spec"], "nodeName": "node"},
        "status": {
            "phase": "Running",
            "qosClass": _qos(template["spec"]),
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": _statuses(template["spec"]),
        },
    }


def cores(quantity: str) -> Decimal:
    """Return the number of a quantity of CPU or memory."""
    return parse_quantity(quantity)


def _statuses(spec: Document) -> list[Document]:
    return [
        {"name": each["name"], "resources": copy.deepcopy(each.get("resources", {}))}
        for each in spec["containers"]
    ]


def _qos(spec: Document) -> str:
    """Return the QoS class of a pod, whose missing requests are filled in."""
    found = [each.get("resources", {}) for each in spec["containers"]]
    if not any(each.get("limits") or each.get("requests") for each in found):
        return "BestEffort"
    whole = all(
        {"cpu", "memory"} <= each.get("limits", {}).keys()
        and all(cores(each["requests"][key]) == cores(each["limits"][key]) for key in ("cpu", "memory"))
        for each in found
    )
    return "Guaranteed" if whole else "Burstable"


def _target(path: str) -> Target:
    steps = [unquote(step) for step in path.strip("/").split("/")]
    api, rest = ("v1", steps[2:]) if steps[0] == "api" else ("/".join(steps[1:3]), steps[3:])
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    plural, name, part, *_ = [*rest, "", "", ""]
    return Target(api, plural, namespace, name, part)


def _selected(
    target: Target, kind: str, document: Document, query: Mapping[str, str], event: str = "ADDED"
) -> bool:
    """Tell whether a list or a watch of ``target`` has the object; a selector is the name of a label."""
    return (
        kind == target.key[0]
        and target.namespace in ("", document["metadata"]["namespace"])
        and (event != "ADDED" or _is_selected(document, query))
    )


def _event(event: str, document: Document, query: Mapping[str, str]) -> str:
    """Return what a watch tells: one that is not selected any more is gone."""
    return event if _is_selected(document, query) else "DELETED"


def _is_selected(document: Document, query: Mapping[str, str]) -> bool:
    label, field = query.get("labelSelector"), query.get("fieldSelector")
    if field is not None:
        path, _, wanted = field.partition("=")
        part, name = path.split(".")
        if (document.get(part) or {}).get(name, "") != wanted:
            return False
    labels = document["metadata"].get("labels") or {}
    parts = [part.partition("=") for part in (label or "").split(",") if part]
    return all(name in labels and (not equals or labels[name] == text) for name, equals, text in parts)


def _merged(below: Any, above: Any, *, by_name: bool = False) -> Any:
    """Apply a merge patch (RFC 7386), or a strategic one, which merges lists by the key ``name``."""
    if by_name and isinstance(above, list) and isinstance(below, list):
        new = {each["name"]: each for each in above}
        known = [_merged(each, new.pop(each["name"], {}), by_name=True) for each in below]
        return [*known, *new.values()]
    if not isinstance(above, dict):
        return above
    result = dict(below) if isinstance(below, dict) else {}
    for key, value in above.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value, by_name=by_name)
    return result


def _scale(document: Document) -> Document:
    metadata = {key: document["metadata"].get(key) for key in ("name", "namespace", "uid", "resourceVersion")}
    return {"metadata": metadata, "spec": {"replicas": document["spec"].get("replicas", 1)}}
