"""The demo's command line, its traffic table, and the machine's description."""

import pytest

from tailbound_lab.demo.__main__ import main
from tailbound_lab.demo.traffic import TRAFFIC
from tailbound_lab.live import machine
from tailbound_lab.load.arrivals import peak


@pytest.mark.parametrize(
    "arguments", [["--duration", "4"], ["--duration", "long"], ["--rate", "0"], ["--rate", "nan"], ["--fast"]]
)
def test_wrong_arguments_stop_with_one_message_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_stack_that_is_not_there_stops_with_one_message_and_status_1(tmp_path, capsys):
    status = main(["--stack", str(tmp_path / "stack.yml"), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert status == 1
    assert captured.err.startswith("demo: ")
    assert "stack.yml" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("traffic", TRAFFIC, ids=lambda item: item.function)
def test_every_function_of_the_table_has_a_peak_and_bodies(traffic):
    assert peak(traffic.base, traffic.peak, 60).highest == traffic.peak > traffic.base > 0
    assert all(traffic.bodies())


def test_the_machine_is_described_in_one_line():
    assert "cores" in machine.describe()
    assert "\n" not in machine.describe()


def test_usage_is_the_share_of_time_not_idle():
    before = (100, 0, 100, 1000, 0, 0, 0, 0)
    after = (160, 0, 120, 1100, 10, 0, 0, 10)
    assert machine.usage(before, after) == machine.Usage(busy=pytest.approx(0.45), stolen=pytest.approx(0.05))


def test_without_counters_the_usage_is_unknown():
    assert machine.usage((), ()) is None
    assert machine.usage(machine.cpu_ticks(), ()) is None
