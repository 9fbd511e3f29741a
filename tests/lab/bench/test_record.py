"""Records of runs, and the page that is made of the published ones."""

import pytest

from docs import generate_benchmarks as page
from support.pages import ROOT
from tailbound_lab.bench.rig import record
from tailbound_lab.load.records import BenchError


def test_record_is_read_as_it_was_kept(tmp_path):
    run = record.begin("soak", ["soak", "--minutes", "2", "--traces", "/home/me/traces"], tmp_path)
    kept = run.keep([{"sent": 3}])
    assert record.read(tmp_path / "soak.json") == kept
    assert (kept.command, kept.rows) == ("bench soak --minutes 2 --traces DIR", [{"sent": 3}])
    assert kept.commit in kept.origin
    assert kept.machine in kept.origin


@pytest.mark.parametrize("text", ["", "[]", '{"question": "soak"}'])
def test_file_that_holds_no_record_is_refused_by_its_name(tmp_path, text):
    file = tmp_path / "soak.json"
    file.write_text(text)
    with pytest.raises(BenchError, match=r"soak\.json"):
        record.read(file)


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md"])
def test_page_holds_the_tables_of_the_published_records(name):
    text = (ROOT / name).read_text()
    assert page.page(text, page.records()) == text, "out of date: run make reference"


def test_benchmarks_page_has_one_section_for_each_question():
    text = page.PAGE.read_text()
    assert [name for name in page.COMMANDS if text.count(f"<!-- {name}: begin -->") != 1] == []


def test_overload_table_compares_servers_on_real_models():
    made = overload(
        {
            ("text", "slo"): {"1.5": 90.0},
            ("text", "mosec:16:5"): {"1.5": 60.0, "2.5": 50.0},
            ("vision", "slo"): {"1.5": 75.0, "2.5": 80.0},
            ("vision", "mosec:8:5+malloc"): {"1.5": 15.0, "2.5": 40.0},
            ("accelerator", "slo"): {},
        }
    )
    assert "| transformer: requests/s, 99% within 50 ms | of 1.5 times as many, in time |" in made
    assert "| Tailbound | 100 | 60% | 100 | 50% |" in made
    assert "| mosec | 100 | 40% | 100 | 10% |" in made
    assert "accelerator" not in made


def test_overload_table_shows_rates_alone_of_a_model_where_the_generator_lagged_behind_a_server():
    made = overload(
        {
            ("tabular", "slo"): {"1": 90.0},
            ("tabular", "mosec:64:10"): {"1": 90.0, "1.5": 60.0},
            ("text", "slo"): {"1.5": 90.0},
            ("text", "mosec:16:5"): {"1.5": 60.0},
        }
    )
    assert "| Tailbound | 100 | 100 | 60% |" in made
    assert "| mosec | 100 | 100 | 40% |" in made
    assert made.count("of 1.5 times as many, in time") == 1


def overload(goodput: dict[tuple[str, str], dict[str, float]]) -> str:
    rows = [
        {"workload": workload, "system": system, "round": 1, "highest": 100.0, "goodput": measured}
        for (workload, system), measured in goodput.items()
    ]
    found = record.Record("peers", "abc123", "2026-01-02", "2 cores", "bench peers", rows)
    return page.page("<!-- overload: begin -->\n<!-- overload: end -->\n", {"peers": found})


def test_section_of_a_record_names_its_commit_and_another_says_that_nothing_was_measured():
    row = {"functions": 60, "series": 900, "scrape_cpu_s": 0.1, "memory_mb": 90.0, "reconcile_cpu_s": 0.25}
    row |= {"first_cpu_s": 0.5, "reconcile_wall_s": 1.0, "prometheus_cpu_s": 1.0}
    found = record.Record("reconcile", "abc123", "2026-01-02", "2 cores", "bench reconcile", [row])
    marks = "".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->\n" for name in ("reconcile", "soak"))
    made = page.page(marks, {"reconcile": found})
    assert "`bench reconcile`: commit abc123, 2026-01-02, 2 cores." in made
    assert "| 60 | 900 | 0.250 | 0.500 |" in made
    assert made.count("Not measured with this version.") == 1
    assert page.page(made, {"reconcile": found}) == made
