"""docs/howto/streams.md on a real node: a platform passes on each piece before the next one is made."""

import pytest

from node import knative, openfaas
from node.cluster import Guide, guide, kubectl, start, unused, wait_for
from node.test_boost import image_of

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600)]

HANDLER = """\
import time

opened = []


def start(events, context):
    opened.extend(event.body for event in events if event.body.startswith(b"open "))
    return [{"name": event.body, "pieces": 0} for event in events]


def step(states, context):
    time.sleep(0.01)
    results = []
    for state in states:
        if state["name"].startswith(b"open "):
            results.append(("opened", True))
        elif state["pieces"] and b"open " + state["name"] not in opened:
            results.append((None, False))
        else:
            state["pieces"] += 1
            results.append((f"piece {state['pieces']}", state["pieces"] == 2))
    return results
"""
"""A stream's second piece is made once another request has asked for it."""

CLIENT = """\
import json, sys, urllib.request

def call(body):
    headers = {"Accept": "text/event-stream"}
    return urllib.request.urlopen(urllib.request.Request(sys.argv[1], body, headers), timeout=300)

with call(b"a") as stream:
    events = [stream.readline()]
    with call(b"open a") as other:
        other.read()
    events += stream.readlines()
print(json.dumps([event.decode().strip() for event in events if event.strip()]))
"""


def sample(follower: Guide) -> None:
    folder = follower.clone / "functions/gated"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    (folder / "requirements.txt").write_text("")


def test_stream_on_knative_brings_each_piece_before_the_next_one_is_made(tmp_path):
    knative.needs_knative()
    with guide("knative-class", tmp_path) as follower:
        sample(follower)
        try:
            knative.deploy(follower, "gated", own_class=False)
            client = start("default", "client", knative.IMAGE, CLIENT, knative.url())
            assert client.lines() == [["data: piece 1", "data: piece 2"]]
        finally:
            kubectl("delete", "ksvc", "my-model", "--ignore-not-found")


def test_stream_on_openfaas_brings_each_piece_before_the_next_one_is_made(tmp_path):
    ours = ("openfaas", "openfaas-fn")
    unused(*ours)
    with guide("openfaas", tmp_path) as follower:
        sample(follower)
        try:
            follower.follow("1. The platform")
            kubectl("--namespace=openfaas", "rollout", "status", "deployment/gateway", "--timeout=5m")
            openfaas.function(follower, "gated")
            wait_for("the first replica", lambda: openfaas.counts() == (1, 1))
            image = image_of("openfaas-fn", "my-model")
            client = start("openfaas-fn", "client", image, CLIENT, openfaas.URL)
            assert client.lines() == [["data: piece 1", "data: piece 2"]]
        finally:
            follower.remove(*ours)
