"""The page over a real socket: its addresses, its headers, who may ask, what is said when things go wrong."""

import gzip
import http.client
import json
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from autoscaler.doubles import a_gateway, free_port, status, until
from page.serving import a_page, cells, get, get_json, post
from page.told import NAME, Told, a_decision, a_fleet, a_hold
from slo_autoscaler import app
from slo_autoscaler.config import Config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.web.page import Page

EMPTY = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'


@pytest.fixture(scope="module")
def told():
    fleet = a_fleet(60)
    for decision in (a_decision(), a_hold(repeats=3, until="2026-01-02T12:04:05.123+00:00")):
        fleet.add(decision)
    fleet.add(a_decision("shadow.openfaas-fn", mode="shadow", incumbent=3))
    fleet.scores["shadow.openfaas-fn"] = {
        "seconds": 600.0,
        "requests": 1000.0,
        "attained_incumbent": 990.0,
        "attained_shadow": 995.0,
        "replica_seconds_incumbent": 1800.0,
        "replica_seconds_shadow": 1500.0,
    }
    fleet.add(a_hold("resize.openfaas-fn"))
    fleet.add(a_hold("odd<b>&.openfaas-fn"))
    return fleet


@pytest.fixture(scope="module")
def page(told):
    with a_page(told) as url:
        yield url


PAGES = ["/", f"/functions/{NAME}", "/functions/none.fn", "/nowhere"]
APIS = ["/api", "/api/functions", f"/api/functions/{NAME}", "/api/functions/none.fn", "/api/nowhere"]


@pytest.mark.parametrize("path", [*PAGES, *APIS, "/static/page.css"])
def test_every_answer_lets_the_browser_load_and_run_nothing_from_elsewhere(page, path):
    _, headers, _ = get(page + path)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Server"] is None


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_nothing_elsewhere_and_has_no_code_or_style_of_its_own(page, path):
    _, _, body = get(page + path)
    assert not re.search(r'(src|href|action)="(?!/|#)', body)
    assert "<style" not in body
    assert not re.search(r"<[^>]+\s(style|on\w+)=", body)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", body))


@pytest.mark.parametrize("path", PAGES)
def test_everything_that_a_page_needs_is_served(page, path):
    _, _, body = get(page + path)
    needed = re.findall(r'(?:src|href)="(/static/[^"]+)"', body)
    assert needed
    for each in needed:
        assert get(page + each)[0] == 200, each


def test_without_javascript_the_table_is_sorted_and_filtered_by_the_server(page):
    _, _, all_of_them = get(page + "/")
    assert len(cells(all_of_them)) == 64
    _, _, some = get(page + "/?q=vision+held&sort=function&sort=-function")
    names = cells(some)
    assert NAME in names
    assert names == sorted(names, reverse=True)
    assert 'aria-sort="descending"' in some
    assert f"{len(names)} of 64" in some
    _, _, missed = get(page + "/?state=missed")
    assert 0 < len(cells(missed)) < 10
    assert '<option value="missed" selected>' in missed


def test_a_choice_that_makes_no_sense_is_the_default(page):
    _, _, body = get(page + "/?sort=size&state=odd")
    assert cells(body) == cells(get(page + "/")[2])


def test_when_nothing_matches_it_says_so(page):
    _, _, body = get(page + "/?q=nothing+like+it")
    assert not cells(body)
    assert '<div class="empty" id="no-match">' in body
    assert '<div class="empty" id="no-function" hidden>' in body


def test_before_the_first_decision_it_says_what_will_be_sized():
    with a_page(Told()) as url:
        _, _, body = get(url + "/")
        assert '<div class="empty" id="no-function">' in body
        assert "slo_latency" in body
        status_, document = get_json(url + "/api/functions")
    assert (status_, document["functions"], document["notices"]) == (200, [], [])


def test_names_are_shown_as_they_are(page):
    _, _, body = get(page + "/")
    assert "odd&lt;b&gt;&amp;" in body
    assert "<b>&" not in body


def test_the_json_behind_the_table_has_the_same_rows(page):
    code, document = get_json(page + "/api/functions?q=vision&sort=-p99")
    assert code == 200
    _, _, body = get(page + "/?q=vision&sort=-p99")
    assert [row["function_name"] for row in document["functions"]] == cells(body)
    assert document["summary"]["functions"] == 64


def test_a_functions_page_says_why_and_what_was_decided_before(page):
    _, _, body = get(f"{page}/functions/{NAME}")
    assert "held vision.openfaas-fn at 5, 4 times over: the count is right" in body
    assert "Last change:" in body
    assert "scaled vision.openfaas-fn from 2 to 5: load above capacity" in body
    assert body.count("<details>") == 2
    assert "<dt>forecast</dt><dd>212</dd>" in body


def test_the_json_behind_it_has_the_newest_decision_first_with_its_sentence(page):
    _, document = get_json(f"{page}/api/functions/{NAME}")
    assert [each["action"] for each in document["decisions"]] == ["hold", "up"]
    assert document["last_change"]["to"] == 5
    assert document["row"]["shown"]["p99"] == "142 ms"


def test_a_shadows_score_is_told(page):
    _, document = get_json(page + "/api/functions/shadow.openfaas-fn")
    assert document["score"]["requests"] == 1000.0
    assert "incumbent 99.00 % within the SLO" in document["score"]["sentence"]
    assert "Shadow:" in get(page + "/functions/shadow.openfaas-fn")[2]


def test_a_function_without_a_watchdog_has_no_profile(page):
    _, document = get_json(page + "/api/functions/resize.openfaas-fn")
    assert document["profile"] is None
    assert "no batching watchdog" in document["profile_problem"]


