"""The page's addresses over real sockets: statuses, headers, hosts, the same rows as HTML and JSON."""

import gzip
import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from urllib.parse import unquote

import pytest

from autoscaler.doubles import a_gateway, free_port, status, until
from page.serving import INPUTS, NAME, Told, a_decision, a_fleet, a_hold, a_page, get, get_json
from slo_autoscaler import app
from slo_autoscaler.config import Config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.web import views
from slo_autoscaler.web.page import Page

CONFIG = "platform: {gateway_url: 'http://g'}\nprometheus: {url: 'http://p'}\nweb: {page_port: %s}"
ODD = "odd<b>&.openfaas-fn"
SCORE = {
    "seconds": 600.0,
    "requests": 1000.0,
    "attained_incumbent": 990.0,
    "attained_shadow": 995.0,
    "replica_seconds_incumbent": 1800.0,
    "replica_seconds_shadow": 1500.0,
}


@pytest.fixture(scope="module")
def told():
    fleet = a_fleet(60)
    fleet.add(a_decision(time="2026-01-01T12:03:05.123+00:00"))
    fleet.add(a_hold(repeats=3))
    fleet.add(a_decision("shadow.openfaas-fn", mode="shadow", incumbent=3))
    fleet.scores["shadow.openfaas-fn"] = SCORE
    fleet.add(a_hold("resize.openfaas-fn"))
    fleet.add(a_hold(ODD))
    return fleet


@pytest.fixture(scope="module")
def page(told):
    with a_page(told) as url:
        yield url


def names(body):
    """Return the names of the rows, in their order."""
    return [unquote(name) for name in re.findall(r'<a href="/functions/([^"?]+)"', body.decode())]


def text(body):
    """Return what stands on a page, without its tags."""
    return unescape(re.sub(r"<[^>]+>", "", body.decode()))


@pytest.mark.parametrize(
    ("path", "code", "kind"),
    [
        ("/", 200, "text/html"),
        (f"/functions/{NAME}", 200, "text/html"),
        ("/functions/none.fn", 404, "text/html"),
        ("/nowhere", 404, "text/html"),
        ("/api", 200, "application/json"),
        ("/api/functions", 200, "application/json"),
        (f"/api/functions/{NAME}", 200, "application/json"),
        ("/api/functions/none.fn", 404, "application/json"),
        ("/api/functions/none.fn/series", 404, "application/json"),
        ("/api/nowhere", 404, "application/json"),
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
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Server"] is None
    assert headers["Cache-Control"] == ("no-cache" if kind == "text/css" else "no-store")
    if kind == "text/html":
        html = body.decode()
        assert not re.search(r'(src|href|action)="(?!/|#)', html), "only the page's own origin"
        assert not re.search(r"<style|<[^>]+\s(style|on\w+)=", html)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))
        needed = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
        assert needed
        assert {get(page + each)[0] for each in needed} == {200}
    if code == 404 and kind == "application/json":
        assert json.loads(body)["error"]


@pytest.mark.parametrize(
    "query", ["", "q=vision+held&sort=function&sort=-function", "state=missed&sort=-p99"]
)
def test_the_table_has_the_rows_of_the_json_in_their_order_as_far_as_it_goes(page, query, monkeypatch):
    monkeypatch.setattr(views, "MAX_ROWS", 60)
    _, document = get_json(f"{page}/api/functions?{query}")
    _, _, html = get(f"{page}/?{query}")
    rows = document["functions"]
    assert 0 < len(rows) <= document["summary"]["functions"] == 64
    assert [row["function_name"] for row in rows][:60] == names(html)
    for cell in rows[0]["display"].values():
        assert cell in text(html)
    assert ("60" in re.search(r"<output.*?</output>", html.decode())[0]) == (len(rows) > 60)
    assert "<b>&" not in html.decode(), "names are escaped"


def test_a_choice_filters_and_sorts_and_an_unknown_one_is_the_default(page):
    def chosen(query):
        return [row["function_name"] for row in get_json(f"{page}/api/functions?{query}")[1]["functions"]]

    vision = chosen("q=vision&sort=p99&sort=-function")
    assert vision == sorted(vision, reverse=True)
    assert all("vision" in name for name in vision)
    assert chosen("sort=size&state=odd") == chosen("")
    html = get(f"{page}/?state=missed&sort=-function")[2].decode()
    assert '<option value="missed" selected>' in html
    assert html.count("aria-sort=") == html.count('aria-sort="descending"') == 1


@pytest.mark.parametrize(
    ("query", "visible"), [("", {"there"}), ("?q=nothing+like+it", {"there", "no-match"})]
)
def test_an_empty_table_says_whether_nothing_matches_or_nothing_is_decided(page, query, visible):
    def shown(html):
        tags = re.findall(r'<div [^>]*id="(there|no-match|no-function)"([^>]*)>', html.decode())
        return {name for name, more in tags if "hidden" not in more}

    assert shown(get(page + "/" + query)[2]) == visible
    with a_page(Told()) as empty:
        assert shown(get(empty + "/" + query)[2]) == {"no-function"}
        assert get_json(empty + "/api/functions" + query)[1]["functions"] == []


def test_a_function_has_its_decisions_newest_first_with_sentence_and_inputs_as_text(page):
    _, document = get_json(f"{page}/api/functions/{NAME}")
    assert [each["action"] for each in document["decisions"]] == ["hold", "up"]
    assert document["last_change"] == document["decisions"][1]
    assert document["profile"] is None
    assert document["notices"] == [], "the warning is of other functions"
    assert list(document["decisions"][0]["display"]) == list(INPUTS), "in the log's order"
    _, _, body = get(f"{page}/functions/{NAME}")
    assert body.count(b"<details>") == 2
    for decision in document["decisions"]:
        assert decision["sentence"] in text(body)
        assert "2026-01-0" in decision["sentence"], "decisions of several days have their date"
        for name, value in decision["display"].items():
            assert f"<dt>{name}</dt><dd>{value}</dd>" in body.decode()
    for key, cell in document["row"]["display"].items():
        assert key == "last" or cell in text(body)


