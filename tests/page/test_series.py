"""Time series: the queries are PromQL, the columns stand on one grid."""

import math
import shutil
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.errors import SourceError
from slo_autoscaler.model import Slo
from slo_autoscaler.web import charts as series

WINDOWS = {"rate_window": 20.0, "window": 30.0}
SLO = Slo(0.25, 0.95)


def every_query():
    texts = {
        **series.lines(series.CHARTS),
        **{f"gateway.{key}": text for key, text in series.lines(series.GATEWAY_CHARTS).items()},
        **series.LEARNED,
    }
    return series.filled(texts, "vision.openfaas-fn", **WINDOWS, slo=SLO)


def test_every_query_is_of_this_function_alone_and_nothing_is_left_to_fill_in():
    for key, text in every_query().items():
        assert "$" not in text, key
        if key != "gateway.latency.target":
            assert text.count('function_name="vision.openfaas-fn"') == text.count("{"), key


def test_prometheus_understands_every_query(tmp_path):
    promtool = shutil.which("promtool")
    assert promtool, "promtool must be installed: make install does so"
    rules = [{"record": f"q{number}", "expr": text} for number, text in enumerate(every_query().values())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    command = [promtool, "check", "rules", "--lint=none", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_name_with_quotes_stays_a_name():
    (text,) = series.filled({"x": "up{$F}"}, 'a"} or up{b="', **WINDOWS).values()
    assert text == 'up{function_name="a\\"} or up{b=\\""}'


def test_the_gateways_charts_are_for_functions_without_a_watchdog():
    assert series.charts(None) is series.CHARTS
    assert series.charts(SLO) is series.GATEWAY_CHARTS
    assert every_query()["gateway.latency.target"] == "vector(0.25)"


@given(st.sampled_from(list(series.SPANS.values())), st.floats(0.1, 60), st.floats(1e9, 2e9))
def test_a_grid_is_on_whole_steps_ends_now_and_is_no_finer_than_scrapes(span, scrape, now):
    at = series.grid(span, scrape, now)
    assert at.start % at.step == at.end % at.step == 0
    assert now - at.step < at.end <= now
    assert at.step >= scrape
    assert at.times[0] == at.start
    assert at.times[-1] == at.end
    assert 2 <= at.length <= series.POINTS + 1


@given(
    st.lists(st.integers(0, 9), unique=True),
    st.sampled_from([1, 15, 90]),
)
def test_a_column_has_values_where_there_were_points_and_none_elsewhere(indices, step):
    at = series.Grid(1000 * step, step, 10)
    column = series.column([(at.times[index], float(index)) for index in sorted(indices)], at)
    assert column == [float(index) if index in indices else None for index in range(10)]


def test_nan_and_points_outside_are_no_data():
    at = series.Grid(100, 10, 3)
    assert series.column([(90, 1.0), (100, math.nan), (110, 2.0), (140, 3.0)], at) == [None, 2.0, None]


def test_a_document_has_every_line_of_every_chart():
    at = series.Grid(100, 10, 3)
    found = series.document(series.CHARTS, {"load.good": [(110, 5.0)]}, at)
    assert [chart["key"] for chart in found["charts"]] == [chart.key for chart in series.CHARTS]
    good = found["charts"][0]["lines"][1]
    assert (good["key"], good["values"]) == ("good", [None, 5.0, None])
    assert found["times"] == [100, 110, 120]


@pytest.mark.parametrize("answer", [None, {}, [{}], [{"values": [[1]]}], [{"values": [["x", "y"]]}]])
def test_an_answer_that_makes_no_sense_is_said_to_be_so(answer):
    with pytest.raises(SourceError, match="expected"):
        series.points(answer)


@pytest.mark.parametrize("answer", [None, [{}], [{"metric": {}, "value": [1, "x"]}]])
def test_so_is_one_of_now(answer):
    with pytest.raises(SourceError, match="expected"):
        series.values(answer, "size")


def test_values_are_by_label_and_without_nan():
    answer = [
        {"metric": {"size": "1"}, "value": [0, "0.5"]},
        {"metric": {"size": "2"}, "value": [0, "NaN"]},
        {"metric": {}, "value": [0, "3"]},
    ]
    assert series.values(answer, "size") == {"1": 0.5, "": 3.0}


def test_the_profile_is_by_size_with_the_throughput_of_all_workers():
    found = {"predicted": {"8": 0.1, "1": 0.02, "x": 1.0}, "workers": {"": 2.0}, "capacity": {}}
    assert series.profile(found) == {
        "workers": 2,
        "capacity": None,
        "sizes": [
            {"size": 1, "seconds": 0.02, "throughput": 100.0},
            {"size": 8, "seconds": 0.1, "throughput": 160.0},
        ],
    }
