"""The page's addresses over real sockets: statuses, headers, hosts, the same rows as HTML and JSON."""

import json
import re
from html import unescape
from urllib.parse import unquote

import pytest

from slo_autoscaler.show.web import views
from support.doubles import a_gateway, status
from support.serving import (
    INPUTS,
    NAME,
    SCORE,
    Told,
    a_decision,
    a_fleet,
    a_hold,
    a_page,
    a_quiet_prometheus,
    an_alert,
    get,
    get_json,
)

ODD, SHADOW = "odd<b>&.openfaas-fn", "shadow.openfaas-fn"


@pytest.fixture(scope="module")
def told():
    fleet = a_fleet(60)
    fleet.add(a_decision(time="2026-01-01T12:03:05.123+00:00"))
    fleet.add(a_hold(repeats=3))
    fleet.add(a_decision(SHADOW, mode="shadow", incumbent=3))
    fleet.scores[SHADOW] = SCORE
    fleet.add(a_hold("resize.openfaas-fn"))
    fleet.add(a_hold(ODD))
    return fleet


@pytest.fixture(scope="module")
def page(told):
    with a_quiet_prometheus() as prometheus, a_page(told, prometheus.url) as url:
        yield url


@pytest.fixture(scope="module")
def blind():
    with a_page(Told(a_hold())) as url:
        yield url


def text(body):
    """Return what stands on a page, without its tags."""
    return unescape(re.sub(r"<[^>]+>", "", body.decode()))


@pytest.mark.parametrize(
    ("path", "code", "kind"),
    [
        ("/", 200, "text/html"),
        (f"/functions/{NAME}", 200, "text/html"),
        ("/functions/vison.openfaas-fn", 404, "text/html"),
        ("/nowhere", 404, "text/html"),
        ("/api", 200, "application/json"),
        ("/api/functions", 200, "application/json"),
        (f"/api/functions/{NAME}", 200, "application/json"),
        ("/api/functions/vison.openfaas-fn", 404, "application/json"),
        ("/api/functions/none.fn/series", 404, "application/json"),
        ("/static/page.css", 200, "text/css"),
    ],
)
def test_an_address_answers_in_its_kind_and_lets_the_browser_load_nothing_from_elsewhere(
    page, path, code, kind
):
    found, headers, body = get(page + path)
    assert (found, headers["Content-Type"].partition(";")[0]) == (code, kind)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert not re.search("unsafe|http", policy)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert dict(headers).items() >= views.HEADERS.items()
    assert headers["Server"] is None
    assert headers["Cache-Control"] == ("no-cache" if kind == "text/css" else "no-store")
    if kind == "text/html":
        html = body.decode()
        assert not re.search(r'(src|href|action)="(?!/|#)', html), "only the page's own origin"
        assert not re.search(r"<style|<[^>]+\s(style|on\w+)=|<script(?![^>]*src=)", html)
        needed = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
        assert {get(page + each)[0] for each in needed} == {200}
    if code == 404 and kind == "application/json":
        assert json.loads(body)["error"]
    assert "vison" not in path or NAME in body.decode(), "a similar name is suggested"
    assert get(page + path, "POST")[0] == 405 or code == 404, "nothing can be changed"


@pytest.mark.parametrize(
    "query", ["", "q=vision+held&sort=function&sort=-function", "state=missed&sort=-p99"]
)
def test_the_table_has_the_rows_of_the_json_in_their_order_as_far_as_it_goes(page, query, monkeypatch):
    monkeypatch.setattr(views, "MAX_ROWS", 60)
    _, document = get_json(f"{page}/api/functions?{query}")
    _, _, body = get(f"{page}/?{query}")
    rows, html = document["functions"], body.decode()
    assert 0 < len(rows) <= document["summary"]["functions"] == 64
    linked = [unquote(name) for name in re.findall(r'<a href="/functions/([^"?]+)"', html)]
    assert linked == [row["function_name"] for row in rows][:60]
    for cell in rows[0]["display"].values():
        assert cell in text(body)
    assert ("60" in re.search(r"<output.*?</output>", html)[0]) == (len(rows) > 60)
    assert "<b>&" not in html, "names are escaped"
    assert ('<option value="missed" selected>' in html) == ("missed" in query)
    assert html.count("aria-sort=") == 1
    assert ('aria-sort="descending"' in html) == ("sort=-" in query)


def test_a_function_has_its_decisions_newest_first_with_sentence_and_inputs_as_text(page):
    _, document = get_json(f"{page}/api/functions/{NAME}")
    assert [each["action"] for each in document["decisions"]] == ["hold", "up"]
    assert document["notices"] == [], "the warning is of other functions"
    assert list(document["decisions"][0]["display"]) == list(INPUTS), "in the log's order"
    _, _, body = get(f"{page}/functions/{NAME}")
    for decision in document["decisions"]:
        assert decision["sentence"] in text(body)
        assert "2026-01-0" in decision["sentence"], "decisions of several days have their date"
        for name, value in decision["display"].items():
            assert f"<dt>{name}</dt><dd>{value}</dd>" in body.decode()
    for key, cell in document["row"]["display"].items():
        assert key == "last" or cell in text(body)


def test_a_shadow_has_its_score_and_a_function_without_a_watchdog_a_reason_for_no_profile(page):
    _, document = get_json(f"{page}/api/functions/{SHADOW}")
    assert document["score"].items() >= SCORE.items()
    assert document["score"]["sentence"] in text(get(f"{page}/functions/{SHADOW}")[2])
    _, document = get_json(page + "/api/functions/resize.openfaas-fn")
    assert document["profile"] is None
    assert document["profile_problem"] in text(get(page + "/functions/resize.openfaas-fn")[2])


