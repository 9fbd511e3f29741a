import os
import subprocess
import sys

import pytest

from batching_watchdog.worker.devices import share, take_devices


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
def test_each_worker_has_its_share_of_the_devices(devices, workers, shares):
    assert ["".join(share(list(devices), index, workers)) for index in range(workers)] == shares


@pytest.mark.parametrize(("given", "seen"), [("0,1,2", "1"), ("7", "7"), ("", "")])
def test_worker_sees_its_share_of_several_devices_and_one_device_is_left_alone(given, seen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    take_devices(1, 3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


LOADING = """
import os
from batching_watchdog.worker.devices import change_threads, one_thread, take_threads

def numpy_threads():
    square = numpy.ones((500, 500))
    square @ square
    return len(os.listdir("/proc/self/task"))

with one_thread():
    import numpy
    print(numpy_threads())
take_threads()
print(numpy_threads(), os.environ["OPENBLAS_NUM_THREADS"], len(os.environ))
change_threads(4)
print(numpy_threads(), os.environ["OPENBLAS_NUM_THREADS"])
"""


def test_library_is_loaded_with_one_thread_and_has_what_is_meant_for_it_afterwards():
    environment = {"OPENBLAS_NUM_THREADS": "2", "LC_ALL": "C"}
    printed = subprocess.check_output([sys.executable, "-c", LOADING], env=environment, text=True)
    assert printed.split() == ["1", "2", "2", "2", "4", "4"]
