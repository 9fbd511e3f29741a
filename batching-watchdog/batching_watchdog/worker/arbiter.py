"""Extends gunicorn's arbiter: gives workers their indexes, delays or stops restarts, preloads the function.

gunicorn owns the processes; this module only observes their ends. It runs in the arbiter process, started by
``pool.gunicorn`` as ``python -m batching_watchdog.worker.arbiter``. With ``preload`` it loads the function
once, before the workers are forked. If a fork would break the function, it refuses, or restarts without
preload. Next step: ``serve``, in the forked process.
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
from batching_watchdog.process.launch import die_with_parent, how_it_ended
from batching_watchdog.process.stacks import left_stack, stack_folder
from batching_watchdog.worker.devices import one_thread, threads
from batching_watchdog.worker.serve import BatchWorker, Preloaded, load_handler

BACKOFF_SECONDS: Final = (0.0, 0.5, 1.0)
"""Seconds that a worker waits before it loads, by the number of earlier workers of its index that died while
loading. After one more death the next worker does not load."""
SHORT_LIFE_SECONDS: Final = 5.0
SHORT_LIVES_SECONDS: Final = (0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds that a worker waits before it loads, by the number of earlier workers of its index that died within
``SHORT_LIFE_SECONDS`` of loading and had served nothing. The first three do not wait, because one input can
kill up to three workers."""
VAIN_FORKS: Final = 8
"""Deaths before any worker has served a batch, after which the fork may be the cause."""
SETTLE_SECONDS: Final = 0.5
"""Time in which a thread that load() has joined must leave the kernel's list."""
SHOWN: Final = 5
"""Maximum number of threads or files that a message names."""
STARTED_IN: Final = Path.cwd()
"""Folder in which this process started. load() may change it, and the function's paths may be relative."""
CUDA_DEVICE: Final = "/dev/nvidia-uvm"
"""A process has this file open from its first call of CUDA's driver on."""
_HARMLESS: Final = frozenset(("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"))
"""Files that processes may share."""


class Restarts:
    """How the workers of one index ended, which gives the wait of the next one."""

    __slots__ = ("deaths", "short_lives")

    def __init__(self) -> None:
        self.deaths = 0
        """Workers in a row that died while loading."""
        self.short_lives = 0
        """Workers in a row that died soon after loading and had served nothing."""

    def ended(self, lived: float | None, *, useful: bool) -> None:
        """Record the end of a worker, ``lived`` seconds after loading; None: it had not loaded.

        ``useful``: it had served a batch, or was told to leave.
        """
        if lived is None:
            self.deaths += 1
            return
        self.deaths = 0
        self.short_lives = 0 if useful or lived > SHORT_LIFE_SECONDS else self.short_lives + 1

    def give_up(self) -> None:
        """Make the next worker not load."""
        self.deaths = len(BACKOFF_SECONDS)

    @property
    def wait(self) -> float | None:
        """Seconds that the next worker waits before it loads; None: it must not load."""
        if self.deaths >= len(BACKOFF_SECONDS):
            return None
        lives = min(self.short_lives, len(SHORT_LIVES_SECONDS) - 1)
        return max(BACKOFF_SECONDS[self.deaths], SHORT_LIVES_SECONDS[lives])


class BatchArbiter(Arbiter):  # type: ignore[misc] # gunicorn is not typed
    """gunicorn's arbiter, which replaces workers that have served at once, and others with a delay."""

    # gunicorn stops if a worker exits with one of these, and a function may call os._exit with any status.
    WORKER_BOOT_ERROR = APP_LOAD_ERROR = -1

    def __init__(self, app: Application) -> None:
        self._restarts: defaultdict[int, Restarts] = defaultdict(Restarts)
        self._report: HandlerNotLoaded | None = None
        """Reason for which workers no longer load."""
        self._stack = ""
        """The last logged stack."""
        self._served = False
        self._died_in_vain = 0
        """Number of workers that died before ``_served``: before any worker had served a batch."""
        super().__init__(app)

    def prepare(self, worker: BatchWorker) -> None:
        """Give ``worker``, which is about to be forked, the lowest free index with its wait or its report."""
        worker.tmp.notify()  # gunicorn never kills one that hangs before its first heartbeat
        taken = {other.index for other in self.WORKERS.values()}
        worker.index = next(index for index in range(len(taken) + 1) if index not in taken)
        restarts = self._restarts[worker.index]
        if restarts.wait is None:
            worker.report = self._report
        else:
            worker.load_after = restarts.wait

    def manage_workers(self) -> None:
        """Spawn missing workers. Surplus ones leave when the watchdog closes their connections."""
        with suppress(OSError, ValueError):  # it has not changed the number, or is writing it
            self.num_workers = int(self.app.count_file.read_text())
        self.spawn_workers()

    def spawn_workers(self) -> None:
        """Spawn missing workers without gunicorn's sleep after each, which would delay a second restart."""
        while len(self.WORKERS) < self.num_workers:
            self.spawn_worker()

    def murder_workers(self) -> None:
        """Kill silent workers as gunicorn does, except those that load, which ``load_timeout`` ends."""
        for worker in self.WORKERS.values():
            if not worker.loaded_at and self.app.callable is None:
                worker.tmp.notify()
        super().murder_workers()

    def reap_workers(self) -> None:
        """Reap workers as gunicorn does, and record first how they ended."""
        last = ""
        for pid, worker in self.WORKERS.items():
            self._served |= worker.has_served
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is None:
                continue
            status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
            timed_out = not worker.loaded_at and status == -signal.SIGALRM
            stack = left_stack(stack_folder(), pid)
            if stack and not timed_out:
                where = "in the same place" if stack == self._stack else f"with this stack\n{stack}"
                sys.stderr.write(f"worker {pid} {how_it_ended(status)} {where}\n")
                sys.stderr.flush()
                self._stack = stack
            hint = " (out of memory?)" if status == -signal.SIGKILL else ""
            last = f"the last one {how_it_ended(status)}{hint}"
            self._died_in_vain += not ended_well(end)
            lived = time.monotonic() - worker.loaded_at if worker.loaded_at else None
            restarts = self._restarts[worker.index]
            restarts.ended(lived, useful=worker.has_served or ended_well(end))
            if timed_out:
                restarts.give_up()
                self._report = LoadTimedOut(float(os.environ["load_timeout"]), stack)
            elif lived is None:
                problem = f"{restarts.deaths} workers in a row died while loading the handler; {last}"
                self._report = HandlerNotLoaded(problem)
        super().reap_workers()
        preloaded = self.app.callable
        if not last or not self.LISTENERS or preloaded is None:
            return
        if preloaded.problem is not None:
            # Every fork of this process has the same problem; only a new process may load.
            raise HaltServer(str(preloaded.problem), 1)
        in_vain = 0 if self._served else self._died_in_vain
        if in_vain >= VAIN_FORKS and os.environ["preload"] == "auto":
            self.stop(graceful=False)
            begin_again(f"{in_vain} workers died before one had served a batch; {last}")