@pytest.mark.parametrize("path", ["/functions/vison.openfaas-fn", "/api/functions/vison.openfaas-fn"])
def test_an_unknown_function_is_404_with_a_name_that_is_near(page, path):
    code, _, body = get(page + path)
    assert code == 404
    assert "did you mean vision" in body


def test_when_prometheus_does_not_answer_the_charts_say_so_and_the_rest_is_there(page):
    code, document = get_json(f"{page}/api/functions/{NAME}/series")
    assert code == 502
    assert "127.0.0.1:1" in document["error"]
    code, _, body = get(f"{page}/functions/{NAME}")
    assert code == 200
    assert "Prometheus does not answer" in body


def test_when_no_function_has_data_prometheus_is_asked_why():
    with a_page(Told(a_hold(reason="NoData"))) as url:
        _, document = get_json(url + "/api/functions")
    (notice,) = document["notices"]
    assert notice["level"] == "error"
    assert "127.0.0.1:1" in notice["text"]


def test_a_loop_that_stands_still_is_said_on_every_page(page, told):
    told.alive = False
    try:
        for path in ("/", f"/functions/{NAME}"):
            assert "Nothing is being scaled" in get(page + path)[2]
    finally:
        told.alive = True


@pytest.mark.parametrize("path", ["/", "/api/functions", f"/functions/{NAME}"])
def test_nothing_can_be_changed(page, path):
    code, _, _ = get(page + path, **{"X-HTTP-Method-Override": "DELETE"})
    assert code == 200
    request_code, answer = post(page + "/api/functions", {})
    assert request_code == 405
    assert "method" in answer["error"]


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
def test_only_addresses_and_names_that_are_configured_may_be_asked(page, host, code):
    assert get(page + "/api/functions", Host=host)[0] == code


def test_what_is_served_is_never_kept_but_files_may_be_asked_about(page):
    assert get(page + "/")[1]["Cache-Control"] == "no-store"
    _, headers, _ = get(page + "/static/page.css")
    assert headers["Cache-Control"] == "no-cache"
    assert get(page + "/static/page.css", **{"If-None-Match": headers["ETag"]})[0] == 304


def test_a_long_answer_is_packed_for_who_can_unpack_it(page):
    request = urllib.request.Request(page + "/api/functions", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        packed = answer.read()
    document = json.loads(gzip.decompress(packed))
    assert len(document["functions"]) == 64
    _, headers, plain = get(page + "/api/functions")
    assert headers["Content-Encoding"] is None
    assert len(packed) < len(plain) / 4


def test_a_bug_is_500_and_logged_and_the_next_request_is_answered(caplog):
    told = Told(a_hold())
    with a_page(told) as url:
        told.kept[NAME][0] = {"function_name": NAME}
        code, document = get_json(url + f"/api/functions/{NAME}")
        assert code == 500
        assert "scaling goes on" in document["error"]
        assert get(url + "/api")[0] == 200
    assert "Traceback" in caplog.text


def test_a_taken_port_is_named_and_one_that_never_served_is_given_back():
    config = "platform: {gateway_url: 'http://g'}\nprometheus: {url: 'http://p'}\nweb: {page_port: %d}"
    taken = Config.parse(config % free_port(), "test")
    page = Page(taken, Told(), lambda: True)
    port = page.url.rpartition(":")[2]
    with pytest.raises(ConfigError, match=rf"web: cannot listen on 127\.0\.0\.1:{port}: .*already in use"):
        Page(taken, Told(), lambda: True)
    page.stop()
    Page(taken, Told(), lambda: True).stop()


def test_a_taken_port_is_no_reason_not_to_scale_and_no_port_is_no_page(caplog):
    config = "platform: {gateway_url: 'http://g'}\nprometheus: {url: 'http://p'}\nweb: {page_port: %s}"
    with a_gateway() as taken:
        there = Config.parse(config % taken.url.rpartition(":")[2], "test")
        assert app._page(there, Told()) is None
    assert "going on without the status page" in caplog.text
    assert app._page(Config.parse(config % "null", "test"), Told()) is None


def test_a_page_stops_whoever_is_asking(told):
    for _ in range(8):
        with ThreadPoolExecutor(3) as askers, a_page(told) as url:
            asked = [askers.submit(keep_asking, url + "/api/functions") for _ in range(3)]
            until(lambda url=url: get(url + "/api")[0] == 200, "it answers")
        assert all(each.result() for each in asked)
        assert keep_asking(url + "/api") == "refused", "the port is given back"


def keep_asking(url):
    """Ask until there is no answer any more; return what there was instead."""
    while True:
        try:
            get(url)
        except (OSError, http.client.HTTPException) as error:
            return "refused" if isinstance(getattr(error, "reason", None), ConnectionRefusedError) else "lost"


def test_a_prometheus_without_data_gives_charts_without_values():
    with a_gateway() as prometheus:
        prometheus.faults["GET /api/v1/query_range"] = status(200, EMPTY)
        prometheus.faults["GET /api/v1/query"] = status(
            200, b'{"data": {"resultType": "scalar", "result": [1767355385, "1767355385"]}}'
        )
        with a_page(Told(a_hold()), prometheus.url) as url:
            code, document = get_json(f"{url}/api/functions/{NAME}/series?span=15m")
            assert code == 200
            assert document["span"] == "15m"
            lines = [line for chart in document["charts"] for line in chart["lines"]]
            assert all(value is None for line in lines for value in line["values"])
            asked = len(prometheus.requests)
            get_json(f"{url}/api/functions/{NAME}/series?span=15m")
            assert len(prometheus.requests) == asked, "answers are kept for some seconds"


def test_the_api_says_what_there_is(page):
    _, document = get_json(page + "/api")
    assert document["functions"].startswith("/api/functions")
    assert json.dumps(document)