def test_without_prometheus_the_charts_are_502_and_the_rest_is_there(blind):
    code, document = get_json(f"{blind}/api/functions/{NAME}/series")
    assert (code, "127.0.0.1:1" in document["error"]) == (502, True)
    assert "127.0.0.1:1" in get_json(f"{blind}/api/functions/{NAME}")[1]["profile_problem"]


@pytest.mark.parametrize("path", ["/", f"/functions/{NAME}"])
def test_without_prometheus_every_page_says_so_though_the_last_decision_had_data(blind, path):
    html = get(blind + path)[2].decode()
    assert "127.0.0.1:1" in re.search(r'class="notice error">.*', html)[0]
    assert 'class="old"' in html
    assert get_json(f"{blind}/api/functions")[1]["summary"]["states"]["no_data"] == 1


def test_a_prometheus_without_data_gives_columns_without_values():
    now = b'{"data": {"result": [{"metric": {}, "value": [1767355385, "1767355385"]}]}}'
    empty = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'
    asked = []

    def answer(handler):
        asked.append(handler.path)
        status(200, empty)(handler)

    with a_gateway() as prometheus, a_page(Told(a_hold()), prometheus.url) as url:
        prometheus.faults["GET /api/v1/query_range"] = answer
        prometheus.faults["GET /api/v1/query"] = status(200, now)
        for span, known in (("9y", "1h"), ("24h", "24h")):
            asked.clear()
            code, document = get_json(f"{url}/api/functions/{NAME}/series?span={span}")
            assert (code, document["span"]) == (200, known)
            lines = [line for chart in document["charts"] for line in chart["lines"]]
            assert {value for line in lines for value in line["values"]} == {None}
    # Of 240 moments: rates and quantiles are over all of the time between two.
    assert {window for each in asked for window in re.findall(r"%5B(\d+)ms%5D", each)} == {"360000"}


def test_function_that_streams_has_charts_of_its_pieces_and_no_table_of_batches():
    now = b'{"data": {"result": [{"metric": {}, "value": [1767355385, "1767355385"]}]}}'
    told = Told(a_hold("generate.fn", {"slo_interval": 0.05}), a_hold(NAME))
    with a_gateway() as prometheus, a_page(told, prometheus.url) as url:
        prometheus.faults["GET /api/v1/query"] = status(200, now)
        keys = {}
        for name in ("generate.fn", NAME):
            _, document = get_json(f"{url}/api/functions/{name}/series")
            keys[name] = {chart["key"] for chart in document["charts"]}
        _, document = get_json(f"{url}/api/functions/generate.fn")
    assert keys["generate.fn"] ^ keys[NAME] == {"interval", "streams", "time", "batches"}
    assert document["profile"] is None
    assert "batching-watchdog try" in document["profile_problem"]


def test_a_loop_that_stands_still_is_said_on_every_page(page, told):
    told.alive = False
    try:
        for path in ("/", f"/functions/{NAME}"):
            assert 'class="notice error"' in get(page + path)[2].decode()
    finally:
        told.alive = True


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:8083", 200),
        ("[::1]:8083", 200),
        ("localhost", 200),
        ("STATUS.example.org:443", 200),
        ("evil.example.com", 421),
        ("127.0.0.1.evil.example.com:8083", 421),
    ],
)
def test_only_addresses_and_configured_names_are_allowed_hosts(page, host, code):
    assert get(page + "/api/functions", Host=host)[0] == code


@pytest.mark.parametrize("path", ["/functions/", "/api/functions/"])
@pytest.mark.parametrize("name", [NAME, "new.fn"])
def test_a_function_that_cannot_be_read_has_the_reason_on_its_page(path, name):
    told = Told(a_hold(NAME))
    told.problems = {NAME: "a label is no mode", "new.fn": "another label is none"}
    with a_page(told) as page:
        _, _, body = get(page + path + name)
    assert told.problems[name] in body.decode()


def test_alerts_that_fire_stand_on_the_pages_of_the_fleet_and_of_their_function():
    alerts = [an_alert(slo_class="fast"), an_alert("NoLeader", ""), an_alert(function_name="b.fn")]
    with a_quiet_prometheus(*alerts) as prometheus, a_page(Told(a_hold()), prometheus.url) as url:
        names = [each["function_name"] for each in get_json(f"{url}/api/functions")[1]["alerts"]]
        assert sorted(names) == ["", "b.fn", NAME]
        fleet, one = (text(get(url + path)[2]) for path in ("/", f"/functions/{NAME}"))
    for shown in (fleet, one):
        assert alerts[0]["annotations"]["summary"] in shown
        assert "class fast" in shown
        assert "2026-01-01 11:58" in shown
    assert ("NoLeader" in fleet, "NoLeader" in one) == (True, False)


def test_function_has_a_row_for_each_replica():
    with a_gateway() as prometheus, a_page(Told(a_hold()), prometheus.url) as url:
        rows = [{"metric": {"row": f"pod-{number}"}, "value": [0, str(number)]} for number in range(2)]
        prometheus.faults["GET"] = status(200, json.dumps({"data": {"result": rows}}).encode())
        _, document = get_json(f"{url}/api/functions/{NAME}")
        html = text(get(f"{url}/functions/{NAME}")[2])
    assert [(row["replica"], row["up"]) for row in document["replicas"]["rows"]] == [
        ("pod-0", 0),
        ("pod-1", 1),
    ]
    assert "pod-0 down" in html
    assert "pod-1 down" not in html
