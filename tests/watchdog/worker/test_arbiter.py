import sys
import threading

import pytest

from batching_watchdog.worker import arbiter
from batching_watchdog.worker.arbiter import FunctionApplication, Restarts, other_threads


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
def test_next_worker_of_an_index_waits_for_how_those_before_it_ended(ends, waits):
    restarts, waited = Restarts(), []
    for lived, useful in ends:
        restarts.ended(lived, useful=useful)
        waited.append(restarts.wait)
    assert waited == waits


def test_settings_of_another_server_in_folder_and_environment_have_no_effect(tmp_path, monkeypatch):
    (tmp_path / "gunicorn.conf.py").write_text("umask = 0o777\nreload = True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--daemon --timeout 1")
    monkeypatch.setenv("WEB_CONCURRENCY", "7")
    monkeypatch.setattr(sys, "argv", ["gunicorn", "--workers", "2", "--timeout", "31"])
    cfg = FunctionApplication(tmp_path / "count").cfg
    assert (cfg.umask, cfg.reload, cfg.daemon, cfg.timeout, cfg.workers) == (0, False, False, 31, 2)


def test_threads_are_seen_by_name_and_gone_when_they_have_ended():
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="poller")
    before = other_threads()
    thread.start()
    assert "poller" in other_threads()
    done.set()
    thread.join()
    assert "poller" not in before


@pytest.mark.parametrize(("file", "refused"), [("/dev/nvidia-uvm", True), ("/dev/null", False)])
def test_process_that_has_called_cuda_in_any_way_must_not_be_forked(monkeypatch, file, refused):
    monkeypatch.setattr(arbiter, "open_files", lambda: {7: file})
    monkeypatch.setattr(arbiter, "other_threads", list)
    assert (arbiter.unsafe_to_fork() is not None) == refused
