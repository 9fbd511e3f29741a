"""SLO classes on a running watchdog: which request is served first, and what each counts as."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.processes import GATED, watchdog
from support.waits import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CLASSES = "interactive=100s, standard=300s, batch=1000s, instant=1us"
RECORDING = GATED.replace(
    "    return event.body",
    """    with pathlib.Path(__file__).with_name("order").open("a") as order:
        order.write(event.body.decode() + "\\n")
    return event.body""",
)
"""Writes down what it has answered."""


def test_classes_are_served_by_their_deadlines_and_counted_apart():
    # Queued against the order in which they are to be served; what is late already comes last. The one with a
    # deadline of its own, before all others', goes before its own class alone.
    queued = ["instant", "batch", "standard", "interactive", "batch"]
    with (
        watchdog(RECORDING, max_batch_size="1", slo_classes=CLASSES, exec_timeout="1000s") as dog,
        ThreadPoolExecutor(len(queued) + 1) as pool,
    ):
        calls = [pool.submit(dog.call, body=b"none")]
        until(lambda: dog.metric('watchdog_workers{state="busy"}') == 1, "the worker is held")
        for number, name in enumerate(queued, 1):
            own = {"X-Deadline-Ms": "90000"} if number == len(queued) else {}
            body = name.encode() + b"!" * len(own)
            calls.append(pool.submit(dog.call, "POST", "/", body, {"X-SLO-Class": name, **own}))
            until(lambda number=number: dog.metric("watchdog_queue_length") == number, "it is queued")
        dog.open_gate()
        answers = [call.result() for call in calls]
        order = (dog.folder / "order").read_text().split()
        counted = {
            (name, outcome): dog.metric(f'slo_requests_total{{outcome="{outcome}",slo_class="{name}"}}')
            for name in {"default", *queued}
            for outcome in ("good", "slow")
        }
    assert order == ["none", "interactive", "standard", "batch!", "batch", "instant"]
    assert [answer.headers["X-SLO-Class"] for answer in answers] == ["default", *queued]
    assert {key for key, number in counted.items() if number} == {
        *((name, "good") for name in ("default", "interactive", "standard", "batch")),
        ("instant", "slow"),
    }
