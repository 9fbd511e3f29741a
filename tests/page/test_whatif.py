"""Questions to the simulator: what may be asked, what is answered, and what becomes of one that cannot be."""

import json
import sys

import pytest

from page.told import NAME, a_hold
from slo_autoscaler.config import Config
from slo_autoscaler.errors import SourceError
from slo_autoscaler.web import rows as fleet
from slo_autoscaler.web import whatif
from slo_autoscaler.web.whatif import Question, WhatIf, WhatIfError, asked, verdict
from tailbound_lab.simulate.catalog import SCALERS

NOW = Question(10, 0.2, "slo")
CONFIG = Config.parse(
    """
platform: {gateway_url: "http://127.0.0.1:1"}
prometheus: {url: "http://127.0.0.1:1", scrape_interval: 5s}
functions: {resize.openfaas-fn: {signals: gateway, slo_latency: 500ms}}
""",
    "test",
)


class Answers:
    """Stands for the reader: ten minutes in which a load doubled."""

    def __init__(self, rate=100.0, predicted=None):
        self.rate = rate
        self.predicted = {"1": 0.028, "4": 0.0755} if predicted is None else predicted
        self.end = 1_000_000

    def now(self):
        return float(self.end)

    def ranges(self, queries, at):
        times = [when for when in at.times if when > self.end - 600]
        return {
            "rate": [(when, self.rate * (1 + (when > self.end - 300))) for when in times],
            "replicas": [(when, 4.0) for when in times],
        }

    def instants(self, queries, label=""):
        if "predicted" in queries:
            return {"predicted": self.predicted, "workers": {"": 1.0}, "capacity": {"": 53.0}}
        return {"attainment": {"": 0.98}, "p50": {"": 0.06}, "p95": {"": 0.15}, "p99": {}}


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ([], "must be a JSON object"),
        ({"replicas": 3}, "replicas: unknown; known are max_replicas, policy, slo_latency"),
        ({"max_replicas": 0}, "max_replicas: 0 must be a whole number from 1 to 200"),
        ({"max_replicas": True}, "max_replicas: True must be"),
        ({"slo_latency": "1"}, "slo_latency: '1' must be seconds"),
        ({"policy": "none"}, "policy: 'none' must be one of slo, "),
        ({"policy": ["slo"]}, r"policy: \['slo'\] must be one of"),
    ],
)
def test_a_question_that_makes_no_sense_is_named_with_the_rule(document, rule):
    with pytest.raises(WhatIfError, match=rule) as caught:
        asked(document, NOW)
    assert caught.value.status == 400


def test_what_a_question_does_not_name_stays_as_it_is():
    assert asked({"max_replicas": 5}, NOW) == Question(5, 0.2, "slo")
    assert asked({}, NOW) == NOW


def test_every_policy_that_is_offered_can_be_simulated():
    assert set(whatif.POLICIES) <= set(SCALERS)


def a_run(attainment, replica_seconds):
    return {"attainment": attainment, "replica_seconds": replica_seconds}


def test_the_verdict_says_what_was_changed_and_what_came_of_it():
    text = verdict(NOW, Question(5, 0.15, "kpa"), [a_run(0.995, 1000.0), a_run(0.97, 880.0)], 0.99)
    assert text.startswith(
        "With at most 5 replicas instead of 10 and an SLO of 150 ms instead of 200 ms and policy kpa instead"
        " of slo, 97 % of the requests would have been within 150 ms, instead of 99.5 % within 200 ms"
    )
    assert "the objective of 99 % would have been missed" in text
    assert text.endswith("12 % fewer replica-seconds.")


def test_a_question_that_changes_nothing_is_answered_so():
    assert "Nothing is changed" in verdict(NOW, NOW, [a_run(1.0, 1.0)] * 2, 0.99)


def row(name=NAME, **inputs):
    return fleet.row(a_hold(name, inputs))


def test_the_last_hour_is_replayed_as_it_is_and_as_asked():
    found = WhatIf(CONFIG, Answers()).answer(row(), {"max_replicas": 2})
    before, after = found["runs"]
    assert (before["max_replicas"], after["max_replicas"]) == (10, 2)
    assert max(after["desired"]) == 2
    assert before["attainment"] > after["attainment"]
    assert before["replica_seconds"] > after["replica_seconds"]
    for key in ("desired", "attained", "offered", "p99_seen"):
        assert len(found["times"]) == len(before[key]) == len(after[key])
    assert max(filter(None, after["p99_seen"])) > 0.2 > before["p99_seen"][-1]
    assert found["seconds"] == pytest.approx(600, abs=10)
    assert found["measured"]["attainment"] == 0.98
    assert found["measured"]["p99"] is None
    assert found["verdict"].startswith("With at most 2 replicas instead of 10")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (Answers(predicted={}), "Nothing is learned of its service times"),
        (Answers(rate=0.0), "Nothing has come in"),
        (Answers(rate=1e6), "more than can be replayed while you wait"),
    ],
)
def test_what_cannot_be_replayed_is_said(answers, words):
    with pytest.raises(WhatIfError, match=words) as caught:
        WhatIf(CONFIG, answers).answer(row(), {})
    assert caught.value.status == 422


def test_a_function_without_a_watchdog_cannot_be_asked_about():
    what_if = WhatIf(CONFIG, Answers())
    assert "batching watchdog" in what_if.why_not(row("resize.openfaas-fn"))
    assert "no SLO" in what_if.why_not(row(slo_latency=None))
    assert what_if.why_not(row()) is None


def test_without_the_simulator_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(whatif, "EXTRA", "no_such_package")
    with pytest.raises(WhatIfError, match="pip install 'tailbound-lab'") as caught:
        WhatIf(CONFIG, Answers()).answer(row(), {})
    assert caught.value.status == 501


def test_a_simulation_that_takes_too_long_is_given_up():
    with pytest.raises(WhatIfError, match=r"took longer than 0\.01 s") as caught:
        WhatIf(CONFIG, Answers(), timeout=0.01).answer(row(), {})
    assert caught.value.status == 504


class Asking(Answers):
    """Asks another question while the first is being answered."""

    def now(self):
        with pytest.raises(WhatIfError, match="Another question") as caught:
            self.what_if.answer(row(), {})
        assert caught.value.status == 409
        raise SourceError("enough")


def test_one_question_is_answered_at_a_time():
    answers = Asking()
    answers.what_if = WhatIf(CONFIG, answers)
    with pytest.raises(SourceError, match="enough"):
        answers.what_if.answer(row(), {})


def test_what_the_simulator_refuses_is_told_in_its_words():
    with pytest.raises(WhatIfError, match="cannot be simulated"):
        WhatIf(CONFIG, Answers(predicted={"1": 0.0, "2": 0.0})).answer(row(), {})


def test_a_process_that_dies_is_no_answer(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WhatIfError, match="ended without an answer") as caught:
        WhatIf(CONFIG, Answers()).answer(row(), {})
    assert caught.value.status == 503


def test_nothing_is_answered_after_the_end():
    what_if = WhatIf(CONFIG, Answers())
    what_if.close()
    with pytest.raises(WhatIfError, match="stopping"):
        what_if.answer(row(), {})
