"""Comparisons that are made of several runs."""

import pytest

from tailbound_lab.bench.replica.compare import with_others
from tailbound_lab.load.records import BenchError


def results(*workloads: str, machine: str = "2 cores") -> dict:
    return {
        "machine": machine,
        "workers": 2,
        "effort": "full",
        "offline": dict.fromkeys(workloads, 1.0),
        "measurements": [{"system": "slo", "workload": name} for name in workloads],
    }


def test_other_workloads_of_the_last_run_are_kept_and_the_same_ones_are_not():
    kept = with_others(results(), results("tabular", "text"), ["text"])
    assert kept["offline"] == {"tabular": 1.0}
    assert [found["workload"] for found in kept["measurements"]] == ["tabular"]


def test_what_another_machine_measured_can_not_be_added_to():
    with pytest.raises(
        BenchError, match="--add: the last comparison had machine '64 cores', this one '2 cores'"
    ):
        with_others(results(), results("tabular", machine="64 cores"), ["text"])
