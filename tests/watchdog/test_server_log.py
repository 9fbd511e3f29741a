from batching_watchdog.server import LineLimit


def test_so_many_lines_are_written_per_second_and_the_next_says_how_many_were_left_out():
    limit = LineLimit(2)
    assert [limit.admit(10.0 + step / 10) for step in range(5)] == [0, 0, None, None, None]
    assert [limit.admit(11.0), limit.admit(11.5), limit.admit(11.9)] == [3, 0, None]
    assert limit.admit(50.0) == 1