class FunctionApplication(Application):  # type: ignore[misc] # gunicorn is not typed
    """The function as gunicorn's application: no WSGI; loaded here only with preload."""

    def __init__(self, count_file: Path) -> None:
        """``count_file``: has the number of workers, once the watchdog has changed it."""
        self.count_file = count_file
        super().__init__("%(prog)s [OPTIONS]")

    def init(self, parser: Any, opts: Any, args: Any) -> None:
        """Return no settings in addition to the command line."""

    def load_config(self) -> None:
        """Take the settings of the command line alone, and the hook before each fork.

        A gunicorn.conf.py in the folder, or GUNICORN_CMD_ARGS, is meant for another server.
        """
        for name, value in vars(self.cfg.parser().parse_args()).items():
            if value is not None and name != "args":
                self.cfg.set(name, value)
        self.cfg.set("pre_fork", BatchArbiter.prepare)
        self.cfg.set("preload_app", os.environ.get("preload", "false") != "false")

    def load(self) -> Preloaded:
        """Preload the function; gunicorn calls this before it forks the workers.

        With preload=auto it does not return if a fork would break the function.
        """
        return preload(required=os.environ["preload"] == "true")

    def run(self) -> None:
        """Run ``BatchArbiter`` in place of gunicorn's arbiter."""
        BatchArbiter(self).run()


def preload(*, required: bool) -> Preloaded:
    """Return the loaded function for the workers to be forked, or the problem for them to report.

    If a fork would break the function: a problem if ``required``, else this process restarts without preload.
    """
    before = open_files()
    try:
        count = threads()
        with one_thread():
            handler = load_handler(count)
    except HandlerNotLoaded as error:
        return Preloaded(None, error)
    reason = unsafe_to_fork()
    if reason is not None and required:
        return Preloaded(None, HandlerNotLoaded(f"preload=true: {reason}"))
    reason = reason or (None if required else shared_by_fork(before))
    if reason is not None:
        begin_again(reason)
    # Garbage collection skips frozen objects, and free memory goes back, so a fork copies neither.
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return Preloaded(handler, None)


def begin_again(reason: str) -> NoReturn:
    """Replace this process by an arbiter whose workers load the function for themselves."""
    sys.stderr.write(f"preload=auto: {reason}. Each worker loads the handler again, for itself.\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ["preload"] = "false"
    os.chdir(STARTED_IN)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command


def unsafe_to_fork() -> str | None:
    """Return the reason for which workers must not be forked from this process now, or None.

    PyTorch's notes on multiprocessing name both reasons: an accelerator's runtime that was initialized
    before the fork ("poison fork"), and background threads, of which a fork copies the locks but not the
    threads (https://docs.pytorch.org/docs/stable/notes/multiprocessing.html). OpenMP's pool is such threads.
    """
    # torch.cuda.is_available() opens the device, too, and torch does not count that as initialized.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if (cuda is not None and cuda.is_initialized()) or CUDA_DEVICE in open_files().values():
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
    """Return a message with the files that load() left open and workers would share; None: none is open.

    It cannot be known whether they may: a position in a file, a connection to a database, an accelerator.
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
    """Return the names of this process's open files by descriptor; {} where there is no /proc."""
    folder = Path("/proc/self/fd")
    names = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # it has just been closed: the one for this folder
            names[int(entry.name)] = str(entry.readlink())
    return names


def other_threads() -> list[str]:
    """Return the names of this process's other threads, on Linux those of native libraries too."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        native = {int(task.name): f"native {_comm(task)}" for task in tasks.iterdir()}
        names = {number: names.get(number, name) for number, name in native.items()}
    return sorted(name for number, name in names.items() if number != threading.get_native_id())


def ended_well(end: os.waitid_result) -> bool:
    """Return whether a worker left by itself, after the watchdog closed its connection to replace it."""
    return end.si_code == os.CLD_EXITED and end.si_status == 0


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _comm(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it has just ended
        return "ended"


def main() -> None:
    """Run gunicorn with this process's arguments, after the parent's process id and the file of the count."""
    parent, count_file, *arguments = sys.argv[1:]
    die_with_parent(signal.SIGTERM, int(parent))
    os.environ["load_stacks"] = str(Path(count_file).parent)
    sys.argv = ["gunicorn", *arguments]
    FunctionApplication(Path(count_file)).run()


if __name__ == "__main__":
    main()
