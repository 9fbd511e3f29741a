import os
import signal
import subprocess
import sys
import threading

import pytest

from batching_watchdog.worker.arbiter import Slot, how_it_ended, other_threads


def end_of(code: str) -> os.waitid_result:
    process = subprocess.Popen([sys.executable, "-c", code])
    end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait()
    assert end is not None
    return end


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os._exit(7)", "ended with status 7"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL (out of memory?)"),
        ("import os; os.kill(os.getpid(), 15)", "was killed by SIGTERM"),
        (f"import os; os.kill(os.getpid(), {signal.SIGRTMIN + 2})", "was killed by signal"),
    ],
)
def test_an_end_is_put_into_words(code: str, words: str):
    assert how_it_ended(end_of(code)).startswith(words)


@pytest.mark.parametrize(
    ("ends", "waits"),
    [
        pytest.param([(0.1, True)] * 9, [0.0] * 9, id="that have served, at once"),
        pytest.param([(0.1, False)] * 6, [0.0, 0.0, 0.5, 1.0, 2.0, 5.0], id="that have not, slowly"),
        pytest.param([(60.0, False)] * 4, [0.0] * 4, id="that have lived, too"),
        pytest.param([(None, False)] * 3, [0.5, 1.0, None], id="dying while loading"),
        pytest.param([(0.1, False)] * 3 + [(0.1, True)], [0.0, 0.0, 0.5, 0.0], id="serving ends the count"),
        pytest.param([(None, False), (None, False), (9.0, False)], [0.5, 1.0, 0.0], id="loading ends it"),
    ],
)
def test_the_next_worker_of_a_slot_waits_for_how_those_before_it_ended(
    ends: list[tuple[float | None, bool]], waits: list[float | None]
):
    slot, waited = Slot(), []
    for lived, useful in ends:
        slot.ended(lived, useful=useful)
        waited.append(slot.wait)
    assert waited == waits


def test_threads_are_seen_by_name_and_gone_when_they_have_ended():
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="poller")
    before = other_threads()
    thread.start()
    assert "poller" in other_threads()
    done.set()
    thread.join()
    assert "poller" not in before
