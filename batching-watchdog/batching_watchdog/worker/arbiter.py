"""The gunicorn arbiter: which worker takes which slot, what a death while loading means, preloading.

gunicorn owns the processes; this module only watches them end. It runs in the arbiter process, started by
``pool.supervisor`` as ``python -m batching_watchdog.worker.arbiter``. With ``preload`` it loads the function
once, before the workers are forked; where a fork would break it, it refuses or begins again without.
Next step: ``serve``, in the forked process.
"""

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from batching_watchdog.errors import HandlerNotLoaded, LoadTimedOut
from batching_watchdog.function import left_stack
from batching_watchdog.launch import die_with_parent
from batching_watchdog.worker.devices import one_thread
from batching_watchdog.worker.serve import BatchWorker, Preloaded, load_handler, stack_folder

BACKOFF_SECONDS: Final = (0.0, 0.5, 1.0)
"""What a worker waits before it loads, by how many before it in its slot died while they loaded; one more,
and it does not load."""
SHORT_LIFE_SECONDS: Final = 5.0
SHORT_LIVES_SECONDS: Final = (0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 5.0)
"""What a worker waits before it loads, by how many before it in its slot died within ``SHORT_LIFE_SECONDS``
of loading and had served nothing. The first three are free: an input that kills takes up to three along."""
VAIN_FORKS: Final = 8
"""After so many deaths before any worker has served a batch, the fork may be what they die of."""
SETTLE_SECONDS: Final = 0.5
"""What a thread that load() has joined gets to be gone from the kernel's list."""
SHOWN: Final = 5
"""Threads and files that a message names."""
_HARMLESS: Final = frozenset(("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"))
"""Files that processes may share, whoever reads."""
_HINTS: Final = {
    "SIGKILL": " (out of memory?)",
    "SIGSEGV": " (PYTHONFAULTHANDLER=1 shows where)",
    "SIGABRT": " (PYTHONFAULTHANDLER=1 shows where)",
}


class Slot:
    """How the workers in one of the pool's places ended, and what the next one is to wait for that."""

    __slots__ = ("deaths", "short_lives")

    def __init__(self) -> None:
        self.deaths = 0
        """Workers in a row that died while they loaded."""
        self.short_lives = 0
        """Workers in a row that died soon after they had loaded, and had served nothing."""

    def ended(self, lived: float | None, *, useful: bool) -> None:
        """A worker ended, ``lived`` seconds after it had loaded; None if it had not.

        ``useful``: it had served a batch, or was told to leave.
        """
        if lived is None:
            self.deaths += 1
            return
        self.deaths = 0
        self.short_lives = 0 if useful or lived > SHORT_LIFE_SECONDS else self.short_lives + 1

    def give_up(self) -> None:
        """The next worker is not to load."""
        self.deaths = len(BACKOFF_SECONDS)

    @property
    def wait(self) -> float | None:
        """Seconds that the next worker waits before it loads; None: it is not to load."""
        if self.deaths >= len(BACKOFF_SECONDS):
            return None
        lives = min(self.short_lives, len(SHORT_LIVES_SECONDS) - 1)
        return max(BACKOFF_SECONDS[self.deaths], SHORT_LIVES_SECONDS[lives])


class BatchArbiter(Arbiter):  # type: ignore[misc] # gunicorn is not typed
    """gunicorn's arbiter, which replaces workers that have served at once and others not in a hot loop."""

    # gunicorn ends when a worker ends with one of these, and a function may call os._exit with any status.
    WORKER_BOOT_ERROR = APP_LOAD_ERROR = -1

    def __init__(self, app: Application) -> None:
        self._slots: defaultdict[int, Slot] = defaultdict(Slot)
        self._report: HandlerNotLoaded | None = None
        """Why workers do not load any more."""
        self._served = False
        self._died_in_vain = 0
        """Whether a worker has served a batch, and how many died before."""
        super().__init__(app)

    def prepare(self, worker: BatchWorker) -> None:
        """Give ``worker``, which is about to be forked, the lowest free slot, and what it must know of it."""
        worker.tmp.notify()  # gunicorn never kills one that hangs before its first heartbeat
        taken = {each.slot for each in self.WORKERS.values()}
        worker.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        slot = self._slots[worker.slot]
        if slot.wait is None:
            worker.report = self._report
        else:
            worker.load_after = slot.wait

    def spawn_workers(self) -> None:
        """As gunicorn's, which sleeps after each worker: a second death meanwhile would wait for that."""
        while len(self.WORKERS) < self.num_workers:
            self.spawn_worker()

    def murder_workers(self) -> None:
        """As gunicorn's, but for workers that load: they end by ``load_timeout``, not for their silence."""
        for worker in self.WORKERS.values():
            if not worker.loaded_at and self.app.callable is None:
                worker.tmp.notify()
        super().murder_workers()

    def reap_workers(self) -> None:
        """As gunicorn's, but look at how they ended first."""
        last = ""
        for pid, worker in self.WORKERS.items():
            self._served |= worker.has_served
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is None:
                continue
            last = f"the last one {how_it_ended(end)}"
            self._died_in_vain += not ended_well(end)
            lived = time.monotonic() - worker.loaded_at if worker.loaded_at else None
            slot = self._slots[worker.slot]
            slot.ended(lived, useful=worker.has_served or ended_well(end))
            if lived is None and end.si_status == signal.SIGALRM and end.si_code != os.CLD_EXITED:
                slot.give_up()
                stack = left_stack(stack_folder(), pid)
                self._report = LoadTimedOut(float(os.environ["load_timeout"]), stack)
            elif lived is None:
                problem = f"{slot.deaths} workers in a row died while loading the handler; {last}"
                self._report = HandlerNotLoaded(problem)
        super().reap_workers()
        preloaded = self.app.callable
        if not last or not self.LISTENERS or preloaded is None:
            return
        if preloaded.problem is not None:
            # Every fork of this process has the same problem; only a new one may load.
            raise HaltServer(str(preloaded.problem), 1)
        in_vain = 0 if self._served else self._died_in_vain
        if in_vain >= VAIN_FORKS and os.environ["preload"] == "auto":
            self.stop(graceful=False)
            begin_again(f"{in_vain} workers died before one had served a batch; {last}")


