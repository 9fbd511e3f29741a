"""Gives one worker its CUDA devices and the threads of its maths libraries.

Sets the process's environment and calls libraries that are already loaded; imports no model library. Called
by ``serve`` before it loads the handler, or after the fork from a process that has loaded it.
"""

import ctypes
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from batching_watchdog.process.machine import THREAD_VARIABLES, available_cpus, cuda_devices

_SETTERS: Final = (
    ("OMP_NUM_THREADS", re.compile(r"lib(gomp|omp|iomp5)\b"), ("omp_set_num_threads",)),
    ("MKL_NUM_THREADS", re.compile(r"libmkl_rt\b"), ("MKL_Set_Num_Threads",)),
    (
        "OPENBLAS_NUM_THREADS",
        re.compile(r"lib(scipy_)?openblas"),
        tuple(f"{a}openblas_set_num_threads{b}" for a in ("", "scipy_") for b in ("", "64_")),
    ),
)
"""For each maths library: the variable that it reads when it is loaded, the name of its file, and the
functions that change the number of threads later, by the names of different builds."""


def device() -> str:
    """Return torch's name of this worker's device: ``cuda`` is the first that ``take_devices`` has left."""
    return "cuda" if cuda_devices(os.environ) else "cpu"


def threads() -> int:
    """Return the threads meant for math libraries; without ``OMP_NUM_THREADS`` one for each CPU."""
    if os.environ.get("OMP_NUM_THREADS"):
        return _threads("OMP_NUM_THREADS")
    return max(1, int(available_cpus()))


def take_devices(index: int, workers: int) -> None:
    """Reduce ``CUDA_VISIBLE_DEVICES`` to this worker's share, if it names several.

    CUDA reads the variable later, when it is initialized.
    """
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share(devices, index, workers))


def share(devices: Sequence[str], index: int, workers: int) -> Sequence[str]:
    """Return the devices of worker ``index``: disjoint shares, or one each in turn if too few exist."""
    return devices[index::workers] or (devices[index % len(devices)],)


@contextmanager
def one_thread() -> Iterator[None]:
    """Give maths libraries that are loaded meanwhile one thread: a pool of threads survives no fork."""
    before = {variable: os.environ.get(variable) for variable in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


def take_threads() -> None:
    """Give the maths libraries that were loaded under ``one_thread`` the threads of their variables.

    A library that is loaded later reads its variable itself; an unknown one keeps its one thread.
    """
    meant = {variable: _threads(variable) for variable in THREAD_VARIABLES}
    if max(meant.values()) > 1:
        _set_threads(meant)


def change_threads(count: int) -> None:
    """Give the maths libraries of this process ``count`` threads, those that are loaded later too."""
    meant = dict.fromkeys(THREAD_VARIABLES, count)
    os.environ.update({variable: str(count) for variable in meant})
    _set_threads(meant)


def _set_threads(meant: Mapping[str, int]) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(meant["OMP_NUM_THREADS"])
    for file in _loaded_libraries():
        for variable, name, setters in _SETTERS:
            if name.match(file.name):
                with suppress(OSError):  # it has been deleted since
                    library = ctypes.CDLL(str(file))
                    for setter in setters:
                        if hasattr(library, setter):
                            getattr(library, setter)(meant[variable])


def _threads(variable: str) -> int:
    """Return the number in the variable, for OpenMP the first of several; 1 without a number."""
    value = os.environ.get(variable, "").partition(",")[0].strip()
    return max(1, int(value)) if value.isdecimal() else 1


def _loaded_libraries() -> set[Path]:
    """Return the files of the shared libraries in this process; an empty set where there is no /proc."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else ()
    return {Path(line.split(maxsplit=5)[-1]) for line in lines if ".so" in line}
