"""``openslo``: what it prints of the functions that a real Prometheus scrapes."""

import yaml

from slo_autoscaler.__main__ import main
from slo_autoscaler.cli.openslo import document
from support.doubles import a_fleet, a_prometheus
from support.waits import until
from tailbound_lab.local.ports import free_ports


def test_document_is_an_openslo_ratio_of_counters():
    slo = document(("my-model.shop", "fast", 0.1, 0.99))
    assert (slo["apiVersion"], slo["kind"], slo["metadata"]["name"]) == (
        "openslo/v1",
        "SLO",
        "my-model-shop-fast",
    )
    ratio = slo["spec"]["indicator"]["spec"]["ratioMetric"]
    good, total = (ratio[key]["metricSource"]["spec"]["query"] for key in ("good", "total"))
    assert total == 'sum(slo_requests_total{function_name="my-model.shop",slo_class="fast"})'
    assert good == 'sum(slo_requests_total{function_name="my-model.shop",slo_class="fast",outcome="good"})'
    assert slo["spec"]["objectives"][0]["target"] == 0.99


def test_document_of_a_class_with_quotes_in_its_name_selects_nothing_else():
    slo = document(("liar.shop", 'x"} or slo_requests_total{function_name="victim.shop', 0.1, 0.99))
    total = slo["spec"]["indicator"]["spec"]["ratioMetric"]["total"]["metricSource"]["spec"]["query"]
    selector = r"x\"} or slo_requests_total{function_name=\"victim.shop"
    assert total == f'sum(slo_requests_total{{function_name="liar.shop",slo_class="{selector}"}})'


def test_openslo_prints_the_declaration_of_each_function(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    with a_fleet(slo=0.1) as fleet, a_prometheus(tmp_path, {"a.fn": [fleet.address]}) as prometheus:
        config.write_text(f"platform: {{kind: kubernetes}}\nprometheus: {{url: {prometheus.url}}}\n")
        until(lambda: main(["openslo", "a", "--config", str(config)]) == 0, "the function is scraped")
        assert main(["openslo", "a", "--namespace", "other", "--config", str(config)]) == 1
    (slo,) = yaml.safe_load_all(capsys.readouterr().out)
    assert slo["metadata"]["displayName"].startswith("a.fn")
    assert slo["spec"]["timeWindow"] == [{"duration": "30d", "isRolling": True}]


def test_openslo_without_prometheus_is_status_1_and_says_so(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    config.write_text(f"platform: {{kind: kubernetes}}\nprometheus: {{url: {url}}}\n")
    assert main(["openslo", "--config", str(config)]) == 1
    assert url in capsys.readouterr().err
