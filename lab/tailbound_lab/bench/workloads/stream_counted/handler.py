"""The model of ``stream``, which checks that each state is finished once: for ``bench stream-soak``.

Each worker keeps in ``$TMPDIR/states-PID`` how many states are open, and how many were finished twice.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tailbound_lab.bench.workloads.stream import handler

example, step = handler.example, handler.step
_open: set[handler.Stream] = set()
_twice = [0]


def start(events: Sequence[Any], context: Any) -> list[handler.Stream]:
    """Return one state per event, which is open from now on."""
    states = handler.start(events, context)
    _open.update(states)
    _write()
    return states


def finish(state: handler.Stream, context: Any) -> None:
    """Close a state."""
    del context
    _twice[0] += state not in _open
    _open.discard(state)
    _write()


def _write() -> None:
    (Path(tempfile.gettempdir()) / f"states-{os.getpid()}").write_text(f"{len(_open)} {_twice[0]}")
