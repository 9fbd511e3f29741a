"""A gateway and a Prometheus in one small real HTTP server, as far as a real run asks them anything."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web


class Cluster:
    """Functions by full name with their replicas; what fires; what queries answer; every scale request."""

    def __init__(self, replicas):
        self.replicas = dict(replicas)
        self.firing = set()
        self.pending = set()
        self.results = {}
        self.scaled = []
        self.broken = set()
        self.refused = asyncio.Event()
        self.document = None

    async def alerts(self, _):
        alerts = [
            {"labels": {"alertname": name, "function_name": function}, "state": state}
            for name, function, state in (
                *(("APIHighInvocationRate", function, "firing") for function in self.firing),
                *(("APIHighInvocationRate", function, "pending") for function in self.pending),
                ("SomethingElse", "other.baseline", "firing"),
            )
        ]
        return web.json_response({"status": "success", "data": {"alerts": alerts}})

    async def query(self, request):
        if self.document is not None:
            return web.json_response(self.document)
        series = next((v for k, v in self.results.items() if k in request.query["query"]), {})
        result = [{"metric": {"function_name": k}, "value": [0, v]} for k, v in series.items()]
        return web.json_response({"status": "success", "data": {"result": result}})

    async def functions(self, request):
        namespace = request.query["namespace"]
        return web.json_response(
            [
                {"name": name.rpartition(".")[0], "replicas": count, "availableReplicas": count}
                if count
                else {"name": name.rpartition(".")[0]}  # Go leaves zeros out
                for name, count in self.replicas.items()
                if name.endswith(f".{namespace}")
            ]
        )

    async def function(self, request):
        name = f"{request.match_info['name']}.{request.query['namespace']}"
        return web.json_response({"name": request.match_info["name"], "replicas": self.replicas[name]})

    async def scale(self, request):
        body = await request.json()
        name = f"{request.match_info['name']}.{body['namespace']}"
        self.scaled.append((name, body["replicas"]))
        self.replicas[name] = body["replicas"]
        return web.Response(status=202)

    @web.middleware
    async def breakage(self, request, handler):
        if any(request.path.startswith(path) for path in self.broken):
            self.refused.set()
            return web.Response(status=500)
        return await handler(request)

    @asynccontextmanager
    async def run(self):
        """Serve; yields a client session and the address of both."""
        application = web.Application(middlewares=[self.breakage])
        application.router.add_get("/api/v1/alerts", self.alerts)
        application.router.add_get("/api/v1/query", self.query)
        application.router.add_get("/system/functions", self.functions)
        application.router.add_get("/system/function/{name}", self.function)
        application.router.add_post("/system/scale-function/{name}", self.scale)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                yield session, f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