class FunctionApplication(Application):  # type: ignore[misc] # gunicorn is not typed
    """The function as gunicorn's application: no WSGI, and loaded here only to be preloaded."""

    def init(self, parser: Any, opts: Any, args: Any) -> None:
        """gunicorn's: settings from beside the command line; none."""

    def load_config(self) -> None:
        """As gunicorn's, with our hook before each fork."""
        super().load_config()
        self.cfg.set("pre_fork", BatchArbiter.prepare)
        self.cfg.set("preload_app", os.environ.get("preload", "false") != "false")

    def load(self) -> Preloaded:
        """gunicorn's, called before the workers are forked if the function is to be preloaded.

        Does not return if that is so by default only and a fork would break the function.
        """
        return preload(required=os.environ["preload"] == "true")

    def run(self) -> None:
        """As gunicorn's, with our arbiter."""
        BatchArbiter(self).run()


def preload(*, required: bool) -> Preloaded:
    """Load the function for workers yet to be forked; a problem is kept for them to report.

    Where a fork would break the function that is a problem if ``required``; else this process begins again.
    """
    before = open_files()
    try:
        with one_thread():
            handler = load_handler()
    except HandlerNotLoaded as error:
        return Preloaded(None, error)
    reason = unsafe_to_fork()
    if reason is not None and required:
        return Preloaded(None, HandlerNotLoaded(f"preload=true: {reason}"))
    reason = reason or (None if required else shared_by_fork(before))
    if reason is not None:
        begin_again(reason)
    # What is frozen is never walked by a collector, and what is free is given back, so neither is copied.
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return Preloaded(handler, None)


def begin_again(reason: str) -> NoReturn:
    """Become an arbiter whose workers load the function for themselves: nothing of this one is left."""
    sys.stderr.write(f"preload=auto: {reason}. Each worker loads the handler for itself now.\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ["preload"] = "false"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command


def unsafe_to_fork() -> str | None:
    """Why the workers must not be forked from this process now, or None.

    PyTorch's notes on multiprocessing name both reasons: an accelerator's runtime that was initialized
    before the fork ("poison fork"), and background threads, of which a fork copies the locks but not the
    threads (https://docs.pytorch.org/docs/stable/notes/multiprocessing.html). OpenMP's pool is such threads.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return (
            "load() initialized CUDA, which cannot be used after a fork: "
            "load to the CPU and move the model in the first batch, or set preload=false"
        )
    deadline = time.monotonic() + SETTLE_SECONDS
    while (threads := other_threads()) and time.monotonic() < deadline:
        time.sleep(0.02)
    if threads:
        return (
            f"{len(threads)} more thread(s) run after load() ({_some(threads)}), and a fork would lose them: "
            "start them (or call set_num_threads) in the first batch, or set preload=false"
        )
    return None


def shared_by_fork(before: Mapping[int, str]) -> str | None:
    """What load() has left open besides ``before``, and all workers would use at once; None if nothing.

    Whether they may cannot be seen: the position in a file, a connection to a database, another accelerator.
    """
    if not before:
        return "without /proc it cannot be known what load() leaves open: set preload to true or false"
    opened = [name for number, name in open_files().items() if before.get(number) != name]
    left = sorted(name for name in opened if name not in _HARMLESS)
    if not left:
        return None
    return (
        f"load() leaves {len(left)} file(s) or connection(s) open ({_some(left)}), and forked workers would "
        "share them: close them, or set preload=true if they may, else preload=false"
    )


def open_files() -> dict[int, str]:
    """Names of this process's open files by descriptor (Linux; else none)."""
    folder = Path("/proc/self/fd")
    found = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # it has just been closed: the one for this folder
            found[int(entry.name)] = str(entry.readlink())
    return found


def other_threads() -> list[str]:
    """Names of this process's threads but the calling one, those of native libraries too (Linux)."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        native = {int(task.name): f"native {_comm(task)}" for task in tasks.iterdir()}
        names = {number: names.get(number, name) for number, name in native.items()}
    return sorted(name for number, name in names.items() if number != threading.get_native_id())


def ended_well(end: os.waitid_result) -> bool:
    """Whether a worker left by itself: the watchdog closed its connection to have it replaced."""
    return end.si_code == os.CLD_EXITED and end.si_status == 0


def how_it_ended(end: os.waitid_result) -> str:
    """What happened to a process, in words."""
    if end.si_code == os.CLD_EXITED:
        return f"ended with status {end.si_status}"
    try:
        name = signal.Signals(end.si_status).name
    except ValueError:  # a real-time signal
        name = f"signal {end.si_status}"
    return f"was killed by {name}{_HINTS.get(name, '')}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _comm(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it has just ended
        return "ended"


def main() -> None:
    """Run gunicorn with this process's arguments, after the parent's process id as the first one."""
    die_with_parent(signal.SIGTERM, int(sys.argv[1]))
    sys.argv = ["gunicorn", *sys.argv[2:]]
    FunctionApplication("%(prog)s [OPTIONS]").run()


if __name__ == "__main__":
    main()
