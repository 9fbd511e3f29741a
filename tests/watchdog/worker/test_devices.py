import os
import sys
from types import SimpleNamespace

import pytest

from batching_watchdog.machine import THREAD_VARIABLES
from batching_watchdog.worker.devices import share, take_devices, take_threads


@pytest.mark.parametrize(
    ("devices", "workers", "shares"),
    [
        ("ab", 2, ["a", "b"]),
        ("abcd", 2, ["ac", "bd"]),
        ("ab", 3, ["a", "b", "a"]),
        ("abc", 1, ["abc"]),
        ("abc", 2, ["ac", "b"]),
    ],
)
def test_each_worker_has_its_share_of_the_devices(devices: str, workers: int, shares: list[str]):
    assert ["".join(share(list(devices), slot, workers)) for slot in range(workers)] == shares


@pytest.mark.parametrize(("given", "seen"), [("0,1,2", "1"), ("7", "7"), ("", "")])
def test_a_worker_sees_its_share_of_several_devices_and_one_device_is_left_alone(
    given: str, seen: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    take_devices(1, 3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(("given", "threads"), [("3", "3"), ("3,2", "3"), ("", "1"), ("auto", "1")])
def test_after_the_fork_the_threads_that_are_meant_for_a_worker_are_taken_and_torch_is_told(
    given: str, threads: str, monkeypatch: pytest.MonkeyPatch
):
    told: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=told.append))
    monkeypatch.setenv("worker_threads", given)
    for variable in THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    take_threads()
    assert {os.environ[variable] for variable in THREAD_VARIABLES} == {threads}
    assert told == ([] if threads == "1" else [3])
