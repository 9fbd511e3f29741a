from datetime import UTC, datetime, timedelta

import pytest

from tailbound_lab.local import logs
from tailbound_lab.local.logs import FunctionLog, LogLine, LogQuery

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def line(number: int, instance: str = "f-1") -> LogLine:
    return LogLine("f", "ns", instance, NOON + timedelta(seconds=number), f"line {number}")


@pytest.fixture
def log(tmp_path):
    log = FunctionLog(tmp_path / "f.ns")
    yield log
    log.close()


def test_only_the_last_lines_are_kept(log, monkeypatch, tmp_path):
    monkeypatch.setattr(logs, "_KEPT_LINES", 3)
    short = FunctionLog(tmp_path / "short")
    for number in range(5):
        short.write(line(number))
    short.close()
    assert [item.text for item in short.lines(LogQuery())] == ["line 2", "line 3", "line 4"]


def test_since_includes_its_own_moment_and_tail_counts_from_the_end(log):
    for number in range(4):
        log.write(line(number, f"f-{number % 2}"))
    assert [item.text for item in log.lines(LogQuery(since=NOON + timedelta(seconds=2)))] == [
        "line 2",
        "line 3",
    ]
    assert [item.text for item in log.lines(LogQuery(tail=1))] == ["line 3"]
    assert len(log.lines(LogQuery(tail=-1))) == 4
    assert [item.text for item in log.lines(LogQuery(instance="f-0"))] == ["line 0", "line 2"]


def test_a_full_file_is_put_aside_once(log, monkeypatch, tmp_path):
    monkeypatch.setattr(logs, "_FILE_BYTES", 60)
    for number in range(5):
        log.write(line(number))
    folder = tmp_path / "f.ns"
    assert sorted(path.name for path in folder.iterdir()) == ["f-1.log", "f-1.log.1"]
    assert (folder / "f-1.log").read_text().endswith("line 4\n")


def test_a_follower_that_does_not_read_loses_lines_and_nothing_else(log, monkeypatch):
    monkeypatch.setattr(logs, "_FOLLOWER_LINES", 2)
    with log.following() as coming:
        for number in range(4):
            log.write(line(number))
        assert [coming.get_nowait().text for _ in range(coming.qsize())] == ["line 0", "line 1"]
    assert len(log.lines(LogQuery())) == 4
