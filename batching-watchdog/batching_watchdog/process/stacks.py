"""Reads the stack that a process of the function leaves in a file when it hangs or crashes.

``worker.serve`` has ``faulthandler`` write the file; ``worker.arbiter`` and ``pool.gunicorn`` log it.
"""

import os
import re
import traceback
from pathlib import Path
from typing import Final

_DUMPED_FRAME: Final = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_OURS: Final = f"{Path(__file__).parents[1]}/"


def stack_folder() -> Path:
    """Return the folder in which processes that hang or crash leave their stacks."""
    return Path(os.environ["load_stacks"])


def stack_file(folder: Path, pid: int) -> Path:
    """Return the file for the stack of process ``pid``."""
    return folder / f"stack-{pid}"


def left_stack(folder: Path, pid: int) -> str:
    """Return the stack that process ``pid`` has left, and remove it; empty if there is none."""
    file = stack_file(folder, pid)
    try:
        dump = file.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    file.unlink(missing_ok=True)
    return stack_of(dump)


def stack_of(dump: str) -> str:
    """Return the dump of ``faulthandler`` in the form of a traceback.

    Each thread begins at the function's first frame, the loading thread first; empty without such frames.
    """
    threads: list[list[traceback.FrameSummary]] = []
    for line in dump.splitlines():
        if line.startswith(("Thread ", "Current thread ")):
            threads.append([])
        elif threads and (dumped := _DUMPED_FRAME.fullmatch(line)):
            threads[-1].insert(0, traceback.FrameSummary(dumped[1], int(dumped[2]), dumped[3]))
    loading: list[str] = []
    others: list[str] = []
    for frames in threads:
        ours = [index for index, frame in enumerate(frames) if frame.filename.startswith(_OURS)]
        begin = ours[-1] + 1 if ours else 0
        own = [frame for frame in frames[begin:] if not frame.filename.startswith("<frozen")]
        if own:
            (loading if ours else others).append("".join(traceback.format_list(own)))
    return "\n".join(f"Stack (most recent call last):\n{stack}" for stack in (*loading, *others)).rstrip()
