"""The whole page on a real Prometheus with an hour of data: what it shows is what was there."""

import pytest

from page.serving import get_json
from page.stage import a_stage
from page.told import NAME


@pytest.mark.e2e
def test_the_page_of_a_running_autoscaler_shows_the_hour_that_prometheus_has(tmp_path):
    with a_stage(tmp_path, step=30) as url:
        _, fleet = get_json(url + "/api/functions")
        rows = {row["function_name"]: row for row in fleet["functions"]}
        assert rows[NAME]["slo_latency"] == 0.2
        assert rows[NAME]["budget"] == pytest.approx(0.62)
        assert rows["text.openfaas-fn"]["state"] == "missed"
        assert rows["text.openfaas-fn"]["mode"] == "shadow"
        assert rows["resize.openfaas-fn"]["state"] == "unknown"
        assert fleet["notices"][0]["text"].startswith("No usable data for 1 of 3 functions")

        _, shown = get_json(f"{url}/api/functions/{NAME}/series?span=1h")
        lines = {
            (chart["key"], line["key"]): [value for value in line["values"] if value is not None]
            for chart in shown["charts"]
            for line in chart["lines"]
        }
        assert max(lines["replicas", "serving"]) == 5
        assert lines["latency", "target"][-1] == 0.2
        assert max(lines["latency", "p99"]) > 0.2 > min(lines["latency", "p99"])
        assert 150 < max(lines["load", "offered"]) < 250
        assert [key for key, values in lines.items() if len(values) < 100] == []

        _, function = get_json(f"{url}/api/functions/{NAME}")
        assert [each["size"] for each in function["profile"]["sizes"]] == [1, 2, 4, 8]
        assert function["profile"]["capacity"] == 53.0
        _, shadow = get_json(f"{url}/api/functions/text.openfaas-fn")
        assert shadow["score"]["sentence"].startswith("text.openfaas-fn")
