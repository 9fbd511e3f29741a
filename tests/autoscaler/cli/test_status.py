"""The table in a terminal: what stands in 80 columns, colors, and what is said when there is no answer."""

import io
import json
import threading

import pytest
from rich.console import Console

from slo_autoscaler.cli.status import main, shown
from slo_autoscaler.show.web import rows
from support.serving import NAME, Told, a_decision, a_fleet, a_hold, a_page, a_quiet_prometheus
from support.waits import until


@pytest.fixture(scope="module")
def page():
    with a_quiet_prometheus() as prometheus, a_page(a_fleet(60), prometheus.url) as url:
        yield url


def drawn(width, *decisions, terminal=False, notices=(), height=None):
    table = rows.ordered(rows.row_of(decision) for decision in decisions)
    document = {
        "notices": list(notices),
        "functions": table,
        "summary": rows.summary(table),
        "time": "2026-01-02T12:03:05+00:00",
    }
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None
    )
    console.print(shown(document, width, height))
    return out.getvalue()


LONG = "a-model-with-a-very-long-name-indeed-v2.a-namespace-that-is-long-too"


def test_in_80_columns_every_number_is_whole_and_no_line_is_longer():
    text = drawn(80, a_decision(), a_hold(LONG, {"p99": 1.254, "ready": 120, "max": 200}, to=150))
    assert all(len(line) <= 80 for line in text.splitlines())
    heading = text.splitlines()[0]
    assert heading.split() == ["FUNCTION", "SLO", "BUDGET", "P99", "REPLICAS", "LAST", "DECISION"]
    assert "142 ms" in text
    assert "2/5/10" in text
    assert "!1.25 s" in text
    assert "120/150/200" in text
    assert "2 → 5: " in text


def test_a_breach_is_seen_without_colors_too():
    missed = a_hold(inputs={"attainment": 0.9, "p99": 0.31})
    text = drawn(80, missed)
    assert "MISSED" in text
    assert "!310 ms" in text
    assert "\x1b[" not in text
    assert "\x1b[1;31mMISSED" in drawn(80, missed, terminal=True)


def test_a_wide_terminal_shows_all_that_the_page_has_between_notices_and_a_summary():
    notice = {"level": "error", "text": "Nothing is being scaled."}
    first, heading, *_, last = drawn(160, a_decision(), a_hold("b.fn"), notices=[notice]).splitlines()
    assert notice["text"] in first
    for word in ("TARGET", "ATTAINED", "BURN", "P95", "MODE"):
        assert word in heading
    assert rows.row_of(a_decision())["last"] in drawn(160, a_decision())
    assert "2 functions" in last


def test_the_running_autoscaler_of_the_configuration_is_asked(page, tmp_path, capsys):
    config = tmp_path / "as.yaml"
    config.write_text(f"web: {{page_port: {page.rpartition(':')[2]}}}\n")
    assert main(["--config", str(config), "--sort=-p99", "--filter", "vision"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert (out.count("vision-"), "text-" in out) == (12, False)


MET, ALSO_MET, BAD = "good.fn", "good.shop", "bad.fn"


@pytest.fixture
def shop():
    told = Told(a_hold(MET), a_hold(ALSO_MET), a_hold(BAD, {"attainment": 0.5}))
    with a_quiet_prometheus() as prometheus, a_page(told, prometheus.url) as url:
        yield url


@pytest.mark.parametrize(
    ("words", "status", "shown_names"),
    [
        ([], 3, {MET, ALSO_MET, BAD}),
        (["good"], 0, {MET, ALSO_MET}),
        (["good.fn", "bad"], 3, {MET, BAD}),
        (["--namespace", "shop"], 0, {ALSO_MET}),
        (["good", "-n", "fn"], 0, {MET}),
        (["bda.fn"], 1, set()),
    ],
)
def test_status_is_3_if_a_shown_function_misses_its_slo(shop, words, status, shown_names, capsys):
    assert main(["--url", shop, *words]) == status
    out = capsys.readouterr().out
    assert {name for name in (MET, ALSO_MET, BAD) if name in out} == shown_names


def test_the_json_is_the_pages(page, capsys):
    main(["--url", page, "--json", "--sort", "function"])
    document = json.loads(capsys.readouterr().out)
    names = [row["function_name"] for row in document["functions"]]
    assert names == sorted(names)
    assert len(names) == 60


@pytest.mark.parametrize("words", [["--sort", "size"], ["--interval", "0"], ["--width", "7"]])
def test_a_wrong_word_is_status_2(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


class Counting(Told):
    """Counts how often it is polled."""

    polls = 0

    def functions(self):
        self.polls += 1
        return super().functions()


def test_watching_goes_on_until_the_autoscaler_is_gone(capsys):
    told, ended = Counting(a_hold()), []
    with a_page(told) as url:
        words = ["--url", url, "--watch", "--interval", "0.2"]
        watching = threading.Thread(target=lambda: ended.append(main(words)))
        watching.start()
        until(lambda: told.polls >= 2, "it asks again")
    watching.join(10)
    assert ended == [1]
    assert capsys.readouterr().out.count(NAME) >= 2
