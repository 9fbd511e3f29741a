"""Deployment bodies and stack files: what is read, and what is refused."""

import pytest

from tailbound_lab.local.errors import InvalidRequestError, StackError
from tailbound_lab.local.specs import (
    FunctionSpec,
    parse_deployment,
    parse_removal,
    parse_resize,
    parse_scale,
)
from tailbound_lab.local.stack import parse_stack

F = {"service": "f", "image": "i"}


PARSERS = (parse_deployment, parse_scale, parse_removal, parse_resize)
NO_CPUS = ("fast", "-1", "1Gi", "1.5m", "nan", "inf")
NO_LABELS = ("Upper", "under_score", "-edge", "edge-", "a.b", "a" * 64, "../a", "ü")


def resize(cpu):
    """Return the patch of a pod that asks for a CPU limit."""
    return {"spec": {"containers": [{"name": "f", "resources": {"limits": {"cpu": cpu}}}]}}


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        *(
            (parse, body)
            for parse in PARSERS
            for body in (None, [], {}, {"replicas": None, "functionName": 1})
        ),
        *((parse_deployment, body) for body in ({"service": "f"}, F | {"envVars": {"a": 1}})),
        *((parse_deployment, F | {key: name}) for key in ("service", "namespace") for name in NO_LABELS),
        *((parse_deployment, F | {"limits": {"cpu": cpu}}) for cpu in NO_CPUS),
        *((parse_resize, resize(cpu)) for cpu in NO_CPUS),
        *((parse_scale, {"serviceName": "f", "replicas": count}) for count in (-1, 1.5, "3", True, 10_001)),
    ],
)
def test_body_that_breaks_a_rule_is_refused(parse, body):
    with pytest.raises(InvalidRequestError):
        parse(body)


@pytest.mark.parametrize(
    ("cpu", "cpus"), [("500m", 0.5), ("0.25", 0.25), ("2", 2.0), ("0", None), (None, None)]
)
def test_cpu_limit_is_a_quantity_of_kubernetes_and_returns_to_clients(cpu, cpus):
    limits = {"memory": "1Gi"} | ({"cpu": cpu} if cpu else {})
    spec = parse_deployment(F | {"limits": limits})
    assert spec.cpus == cpus
    assert spec.status(replicas=1, available=1, invocations=0, created_at="")["limits"] == limits


def test_namespace_of_the_query_wins_over_the_body():
    assert parse_deployment(F | {"namespace": "body"}, "query").namespace == "query"
    for nothing in ({}, {"namespace": ""}, {"namespace": None}):
        assert parse_deployment(F | nothing).namespace == "openfaas-fn"


STACK = """
functions:
  tabular:
    lang: python3-inference
    handler: ./functions/tabular
    image: ${PREFIX:-local}/tabular:1.10
    environment: &common
      slo_objective: 0.990
      verbose: true
      mode: "${MODE:-a}${UNSET} $V"
    environment_file: [extra.yml]
    labels:
      com.openfaas.scale.min: 2
    fprocess: python index.py
  vision:
    handler: ./functions/vision
    namespace: staging
    environment:
      <<: *common
      workers: 1
    annotations: {topic: a}
    limits: {cpu: 2, memory: 1Gi}
"""


def test_values_of_a_stack_stay_the_text_that_they_were():
    def read_file(path):
        return "environment: {verbose: off, added: ${WHO}}"

    tabular, vision = parse_stack(STACK, {"WHO": "me", "MODE": "b", "PREFIX": ""}, read_file)
    common = {"slo_objective": "0.990", "mode": "b $V"}
    assert tabular.handler == "./functions/tabular"
    assert tabular.spec == FunctionSpec(
        "tabular",
        "local/tabular:1.10",
        env_process="python index.py",
        env_vars=common | {"verbose": "off", "added": "me"},
        labels={"com.openfaas.scale.min": "2"},
    )
    assert vision.spec == FunctionSpec(
        "vision",
        "vision:latest",
        "staging",
        env_vars=common | {"verbose": "true", "workers": "1"},
        annotations={"topic": "a"},
        limits={"cpu": "2", "memory": "1Gi"},
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("functions: {", "stack.yml"),
        ("functions: {}", "functions"),
        ("functions: {f: {image: i}}", "f: handler"),
        ("functions: {Bad_Name: {handler: h}}", "Bad_Name"),
        ("functions: {f: {handler: h, limits: {cpu: fast}}}", "f: limits.cpu"),
        ("functions: {f: {handler: ${A^^}}}", "${A^^}"),
        ("functions: {f: {handler: h, environment_file: [missing.yml]}}", "environment_file: missing.yml"),
        ("functions: {f: {handler: h}, f: {handler: i}}", "f: is given twice"),
        (
            "functions: {f: {handler: h, environment: {\na: 1,\na: 2}}}",
            "environment.a: is given twice, line 3",
        ),
        ("functions: {f: {handler: h, labels: {com.openfaas.scale.min: 1000000}}}", "f: labels.com.openfaas"),
    ],
)
def test_mistake_in_a_stack_is_named_with_its_place(tmp_path, text, place):
    with pytest.raises(StackError) as raised:
        parse_stack(text, {}, lambda path: (tmp_path / path).read_text())
    assert place in str(raised.value)
    assert "\n" not in str(raised.value)
