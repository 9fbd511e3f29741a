import mmap

from batching_watchdog.pool.supervisor import resident_bytes


def test_resident_memory_is_read_in_bytes_and_a_process_that_has_gone_has_none(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("900 100 50 1 0 300 0\n")
    assert resident_bytes(7, tmp_path) == 100 * mmap.PAGESIZE
    assert resident_bytes(8, tmp_path) is None
