"""The day that ``bench node`` plays, what it makes of a recording, and how it asks the API server."""

import json
from contextlib import closing

import pytest
from kubernetes import client

from support.doubles import Server, panic, status
from support.waits import until
from tailbound_lab.bench import node
from tailbound_lab.load.records import BenchError

ARM = node.Arm("ours", "model", "http://model", "true", "true")
PLAN = node.Plan("shop", "python", 0.5, (ARM,))


@pytest.fixture
def api():
    """An API server with documents by the end of their path; it hangs up on other paths."""
    documents, asked = {}, []

    def answer(handler):
        asked.append(f"{handler.command} {handler.path}")
        found = next((body for end, body in documents.items() if handler.path.endswith(end)), None)
        fault = panic if found is None else status(200, json.dumps(found).encode(), Connection="close")
        handler.close_connection = True
        fault(handler)

    with closing(Server(answer)) as server:
        settings = client.Configuration()
        settings.host = f"http://{server.address}"
        client.Configuration.set_default(settings)
        yield documents, asked
    client.Configuration.set_default(None)


def test_day_has_its_peak_its_jump_and_its_night_whatever_its_length():
    for seconds in (300.0, 1200.0, 3600.0):
        rates = [rate for rate, _ in node.phases(seconds)[1:]]
        assert max(rates) == max(rate for _, rate in node.DAY)
        assert rates[-1] == node.DAY[-1][1]
        assert sum(length for _, length in node.phases(seconds)) == seconds + node.WARM_UP


def test_arm_counts_what_was_sent_in_the_day_and_integrates_its_replicas():
    sent = [(-10, [20]), (0, [20, 600, -1]), (15, [30])]
    log = [json.dumps([node.WARM_UP + at, found]) for at, found in sent]
    samples = [node.Sample(1000.0 + at, 1 + at // 10, 1 + at // 15, 0.25, 2.0 + at) for at in range(21)]
    row = node.row(ARM, log, samples, begin=1000.0, seconds=20.0, slo=0.5)
    assert (row["sent"], row["late"]) == (4, 0.5)
    assert (row["replica_seconds"], row["cpu_seconds"], row["changes"]) == (25, 20.0, 2)
    assert [(each["good"], each["late"], each["failed"]) for each in row["course"]] == [(1, 1, 1), (1, 0, 0)]


def test_samples_go_on_after_an_api_server_that_hung_up(api):
    documents, asked = api
    with node.watching(PLAN, ARM) as samples:
        until(lambda: len(asked) > 8, "a look after one that failed")
        documents["/pods"] = {"items": []}
        documents["/model"] = {
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"readyReplicas": 1},
        }
        until(lambda: samples, "a sample comes")
    assert (samples[0].wanted, samples[0].ready) == (2, 1)


@pytest.mark.parametrize("missing", [range(21), range(3, 14), range(11), range(10, 21)])
def test_arm_whose_samples_have_a_gap_is_refused(missing):
    samples = [node.Sample(1000.0 + at, 1, 1, 0.25, 2.0) for at in range(21) if at not in missing]
    with pytest.raises(BenchError, match="ours"):
        node.row(ARM, [], samples, begin=1000.0, seconds=20.0, slo=0.5)


def test_arms_are_read_from_the_file_and_another_is_refused_by_its_name(tmp_path):
    assert "Tailbound" in {arm.name for arm in node.read(node.ARMS).arms}
    wrong = tmp_path / "arms.yaml"
    wrong.write_text("arms: [{name: x}]")
    with pytest.raises(BenchError, match=r"arms\.yaml"):
        node.read(wrong)


def test_arm_whose_begin_fails_halfway_is_taken_away(tmp_path):
    made = tmp_path / "made"
    arm = node.Arm("ours", "model", "http://model", f"touch {made}; echo no cluster; exit 3", f"rm {made}")
    with pytest.raises(BenchError, match="ours: status 3\nno cluster"):
        node.play(PLAN, arm, 20.0)
    assert not made.exists()


def test_load_whose_pod_stays_pending_is_given_up_with_the_reason_and_deleted(api):
    documents, asked = api
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}
    container = {
        "name": "load",
        "image": "python",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": waiting,
    }
    pod = {"status": {"phase": "Pending", "containerStatuses": [container]}}
    documents |= {"/pods": pod, "/pods/bench-load": pod}
    with (
        pytest.raises(BenchError, match="ErrImagePull no such host"),
        node.sending(PLAN, ARM, "", patience=0.0),
    ):
        pass
    assert asked[-1] == "DELETE /api/v1/namespaces/shop/pods/bench-load"
