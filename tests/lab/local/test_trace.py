"""One request is found again by its X-Call-Id: from the gateway's answer to the batch that it was in."""

import asyncio
import json

import pytest

from lab.local.harness import platform_client
from tailbound_lab.local.platform import WATCHDOG

pytestmark = pytest.mark.e2e

HANDLER = """
import time

def handle_batch(events, context):
    time.sleep(1.3 if any(event.body == b"long" for event in events) else 0.15)
    return [b"done" for _ in events]

def example():
    return b"short"
"""


def test_a_slow_and_a_shed_request_are_traced_from_the_gateway_to_the_batch(tmp_path):
    async def run():
        async with asyncio.timeout(50), platform_client(tmp_path, replica_command=WATCHDOG) as client:
            (tmp_path / "handler" / "handler.py").write_text(HANDLER)
            environment = {"slo_latency": "1s", "workers": "1", "access_log": "true", "log_format": "json"}
            await client.deploy(envVars={**environment, "late_requests": "shed"})

            async def ask(body, **headers):
                answer = await client.call("POST", "/function/echo", data=body, headers=headers)
                return answer.headers.get("X-Call-Id"), answer.status

            together = await asyncio.gather(*(ask(b"short") for _ in range(3)))
            slow = asyncio.create_task(ask(b"long"))
            await asyncio.sleep(0.05)
            shed = asyncio.create_task(ask(b"short"))
            (slow_id, status), (shed_id, refused) = await slow, await shed
            assert (status, refused) == (200, 503)
            assert await ask(b"short", **{"X-Call-Id": "of-the-client"}) == (None, 200)

            of = {}
            while "of-the-client" not in of:  # a line and the answer that it is about come by different pipes
                answer = await client.call("GET", "/system/logs?name=echo")
                texts = [json.loads(line)["text"] for line in answer.body.splitlines()]
                lines = [json.loads(text) for text in texts if text.startswith("{")]
                of = {line["call_id"]: line for line in lines if line["event"] == "request"}
            assert (of[slow_id]["outcome"], of[slow_id]["level"]) == ("slow", "warning")
            assert of[slow_id]["seconds"] > 1.3
            assert of[slow_id]["queue_seconds"] < 1.0, "the model took the rest"
            assert of[slow_id]["batch_size"] == 1
            assert (of[shed_id]["outcome"], of[shed_id]["status"]) == ("shed", 503)
            assert of[shed_id]["reason"] == "predicted_late"
            assert "batch" not in of[shed_id], "it was in none"
            sizes = {}
            for call_id, _ in together:
                sizes.setdefault(of[call_id]["batch"], []).append(of[call_id]["batch_size"])
            assert sorted(sizes.values()) == [[1], [2, 2]], "who shared a batch has its number"
            assert of["of-the-client"]["outcome"] == "good", "an id of the client's own is kept"

    asyncio.run(run())