def test_a_shadow_has_its_score(page):
    _, document = get_json(page + "/api/functions/shadow.openfaas-fn")
    assert document["score"].items() >= SCORE.items()
    assert document["score"]["sentence"] in get(page + "/functions/shadow.openfaas-fn")[2].decode()


def test_a_function_without_a_watchdog_has_no_profile_but_a_reason(page):
    _, document = get_json(page + "/api/functions/resize.openfaas-fn")
    assert document["profile"] is None
    assert document["profile_problem"] in get(page + "/functions/resize.openfaas-fn")[2].decode()


@pytest.mark.parametrize("path", ["/functions/vison.openfaas-fn", "/api/functions/vison.openfaas-fn"])
def test_an_unknown_function_is_404_with_a_similar_name(page, path):
    code, _, body = get(page + path)
    assert code == 404
    assert NAME in body.decode()


def test_without_prometheus_the_charts_are_502_and_the_rest_is_there(page):
    code, document = get_json(f"{page}/api/functions/{NAME}/series")
    assert (code, "127.0.0.1:1" in document["error"]) == (502, True)
    assert "127.0.0.1:1" in get_json(f"{page}/api/functions/{NAME}")[1]["profile_problem"]
    with a_page(Told(a_hold(reason="NoData"))) as blind:
        (notice,) = get_json(blind + "/api/functions")[1]["notices"]
    assert "127.0.0.1:1" in notice["text"]


def test_a_prometheus_without_data_gives_columns_without_values():
    now = b'{"data": {"resultType": "scalar", "result": [1767355385, "1767355385"]}}'
    empty = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'
    asked = []

    def answer(handler):
        asked.append(handler.path)
        status(200, empty)(handler)

    with a_gateway() as prometheus, a_page(Told(a_hold()), prometheus.url) as url:
        prometheus.faults["GET /api/v1/query_range"] = answer
        prometheus.faults["GET /api/v1/query"] = status(200, now)
        for span, known in (("24h", "24h"), ("9y", "1h")):
            code, document = get_json(f"{url}/api/functions/{NAME}/series?span={span}")
            assert (code, document["span"]) == (200, known)
            lines = [line for chart in document["charts"] for line in chart["lines"]]
            assert {value for line in lines for value in line["values"]} == {None}
            if span == "24h":  # in 240 moments: rates and quantiles are over all of the time between two
                assert {window for each in asked for window in re.findall(r"%5B(\d+)ms%5D", each)} == {
                    "360000"
                }


def test_a_loop_that_stands_still_is_said_on_every_page(page, told):
    told.alive = False
    try:
        for path in ("/", f"/functions/{NAME}"):
            assert 'class="notice error"' in get(page + path)[2].decode()
    finally:
        told.alive = True


@pytest.mark.parametrize("path", ["/", "/api/functions", f"/api/functions/{NAME}"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(page, path, method):
    assert get(page + path, method)[0] == 405


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


def test_files_are_revalidated_and_long_answers_compressed_for_clients_that_accept_it(page):
    _, headers, _ = get(page + "/static/page.css")
    assert get(page + "/static/page.css", **{"If-None-Match": headers["ETag"]})[0] == 304
    _, headers, packed = get(page + "/api/functions", **{"Accept-Encoding": "gzip"})
    assert (headers["Content-Encoding"], headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert len(json.loads(gzip.decompress(packed))["functions"]) == 64
    assert get(page + "/api/functions")[1]["Content-Encoding"] is None
    assert get(page + "/api", **{"Accept-Encoding": "gzip"})[1]["Content-Encoding"] is None


@pytest.mark.parametrize("path", [f"/functions/{NAME}", f"/api/functions/{NAME}"])
def test_a_bug_is_500_and_logged_and_the_next_request_is_answered(caplog, path):
    told = Told(a_hold())
    with a_page(told) as url:
        told.kept[NAME][0] = {"function_name": NAME}
        assert get(url + path)[0] == 500
        assert get(url + "/api")[0] == 200
    assert "Traceback" in caplog.text


def test_a_taken_port_is_named_is_no_reason_not_to_scale_and_comes_back(caplog):
    taken = Config.parse(CONFIG % free_port(), "test")
    page = Page(taken, Told(), lambda: True)
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{page.url.rpartition(':')[2]}: .*in use"):
        Page(taken, Told(), lambda: True)
    assert app._page(taken, Told()) is None
    assert "status page" in caplog.text
    page.stop()
    Page(taken, Told(), lambda: True).stop()
    assert app._page(Config.parse(CONFIG % "null", "test"), Told()) is None


def test_a_page_that_stops_ends_every_connection_and_gives_its_port_back(told):
    for _ in range(4):
        with ThreadPoolExecutor(3) as askers, a_page(told) as url:
            asked = [askers.submit(keep_asking, url + "/api/functions") for _ in range(3)]
            until(lambda url=url: get(url + "/api")[0] == 200, "it answers")
        assert all(each.result() for each in asked)
        assert keep_asking(url + "/api") == "refused"


def keep_asking(url):
    """Ask until there is no answer any more; return what there was instead."""
    while True:
        try:
            get(url)
        except (OSError, http.client.HTTPException) as error:
            return "refused" if isinstance(getattr(error, "reason", None), ConnectionRefusedError) else "lost"
