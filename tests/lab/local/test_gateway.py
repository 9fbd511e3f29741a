"""The main path through OpenFaaS' own gateway: faas-cli's requests, load, Prometheus, and the autoscaler.

The gateway is of the Community Edition: 1 to 5 replicas, whatever is asked for. Skipped if it is not on PATH.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.local.openfaas import (
    BASIC,
    GATEWAY,
    GATEWAY_METRICS,
    a_prometheus,
    call,
    credentials,
    local_platform,
    missing,
    real_gateway,
    until,
)
from tailbound_lab.local.ports import free_ports

HANDLER = """
import time

def handle_batch(events, context):
    time.sleep(0.05 * len(events))      # batches save nothing, so a replica does 20 requests/s
    return [event.body for event in events]

def example():
    return b"x"
"""
FUNCTION = {
    "service": "sleeper",
    "image": "sleeper:latest",
    "envVars": {"slo_latency": "250ms", "slo_objective": "0.9", "workers": "1", "healthcheck_interval": "0s"},
    "labels": {"com.openfaas.scale.max": "9"},
}
CONFIG = """
platform:
  kind: openfaas
  gateway_url: {gateway}
  basic_auth: {{user_file: "{secrets}/basic-auth-user", password_file: "{secrets}/basic-auth-password"}}
  timeout: 1s
prometheus: {{url: "http://{prometheus}", scrape_interval: 500ms, window: 3s, timeout: 2s, max_age: 3s}}
interval: 250ms
web: {{host: 127.0.0.1, port: 0, page_port: null}}
defaults: {{start_up_time: 1s, min_samples: 5, scale_to_zero_after: 4s,
  scale_down: {{stabilization_window: 4s}}}}
