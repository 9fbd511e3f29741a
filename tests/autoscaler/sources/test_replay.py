"""A recording is given back line by line."""

import pytest

from slo_autoscaler.errors import SourceError
from slo_autoscaler.signals import Observation
from slo_autoscaler.sources.replay import ReplaySource


def test_each_call_gives_the_next_line_and_the_end_is_an_error():
    source = ReplaySource(['{"a.fn": {"rate": 3.0, "p95": null}}', "{}"])
    assert source.observe() == {"a.fn": Observation(rate=3.0)}
    assert source.observe() == {}
    with pytest.raises(SourceError, match="ended"):
        source.observe()


def test_nothing_is_known_from_before_a_recording():
    source = ReplaySource(["{}"])
    assert (source.history(60.0), source.earlier([3600.0], 60.0)) == ({}, {})


@pytest.mark.parametrize("line", ["{", "[]", '{"a.fn": 3}', '{"a.fn": {"speed": 3}}'])
def test_a_line_that_is_no_recording_is_named(line):
    with pytest.raises(SourceError, match="line 1 of the recording"):
        ReplaySource([line]).observe()
