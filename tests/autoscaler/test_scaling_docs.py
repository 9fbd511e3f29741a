"""docs/scaling.md is complete: every reason, signal and input, and the queries as asked."""

import re
from pathlib import Path

from autoscaler.values import a_spec, seen
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.sources import promql
from slo_autoscaler.sources.promql import GATEWAY_SIGNALS, HISTORY, RECORDED, SIGNALS
from slo_autoscaler.spec import GatewaySlos, Slo

ROOT = Path(__file__).parents[2]
SCALING = (ROOT / "docs" / "scaling.md").read_text().replace(r"\|", "|")
CODE = set(re.findall(r"`([^`\n]+)`", SCALING))


def test_every_reason_is_explained():
    assert {reason.value for reason in Reason} <= CODE


def test_every_signal_is_explained():
    assert SIGNALS.keys() | RECORDED.keys() | GATEWAY_SIGNALS.keys() <= CODE


def test_every_input_of_a_decision_is_named():
    scale = Scale(2, 2)
    decision, _ = decide(a_spec(), seen(), scale, TargetState.initial(a_spec(), scale, 0.0), 1.0)
    assert decision.inputs.keys() <= CODE


def test_the_queries_are_those_that_are_asked():
    """Of the quantiles only p99 stands there."""
    gateway = promql.gateway_queries(1.0, 1.0, GatewaySlos(others=Slo(1.0, 0.9)))
    assert gateway.keys() - GATEWAY_SIGNALS.keys() == {"attainment", "attainment_short"}
    signals = [
        (signal, text)
        for asked in (SIGNALS, RECORDED, HISTORY, GATEWAY_SIGNALS)
        for signal, text in asked.items()
    ]
    for part in ("BUCKETS", "GATEWAY_BUCKETS", "JUDGED"):
        value = getattr(promql, f"_{part}")
        signals = [(signal, text.replace(f"${part}", value)) for signal, text in signals]
    assert not {text for signal, text in signals if signal not in ("p50", "p95")} - CODE
