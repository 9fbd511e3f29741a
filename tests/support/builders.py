"""Values and hypothesis strategies that the autoscaler's tests share."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from hypothesis import strategies as st

from slo_autoscaler.config import Config
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.need import POLICIES
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.spec import ScaleDown, ScaleUp, Spec, Timing
from slo_autoscaler.signals.record import INPUTS, Observation

MINIMAL = """
platform: {gateway_url: "http://gateway:8080"}
prometheus: {url: "http://prometheus:9090"}
"""

NAME = "vision.openfaas-fn"

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
)
"""A short YAML text that stands for a hundred million nodes."""


EVERY_INPUT: dict[str, float | None] = {
    **dict.fromkeys(INPUTS, 3.0),
    "expected": 310.0,
    "predicted": 0.007,
    "predicted_fewer": 0.021,
    "predicted_more": 0.002,
    "allowed": 0.01,
    "unspent": 0.4,
    "start_up": 10.0,
    "capacity": 95.0,
    "correction": 1.81,
    "p99": 0.18,
    "slo_latency": 0.2,
    "slo_objective": 0.99,
    "attainment": 0.9725,
}


def a_told_decision(**changes: Any) -> dict[str, Any]:
    """Return a decision as the journal tells it."""
    return {
        "time": "2026-01-02T12:03:05.123+00:00",
        "function_name": NAME,
        "mode": "active",
        "from": 2,
        "to": 4,
        "action": "up",
        "reason": "LoadAboveCapacity",
        "inputs": EVERY_INPUT,
    } | changes


def remembering(memory: Memory, **changes: Any) -> Memory:
    """Return the memory with other fields, each in the part that has it."""
    for name, value in changes.items():
        for part in fields(memory):
            inner = getattr(memory, part.name)
            if part.name == name:
                memory = replace(memory, **{name: value})
            elif is_dataclass(inner) and name in {each.name for each in fields(inner)}:
                memory = replace(memory, **{part.name: replace(inner, **{name: value})})
    return memory


def a_spec(**changes: Any) -> Spec:
    """Return the spec of the default configuration, with changes to it and to its timing."""
    spec = Config.parse(MINIMAL, "test").target(NAME)
    timing = {field.name: changes.pop(field.name) for field in fields(Timing) if field.name in changes}
    return replace(spec, timing=replace(spec.timing, **timing), **changes)


def seen(**changes: Any) -> Observation:
    """Return a healthy observation: 100/s on replicas of 100/s each, within the SLO."""
    healthy = Observation(
        rate=100.0,
        in_flight=2.0,
        in_flight_growth=0.0,
        queue_length=0.0,
        capacity=100.0,
        p95=0.08,
        p99=0.09,
        attainment=1.0,
        samples=3000.0,
        service_time_single=0.025,
        slo_latency=0.1,
        slo_objective=0.99,
        up_replicas=2.0,
        sample_age=1.0,
    )
    return replace(healthy, **changes)


_small = st.floats(0, 1e4, allow_nan=False)
_maybe = st.none() | _small

observations = st.builds(
    Observation,
    rate=_small,
    rate_now=_maybe,
    gateway_rate_now=_maybe,
    direct_rate=_maybe,
    in_flight=_maybe,
    in_flight_growth=st.none() | st.floats(-1e3, 1e3),
    queue_length=_maybe,
    capacity=st.none() | st.just(0.0) | st.floats(0.1, 1e3),
    concurrency=st.none() | st.floats(0, 1e3),
    p95=st.none() | st.floats(0, 10),
    p99=st.none() | st.floats(0, 10),
    attainment=st.none() | st.floats(0, 1),
    burn_short=st.none() | st.floats(0, 1000),
    budget_remaining=st.none() | st.floats(-2, 1),
    samples=_maybe,
    service_time_single=st.none() | st.floats(0, 10),
    process_start_up=st.none() | st.floats(0, 1000),
    service_mean=st.none() | st.floats(0, 10),
    queue_mean=st.none() | st.floats(0, 10),
    slo_latency=st.floats(0.001, 5),
    slo_objective=st.floats(0.5, 0.9999),
    up_replicas=st.integers(1, 20).map(float),
    sample_age=st.floats(0, 20),
)
"""With data and an SLO; signals beyond that may be missing."""

limits: dict[str, Any] = {
    "max_factor": st.floats(1, 4),
    "max_step": st.integers(1, 5),
    "cooldown": st.sampled_from([0.0, 7.0, 30.0]),
}

specs = st.builds(
    a_spec,
    policy=st.sampled_from(sorted(POLICIES)),
    utilization_target=st.floats(0.1, 1),
    tolerance=st.sampled_from([0.0, 0.1, 0.3]),
    min_samples=st.sampled_from([1, 20]),
    min_replicas=st.integers(1, 3),
    max_replicas=st.integers(3, 30),
    start_up_time=st.sampled_from([0.0, 3.0, 30.0]),
    scale_to_zero_after=st.sampled_from([None, 30.0, 90.0]),
    scale_up=st.builds(ScaleUp, **limits),
    scale_down=st.builds(ScaleDown, stabilization_window=st.sampled_from([0.0, 20.0, 60.0]), **limits),
)

scales = st.builds(
    Scale,
    desired=st.integers(1, 20),
    available=st.integers(0, 20),
    min=st.none() | st.integers(0, 5),
    max=st.none() | st.integers(0, 30),
    cap=st.none() | st.integers(1, 10),
)
