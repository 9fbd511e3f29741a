"""The last lines of a function, in memory and in files."""

from datetime import UTC, datetime, timedelta

from tailbound_lab.local.logs import FunctionLog, LogFile


def test_a_log_keeps_its_last_lines_by_time_count_and_instance(tmp_path):
    log = FunctionLog(tmp_path / "f.ns", kept_lines=4)
    for number in range(5):
        log.write(f"f-{number % 2}", f"line {number}")
    log.close()
    assert [line.text for line in log.lines()] == ["line 1", "line 2", "line 3", "line 4"]
    assert [line.text for line in log.lines(tail=1)] == ["line 4"]
    assert len(log.lines(tail=-1)) == 4
    assert [line.text for line in log.lines(instance="f-0")] == ["line 2", "line 4"]
    third = log.lines()[2].timestamp
    assert log.lines(since=third)[-2:] == log.lines()[2:]
    assert log.lines(since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert (tmp_path / "f.ns" / "f-0.log").read_text().count("line") == 3


def test_a_full_file_is_put_aside_once(tmp_path):
    file = LogFile(tmp_path / "deep" / "f.log", full_bytes=10)
    for number in range(5):
        file.write(f"line {number}")
    file.close()
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["f.log", "f.log.1"]
    assert file.path.read_text() == "line 4\n"
