"""Reasons and numbers as text."""

import math
import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.model import Reason
from slo_autoscaler.show import words as shown
from slo_autoscaler.show.words import sentence
from slo_autoscaler.signals.record import INPUTS
from support.builders import EVERY_INPUT, a_told_decision

OF_INPUTS = {
    "p99": {0.142: "142 ms"},
    "expected": {310.0: "310/s"},
    "attainment": {0.9725: "97.25%"},
    "in_flight": {1204.0: "1,204"},
    "burn_rate": {15.2: "15.2"},
    "sampled_at": {1_795_770_185.4: "09:03:05"},
    "of_a_later_version": {3.5: "3.5"},
}
NUMBERS = {
    **{partial(shown.number, name): texts for name, texts in OF_INPUTS.items()},
    shown.seconds: {0.142: "142 ms", 0.0034: "3.4 ms", 1.254: "1.25 s", 0.9999: "1 s", 0.0: "0 ms"},
    # Never 100 per cent if something is missing; in a column with two places.
    shown.share: {
        1.0: "100%",
        0.999999: "99.99%",
        0.9931: "99.31%",
        0.5: "50%",
        0.0: "0%",
        # Late shares are small; what is left of a budget may be less than nothing.
        0.0213: "2.1%",
        0.01: "1%",
        0.00085: "0.085%",
        1e-7: "<0.001%",
        -0.3: "\N{MINUS SIGN}30%",
    },
    shown.attained: {1.0: "100%", 0.999999: "99.99%", 0.994: "99.40%"},
    shown.budget: {0.415: "42%", -0.3: "\N{MINUS SIGN}30%", 1.0: "100%"},
    shown.factor: {0.31: "0.31", 0.0: "0", 4.72: "4.7", 14.42: "14.4", 1204.6: "1,205", 9.96: "10"},
    shown.clock_time: {1_795_770_185.4: "09:03:05", 0.0: "00:00:00"},
}


@pytest.mark.parametrize(
    ("show", "value", "text"), [(show, *pair) for show, texts in NUMBERS.items() for pair in texts.items()]
)
def test_a_number_has_the_unit_and_the_digits_that_it_is_worth(show, value, text):
    assert show(value) == text


@given(
    show=st.sampled_from([*NUMBERS, shown.per_second, shown.count]),
    value=st.none() | st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([math.nan, math.inf]),
)
def test_any_number_is_short_without_exponent_and_an_unknown_one_a_dash(show, value):
    if value is not None and not math.isfinite(value) and isinstance(show, partial):
        return  # no input is
    text = show(value)
    assert (text == shown.NOTHING) == (value is None or not math.isfinite(value))
    assert "e" not in text.replace("ms", "")
    assert len(text) < 330


def test_a_target_is_the_share_and_the_latency():
    assert shown.target(0.2, 0.9995) == "99.95% ≤ 200 ms"
    assert shown.target(None, 0.99) == shown.NOTHING


@pytest.mark.parametrize("reason", [*(reason.value for reason in Reason), "OfALaterVersion"])
@pytest.mark.parametrize("inputs", [EVERY_INPUT, {}, dict.fromkeys(EVERY_INPUT)])
def test_every_sentence_can_be_said_with_all_numbers_and_with_none(reason, inputs):
    told = sentence(a_told_decision(reason=reason, inputs=inputs))
    assert not re.search(r"[{}]|None|nan", told)
    assert shown.clauses(reason)[0] in told


def test_sentence_has_the_detail_of_its_decision():
    told = sentence(a_told_decision(reason="Held", to=2, inputs={}, detail="until noon: freeze"))
    assert told.endswith("held vision.openfaas-fn at 2: an operator holds the count; until noon: freeze")


@pytest.mark.parametrize("streams", [True, False])
def test_sentence_names_the_piece_that_a_latency_is_of_only_where_a_function_streams(streams):
    inputs = {"p99": 0.3, "slo_latency": 0.5}
    if streams:
        inputs |= {"interval_p99": 0.04, "slo_interval": 0.05}
    told = sentence(a_told_decision(reason="DesiredWithinRange", inputs=inputs))
    assert "p99 300 ms of 500 ms" in told
    assert ("first piece" in told) == ("interval p99 40 ms of 50 ms" in told) == streams


def test_first_clauses_need_no_number_and_the_others_know_the_inputs():
    counts = {"count", "count_fewer", "count_more"}
    for first, *others in (reason.clauses for reason in Reason):
        assert "{" not in first
        assert set(re.findall(r"\{(\w+)\}", " ".join(others))) <= INPUTS.keys() | counts


def test_reasons_give_the_numbers_that_they_compare_and_no_other_limit():
    """A predicted share above the allowed one is no fault where the price decides."""
    compared = {
        Reason.NOT_WORTH_A_REPLICA: {"predicted", "predicted_more", "worth"},
        Reason.SCALE_DOWN_UNSAFE: {"late", "allowed"},
        Reason.STILL_LATE: {"late", "allowed"},
    }
    limits = {"predicted", "late", "allowed", "worth"}
    for reason, names in compared.items():
        numbers = set(re.findall(r"\{(\w+)\}", " ".join(reason.clauses)))
        assert names <= numbers
        assert numbers & limits == names & limits


@pytest.mark.parametrize(
    ("inputs", "cause", "told"),
    [
        ({}, "", "no sample"),
        ({"sample_age": 0.04}, "", "rate of requests is not known"),
        ({"sample_age": 0.04, "arrival_rate": 1.0, "up_replicas": 0.0}, "", "reaches none"),
        ({"sample_age": 90.0, "arrival_rate": 1.0, "up_replicas": 1.0}, "", "max_age"),
        ({}, "http://p: connection refused", "http://p: connection refused"),
    ],
)
def test_sentence_of_no_data_names_the_cause(inputs, cause, told):
    assert told in sentence(a_told_decision(reason="NoData", to=2, inputs=inputs, cause=cause))


def test_score_without_a_request_is_the_replica_seconds_alone():
    numbers = {"seconds": 60.0, "requests": 0.0}
    for who in ("incumbent", "shadow"):
        numbers |= {f"replica_seconds_{who}": 120.0, f"attained_{who}": 0.0}
    assert "within the SLO" not in shown.score("a.fn", numbers)
