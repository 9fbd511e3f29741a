import mmap
from pathlib import Path

from batching_watchdog.config import Config
from batching_watchdog.pool.supervisor import gunicorn_command, resident_bytes


def test_gunicorn_gets_the_socket_and_a_time_limit_that_is_not_below_exec_timeout():
    config = Config.from_env({"exec_timeout": "1500ms"}, cpus=4.0)
    command = gunicorn_command(config, Path("/tmp/x/s"), Path("/tmp/x"))
    assert float(command[command.index("--timeout") + 1]) >= 1.5
    assert "unix:/tmp/x/s" in command


def test_resident_memory_is_read_in_bytes_and_a_process_that_has_gone_has_none(tmp_path: Path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("900 100 50 1 0 300 0\n")
    assert resident_bytes(7, tmp_path) == 100 * mmap.PAGESIZE
    assert resident_bytes(8, tmp_path) is None
