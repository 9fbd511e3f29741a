"""A Kubernetes API server that behaves, on a real socket: what our clients use of it, and nothing else.

Objects of any kind in a dict, with resourceVersions that grow, conflicts on stale ones, merge patches, the
subresources scale and status, lists in pages, and watches with bookmarks that fail with 410 once history is
compacted. ``faults`` spoil requests, ``asked`` lists them in the words of RBAC, and ``rules`` refuse what a
user's roles do not allow.
"""

import copy
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from autoscaler.doubles import Fault, Server, status

Document = dict[str, Any]

KINDS = {
    "deployments": "Deployment",
    "events": "Event",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
    "leases": "Lease",
    "podautoscalers": "PodAutoscaler",
    "revisions": "Revision",
    "serverlessservices": "ServerlessService",
}
"""Plural -> kind, for the lists; any other plural is its own kind."""

WITHOUT_STATUS = {"events", "leases"}
"""Kinds without a status subresource: a write to the object writes it all."""


class Target(NamedTuple):
    """What a path names; empty parts were not given."""

    api: str
    plural: str
    namespace: str
    name: str
    part: str

    @property
    def group(self) -> str:
        return self.api.rpartition("/")[0]

    @property
    def resource(self) -> str:
        return f"{self.plural}/{self.part}" if self.part else self.plural


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
        self.body = {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }


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
        self.token: str | None = None
        """The only bearer token that is taken; None takes all."""
        self.admission: Callable[[Target, Document], str | None] | None = None
        """Called with what is about to be stored; a text refuses it, as a webhook would."""
        self.bookmarks = 0.1
        """Seconds between two bookmarks of a watch that asks for them."""
        self.longest_watch = 60.0
        """Seconds after which the server ends a watch, however long it was asked for."""
        self.instantly_ready = True
        """A Deployment's pods are ready as soon as they are asked for."""
        self._objects: dict[tuple[str, str, str], Document] = {}
        """(group and plural, namespace, name) -> object."""
        self._history: list[tuple[int, str, str, Document]] = []
        """(version, group and plural, event type, object as it was then)."""
        self._version = 100
        self._compacted = 0
        self._changed = threading.Condition()
        self._streams: dict[BaseHTTPRequestHandler, str] = {}
        self._generation = 0
        """Of watches: those of an earlier one end."""
        self._closed = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._handle(self)

            def do_POST(self) -> None:
                server._handle(self)

            def do_PUT(self) -> None:
                server._handle(self)

            def do_PATCH(self) -> None:
                server._handle(self)

            def do_DELETE(self) -> None:
                server._handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = Server(Handler)

    @property
    def address(self) -> str:
        return self._server.address

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def close(self) -> None:
        self._closed = True
        self.end_watches()
        self._server.close()

    def kubeconfig(self, folder: Path, address: str | None = None, token: str | None = None) -> str:
        """Write a kubeconfig, by way of a proxy at ``address`` or as another user; return its path."""
        token = token or self.token
        user = {} if token is None else {"token": token}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "ours"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://{address or self.address}"}}],
            "users": [{"name": "u", "user": user}],
        }
        path = folder / f"kubeconfig-{uuid.uuid4().hex[:6]}"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    # What the tests do themselves, past faults and rules.

    def put(self, api: str, plural: str, document: Document) -> Document:
        """Create or replace an object, its status included; return it as stored."""
        target = Target(
            api, plural, document["metadata"].get("namespace", ""), document["metadata"]["name"], ""
        )
        with self._changed:
            return copy.deepcopy(self._store(target, copy.deepcopy(document)))

    def get(self, api: str, plural: str, namespace: str, name: str) -> Document:
        with self._changed:
            return copy.deepcopy(self._objects[_key(api, plural, namespace, name)])

    def all(self, api: str, plural: str) -> list[Document]:
        with self._changed:
            return [
                copy.deepcopy(found) for key, found in self._objects.items() if key[0] == _kind(api, plural)
            ]

    def remove(self, api: str, plural: str, namespace: str, name: str) -> None:
        with self._changed:
            self._remove(_key(api, plural, namespace, name))

    def compact(self) -> None:
        """Forget history: a watch from an older version fails with 410."""
        with self._changed:
            self._history.clear()
            self._compacted = self._version

    def end_watches(self) -> None:
        """Break off every watch that is under way, in the middle of a chunk."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def watches(self, plural: str = "") -> int:
        """Return how many watches are under way, of one kind or of all."""
        with self._changed:
            return sum(plural in ("", watched) for watched in self._streams.values())

    def writes(self) -> list[str]:
        """Return the requests that read nothing, in their order."""
        return [line for line in self.requests if not line.startswith("GET ")]

    # Requests

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        split = urlsplit(handler.path)
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        self.requests.append(f"{handler.command} {handler.path}")
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        for prefix, fault in list(self.faults.items()):
            if f"{handler.command} {split.path}".startswith(prefix):
                return fault(handler)
        try:
            user = handler.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.token not in (None, user):
                raise Refused(401, "Unauthorized", "Unauthorized")
            target = _target(split.path)
            verb = _verb(handler.command, target, query)
            call = Call(verb, target.group, target.resource, target.name, user)
            self.calls.append(call)
            self._allow(call)
            if verb == "watch":
                return self._watch(handler, target, query)
            code, answer = self._answer(handler, verb, target, query, body)
        except Refused as refusal:
            code, answer = refusal.code, refusal.body
        return status(code, json.dumps(answer).encode())(handler)

    def _allow(self, call: Call) -> None:
        if call.user not in self.rules:
            return
        for rule in self.rules[call.user]:
            if (
                call.verb in rule["verbs"]
                and call.group in rule["apiGroups"]
                and call.resource in rule["resources"]
                and (not rule.get("resourceNames") or call.name in rule["resourceNames"])
            ):
                return
        raise Refused(
            403, "Forbidden", f"cannot {call.verb} resource {call.resource} in group {call.group!r}"
        )

    def _answer(
        self,
        handler: BaseHTTPRequestHandler,
        verb: str,
        target: Target,
        query: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, Document]:
        with self._changed:
            if verb == "list":
                return 200, self._list(target, query)
            key = _key(target.api, target.plural, target.namespace, target.name)
            if verb == "create":
                return 201, self._create(target, json.loads(body))
            before = self._objects.get(key)
            if before is None:
                raise Refused(404, "NotFound", f'{target.plural} "{target.name}" not found')
            if verb == "get":
                return 200, _scale(before) if target.part == "scale" else before
            if verb == "delete":
                return 200, self._remove(key)
            shown = _scale(before) if target.part == "scale" else before
            new = json.loads(body)
            if verb == "patch":
                kind = handler.headers.get("Content-Type", "")
                if kind != "application/merge-patch+json":
                    raise Refused(415, "UnsupportedMediaType", f"{kind} is not supported here")
                new = _merged(shown, new)
            return 200, self._update(target, before, new)

    def _list(self, target: Target, query: Mapping[str, str]) -> Document:
        wanted = [
            found
            for key, found in sorted(self._objects.items())
            if key[0] == _kind(target.api, target.plural)
            and target.namespace in ("", key[1])
            and _selected(found, query.get("labelSelector", ""))
        ]
        begin, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(wanted) or 1
        metadata = {"resourceVersion": str(self._version)}
        if begin + limit < len(wanted):
            metadata["continue"] = str(begin + limit)
        kind = KINDS.get(target.plural, target.plural)
        return {
            "apiVersion": target.api,
            "kind": f"{kind}List",
            "metadata": metadata,
            "items": wanted[begin : begin + limit] or None,  # Go's nil slice
        }

    def _create(self, target: Target, document: Document) -> Document:
        name = document.get("metadata", {}).get("name")
        if not name:
            raise Refused(422, "Invalid", "metadata.name: Required value")
        target = target._replace(name=name)
        if _key(target.api, target.plural, target.namespace, name) in self._objects:
            raise Refused(409, "AlreadyExists", f'{target.plural} "{name}" already exists')
        document["metadata"]["namespace"] = target.namespace
        if target.plural not in WITHOUT_STATUS:
            document.pop("status", None)
        self._admit(target, document)
        return self._store(target, document)

    def _update(self, target: Target, before: Document, new: Document) -> Document:
        version = new.get("metadata", {}).get("resourceVersion")
        if version and version != before["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", f'"{target.name}": the object has been modified')
        after = copy.deepcopy(before)
        if target.part == "scale":
            after["spec"]["replicas"] = new["spec"]["replicas"]
        elif target.part == "status":
            after["status"] = new.get("status")
        elif target.plural in WITHOUT_STATUS:
            after = copy.deepcopy(new)
        else:
            after = {**copy.deepcopy(new), "status": before.get("status")}
        for part in ("uid", "creationTimestamp", "generation"):
            after["metadata"][part] = before["metadata"].get(part)
        self._admit(target, after)
        stored = self._store(target, after)
        return _scale(stored) if target.part == "scale" else stored

    def _admit(self, target: Target, document: Document) -> None:
        why = None if self.admission is None else self.admission(target, document)
        if why is not None:
            raise Refused(400, "BadRequest", f"admission webhook denied the request: {why}")

    def _store(self, target: Target, document: Document) -> Document:
        """Write an object, with a new version if there is anything new, and tell the watches."""
        key = _key(target.api, target.plural, target.namespace, target.name)
        before = self._objects.get(key)
        metadata = document["metadata"]
        metadata.setdefault("namespace", target.namespace)
        if before is None:
            metadata["uid"] = str(uuid.uuid4())
            metadata["generation"] = 1
            metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            for part in ("uid", "generation", "creationTimestamp"):
                metadata[part] = before["metadata"][part]
            if before.get("spec") != document.get("spec"):
                metadata["generation"] += 1
            metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
            if document == before:
                return before
        document.setdefault("apiVersion", target.api)
        document.setdefault("kind", KINDS.get(target.plural, target.plural))
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        self._objects[key] = document
        self._record(key[0], "ADDED" if before is None else "MODIFIED", document)
        replicas = (document.get("spec") or {}).get("replicas")
        if target.plural == "deployments" and self.instantly_ready and replicas is not None:
            ready = {**(document.get("status") or {}), "readyReplicas": replicas}
            if ready != document.get("status"):
                self._store(target, {**copy.deepcopy(document), "status": ready})
        return document

    def _remove(self, key: tuple[str, str, str]) -> Document:
        document = copy.deepcopy(self._objects.pop(key))
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)
        self._record(key[0], "DELETED", document)
        return document

    def _record(self, kind: str, event: str, document: Document) -> None:
        self._history.append((self._version, kind, event, copy.deepcopy(document)))
        self._changed.notify_all()

    def _watch(self, handler: BaseHTTPRequestHandler, target: Target, query: Mapping[str, str]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with self._changed:
            self._streams[handler] = target.plural
        try:
            whole = self._stream(handler, target, query)
        except OSError:
            whole = False
        finally:
            with self._changed:
                self._streams.pop(handler, None)
        if whole:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            handler.close_connection = True

    def _stream(self, handler: BaseHTTPRequestHandler, target: Target, query: Mapping[str, str]) -> bool:
        """Send events until the time is up; False if the watch is broken off instead."""
        end = time.monotonic() + min(float(query.get("timeoutSeconds", 60)), self.longest_watch)
        at, bookmark = int(query.get("resourceVersion", 0)), time.monotonic() + self.bookmarks
        generation = self._generation
        while True:
            with self._changed:
                if generation != self._generation:
                    return False
                if at < self._compacted:
                    gone = Refused(410, "Expired", f"too old resource version: {at}")
                    _chunk(handler, {"type": "ERROR", "object": gone.body})
                    return True
                found = [
                    {"type": event, "object": document}
                    for version, kind, event, document in self._history
                    if version > at
                    and kind == _kind(target.api, target.plural)
                    and target.namespace in ("", document["metadata"]["namespace"])
                    and _selected(document, query.get("labelSelector", ""))
                ]
                at = self._version
                now = time.monotonic()
                if not found and now < min(end, bookmark):
                    self._changed.wait(min(end, bookmark) - now)
                    continue
            for event in found:
                _chunk(handler, event)
            if now >= bookmark and query.get("allowWatchBookmarks") == "true":
                _chunk(handler, _bookmark(target, at))
            if now >= bookmark:
                bookmark = now + self.bookmarks
            if now >= end:
                return True


@contextmanager
def a_kube_server() -> Iterator[KubeServer]:
    server = KubeServer()
    try:
        yield server
    finally:
        server.close()


def a_deployment(
    name: str = "web", namespace: str = "shop", replicas: int = 2, **annotations: str
) -> Document:
    """Return a Deployment; an annotation's underscores stand for dashes, under tailbound.dev/."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {
                f"tailbound.dev/{key.replace('_', '-')}": text for key, text in annotations.items()
            },
        },
        "spec": {"replicas": replicas, **a_template(app=name)},
    }


