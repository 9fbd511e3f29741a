"""Our scaling on other traces: what is played, and how it is shown."""

from tailbound_lab.bench.__main__ import main
from tailbound_lab.bench.fleet import held_out as unseen
from tailbound_lab.simulate.traces import generate


def test_no_trace_is_one_of_the_comparison():
    seen = {tuple(generate(kind, 150.0, 120).arrivals) for kind in ("spike", "step", "on-off")}
    played = list(unseen.workloads(120))
    assert not seen & {tuple(each.trace.arrivals) for each in played}
    assert len({each.name for each in played}) == len(played) == 15
    assert {each.function.start_up for each in played} == {10.0, unseen.SLOW_START}


def test_all_are_played_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tailbound_lab.bench.__main__.OUTPUT", tmp_path)
    monkeypatch.setattr(unseen, "SECONDS", 60)
    assert main(["unseen", "--processes", "1"]) in (0, 1)
    out = capsys.readouterr().out
    assert out.startswith("| trace | `slo` |")
    assert out.count("\n") == 2 + 15
