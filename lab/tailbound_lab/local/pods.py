"""The part of the Kubernetes API with which the autoscaler boosts: replicas as pods, and ``pods/resize``.

Shows each replica with a CPU limit of a function with the label ``tailbound.dev/boost`` as a pod, and its
function as the ReplicaSet. A change of any ends a watch with 410, upon which its client lists again.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from aiohttp import web

from tailbound_lab.local import specs
from tailbound_lab.local.errors import NotFoundError
from tailbound_lab.local.functions import Function, Registry
from tailbound_lab.local.replica import Replica

LABEL: Final = "tailbound.dev/boost"
_CONTAINER: Final = "function"
_POLL: Final = 0.1

Document = dict[str, Any]


class Pods:
    """The routes, over a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._version = 0
        self._last: list[Document] = []

    def routes(self) -> list[web.RouteDef]:
        """Return every route; none needs credentials."""
        return [
            web.get("/api/v1", self.resources),
            web.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self.review),
            web.get("/api/v1/namespaces/{namespace}/pods", self.pods),
            web.get("/apis/apps/v1/namespaces/{namespace}/replicasets", self.replica_sets),
            web.patch("/api/v1/namespaces/{namespace}/pods/{name}/resize", self.resize),
        ]

    async def resources(self, request: web.Request) -> web.Response:
        """Return that pods can be resized."""
        return web.json_response({"resources": [{"name": "pods/resize"}]})

    async def review(self, request: web.Request) -> web.Response:
        """Allow everything."""
        return web.json_response({"status": {"allowed": True}}, status=201)

    async def pods(self, request: web.Request) -> web.StreamResponse:
        """List or watch the replicas of a namespace."""
        return await self._answer(request, _pod)

    async def replica_sets(self, request: web.Request) -> web.StreamResponse:
        """List or watch the functions of a namespace."""
        return await self._answer(request, _replica_set)

    async def resize(self, request: web.Request) -> web.Response:
        """Change the CPU limit of a replica. It is in force when this answers."""
        name, cpus = request.match_info["name"], specs.parse_resize(await request.json())
        for function, replica in self._replicas(request.match_info["namespace"]):
            if replica.name == name:
                replica.limit_cpus(cpus)
                return web.json_response(_pod(function, replica, self._changed()))
        raise NotFoundError(f"pod {name} does not exist in namespace {request.match_info['namespace']}")

    async def _answer(
        self, request: web.Request, show: Callable[[Function, Replica, int], Document]
    ) -> web.StreamResponse:
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(int(float(request.query["timeoutSeconds"]) / _POLL)):
                if str(self._changed()) != request.query["resourceVersion"]:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "list again"}
                    await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                    break
                await asyncio.sleep(_POLL)
            return response
        version = self._changed()
        documents = [
            show(function, replica, version)
            for function, replica in self._replicas(request.match_info["namespace"])
        ]
        # Replicas of one function show the same ReplicaSet.
        items = list({document["metadata"]["name"]: document for document in documents}.values())
        return web.json_response({"metadata": {"resourceVersion": str(version)}, "items": items})

    def _replicas(self, namespace: str | None = None) -> Iterator[tuple[Function, Replica]]:
        for function in self._registry:
            if LABEL in function.spec.labels and namespace in (None, function.spec.namespace):
                for replica in function.replicas:
                    if replica.cpus is not None and not replica.draining:
                        yield function, replica

    def _changed(self) -> int:
        """Return the version of all documents, a new one if any has changed."""
        pods = [_pod(function, replica, 0) for function, replica in self._replicas()]
        if pods != self._last:
            self._version, self._last = self._version + 1, pods
        return self._version


def _pod(function: Function, replica: Replica, version: int) -> Document:
    ready = {"type": "Ready", "status": str(replica.ready)}
    return {
        "metadata": _metadata(function, replica.name, version, owner=("ReplicaSet", function.spec.name)),
        "spec": {"nodeName": "localhost", "containers": [_container(replica.cpus)]},
        "status": {"phase": "Running", "qosClass": "Burstable", "conditions": [ready]},
    }


def _replica_set(function: Function, replica: Replica, version: int) -> Document:
    return {
        "metadata": _metadata(
            function, function.spec.name, version, owner=("Deployment", function.spec.name)
        ),
        "spec": {"template": {"spec": {"containers": [_container(function.spec.cpus)]}}},
    }


def _metadata(function: Function, name: str, version: int, *, owner: tuple[str, str]) -> Document:
    kind, owner_name = owner
    return {
        "name": name,
        "namespace": function.spec.namespace,
        "labels": dict(function.spec.labels),
        "resourceVersion": str(version),
        "ownerReferences": [{"kind": kind, "name": owner_name, "controller": True}],
    }


def _container(cpus: float | None) -> Document:
    return {"name": _CONTAINER, "resources": {"limits": {"cpu": f"{round(1000 * (cpus or 0.0))}m"}}}