def a_template(**labels: str) -> Document:
    """Return selector and template of a Deployment whose pods nobody could run."""
    metadata = {"labels": labels, "annotations": {"tailbound.dev/metrics-port": "8081"}}
    containers = [{"name": "c", "image": "example.invalid/none"}]
    return {
        "selector": {"matchLabels": labels},
        "template": {"metadata": metadata, "spec": {"containers": containers}},
    }


def _kind(api: str, plural: str) -> str:
    return f"{api}/{plural}"


def _key(api: str, plural: str, namespace: str, name: str) -> tuple[str, str, str]:
    return _kind(api, plural), namespace, name


def _target(path: str) -> Target:
    steps = [unquote(step) for step in path.strip("/").split("/")]
    if steps[:2] == ["api", "v1"]:
        api, rest = "v1", steps[2:]
    elif steps[0] == "apis" and len(steps) >= 4:
        api, rest = f"{steps[1]}/{steps[2]}", steps[3:]
    else:
        raise Refused(404, "NotFound", f"no such path: {path}")
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    plural, name, part, *more = [*rest, "", ""]
    if not plural or any(more):
        raise Refused(404, "NotFound", f"no such path: {path}")
    return Target(api, plural, namespace, name, part)


def _verb(method: str, target: Target, query: Mapping[str, str]) -> str:
    if method == "GET":
        whole = "watch" if query.get("watch") == "true" else "list"
        return "get" if target.name else whole
    return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]


def _selected(document: Document, selector: str) -> bool:
    labels = document["metadata"].get("labels") or {}
    pairs = [each.partition("=") for each in selector.split(",") if each]
    return all(labels.get(key) == text.lstrip("=") if sign else key in labels for key, sign, text in pairs)


def _merged(below: Any, above: Any) -> Any:
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(above, dict):
        return above
    result = dict(below) if isinstance(below, dict) else {}
    for key, value in above.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _scale(document: Document) -> Document:
    metadata = {key: document["metadata"].get(key) for key in ("name", "namespace", "uid", "resourceVersion")}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": document["spec"].get("replicas", 1)},
        "status": {"replicas": (document.get("status") or {}).get("readyReplicas", 0)},
    }


def _bookmark(target: Target, version: int) -> Document:
    metadata = {"resourceVersion": str(version)}
    kind = KINDS.get(target.plural, target.plural)
    return {"type": "BOOKMARK", "object": {"apiVersion": target.api, "kind": kind, "metadata": metadata}}


def _chunk(handler: BaseHTTPRequestHandler, event: Document) -> None:
    line = json.dumps(event).encode() + b"\n"
    handler.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
    handler.wfile.flush()