"""


class Autoscaler:
    """The program, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Its decision log."""
        return [json.loads(line) for line in (self._folder / "decisions").read_text().splitlines()]

    @property
    def reasons(self) -> list[str]:
        """The reasons of its decisions, in order."""
        return [line["reason"] for line in self.decisions]

    @property
    def log(self) -> str:
        """Its log."""
        return (self._folder / "log").read_text()


@contextmanager
def an_autoscaler(folder: Path, **values: object) -> Iterator[Autoscaler]:
    """The program on ``CONFIG``."""
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG.format(**values))
    with (folder / "decisions").open("wb") as out, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "slo_autoscaler", "--config", str(folder / "config.yaml")],
            stdout=out,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield Autoscaler(process, folder)
    finally:
        process.kill()
        process.wait()


@contextmanager
def traffic(url: str, rate: float) -> Iterator[None]:
    """Requests at ``rate`` per second, whatever becomes of them, until the block ends."""
    stop = threading.Event()

    async def send(session: aiohttp.ClientSession) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(url, data=b"x") as answer:
                await answer.read()

    async def run() -> None:
        timeout = aiohttp.ClientTimeout(total=10)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            tasks: set[asyncio.Task[None]] = set()
            while not stop.is_set():
                task = asyncio.create_task(send(session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(1 / rate)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.e2e
@missing("gateway", "prometheus")
def test_the_autoscaler_follows_the_load_through_the_real_gateway_and_its_failures(tmp_path):
    handler = tmp_path / "sleeper"
    handler.mkdir()
    (handler / "handler.py").write_text(HANDLER)
    secrets = credentials(tmp_path / "secrets")
    prometheus = f"127.0.0.1:{free_ports(1)[0]}"
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(
            local_platform(
                *("--no-prometheus", "--no-autoscaler", "--image", f"sleeper:latest={handler}"),
                *("--basic-auth-dir", str(secrets)),
            )
        )
        gateway = stack.enter_context(
            real_gateway(provider, tmp_path, prometheus=prometheus, basic_auth=secrets)
        )

        def function() -> dict[str, Any]:
            status, body = call(f"{provider}/system/function/sleeper", headers=BASIC)
            return json.loads(body) if status == 200 else {}

        def replicas() -> int:
            return int(function().get("replicas", 0))

        with a_prometheus(tmp_path / "prometheus", prometheus, provider) as first:
            status, body = call(
                f"{GATEWAY}/system/functions",
                method="POST",
                body=json.dumps(FUNCTION).encode(),
                headers=BASIC,
            )
            assert status == 202, body
            until(lambda: function().get("availableReplicas"), "the function is ready")
            # What the gateway makes of a count: no less than 1, no more than 5, and it never says so.
            for asked, given in ((0, 1), (9, 5), (1, 1)):
                scale = {"serviceName": "sleeper", "replicas": asked}
                status, _ = call(
                    f"{GATEWAY}/system/scale-function/sleeper",
                    method="POST",
                    body=json.dumps(scale).encode(),
                    headers=BASIC,
                )
                assert (status, replicas()) == (202, given)
            autoscaler = stack.enter_context(
                an_autoscaler(
                    tmp_path / "autoscaler", gateway=GATEWAY, secrets=secrets, prometheus=prometheus
                )
            )
            until(lambda: autoscaler.decisions, "the autoscaler decides")
            with traffic(f"{GATEWAY}/function/sleeper", 120.0):
                until(lambda: "PlatformCap" in autoscaler.reasons, "120/s are more than 5 replicas of 20/s")
                (capped,) = [line for line in autoscaler.decisions if line["reason"] == "PlatformCap"]
                assert (capped["inputs"]["granted"], replicas()) == (5, 5)
                assert capped["inputs"]["asked"] > 5
                asked = gateway.log.count("to /system/scale-function/sleeper")

                gateway.kill()
                until(lambda: "cannot list functions" in autoscaler.log, "the gateway is missed")
                gateway.start()
                until(lambda: "discover: works again" in autoscaler.log, "and found again")
                assert gateway.log.count("to /system/scale-function/sleeper") == asked, "it was told once"

                first.kill()
                until(lambda: "no observations, every function holds" in autoscaler.log, "no Prometheus")
                # The gateway's list panics now; a function can still be read alone.
                assert call(f"{GATEWAY}/system/functions", headers=BASIC)[0] == 0
                assert call(f"{GATEWAY}/system/function/sleeper", headers=BASIC)[0] == 200
                assert replicas() == 5
        with a_prometheus(tmp_path / "prometheus", prometheus, provider):
            until(lambda: replicas() == 1, "without load there is one again")
            # It is idle for long enough to go, which this gateway does not do: it stays, and is left alone.
            until(lambda: "Idle" in autoscaler.reasons, "zero is asked for")
            until(lambda: autoscaler.decisions[-1]["to"] == 1, "one was given")
            assert replicas() == 1
        autoscaler.process.send_signal(signal.SIGTERM)
        assert autoscaler.process.wait(10) == 0
        assert "Traceback" not in autoscaler.log


def gateway_series(exposition: bytes) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The gateway's own samples by name and labels.

    Edges as numbers, which Go and Python write differently; names without the ending that the parser adds to
    counters.
    """
    return {
        (
            sample.name.removesuffix("_total"),
            frozenset(
                (label, str(float(value)) if label == "le" else value)
                for label, value in sample.labels.items()
            ),
        )
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
        if sample.name.startswith("gateway_")
    }


@pytest.mark.e2e
@missing("gateway")
def test_the_platforms_metrics_are_the_real_gateways(tmp_path):
    handler = tmp_path / "sleeper"
    handler.mkdir()
    (handler / "handler.py").write_text(HANDLER)
    with (
        local_platform(
            "--no-prometheus", "--no-autoscaler", "--image", f"sleeper:latest={handler}"
        ) as provider,
        real_gateway(provider, tmp_path),
    ):
        body = json.dumps(FUNCTION).encode()
        assert call(f"{GATEWAY}/system/functions", method="POST", body=body)[0] == 202
        # Each is held until there is a replica.
        for path in ("sleeper", "sleeper.openfaas-fn", "sleeper/below?a=b"):
            assert call(f"{GATEWAY}/function/{path}", method="POST", body=b"x") == (200, b"x")

        def exposed() -> list[set[tuple[str, frozenset[tuple[str, str]]]]]:
            return [
                gateway_series(call(f"{url}/metrics")[1]) for url in (f"http://{GATEWAY_METRICS}", provider)
            ]

        # The gateway asks for the functions every five seconds.
        until(
            lambda: any(name == "gateway_service_count" for name, _ in exposed()[0]), "it knows the function"
        )
        theirs, ours = exposed()
        assert theirs == ours
