"""What is served: the model behind every system, with one code to decode, predict and encode for all of them.

A workload is a handler folder (``functions/`` for those that the project ships) with a latency target. Our
own server gets the folder; every peer calls :class:`Model`, which calls the same ``handle_batch``. This
module runs inside the peers' virtual environments: only the standard library here. The next step is
:mod:`tailbound_lab.bench.rig.systems`.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[4]
IMPORTS: Final = os.pathsep.join((str(ROOT / "lab"), str(ROOT / "batching-watchdog")))
"""Where a peer's interpreter, which has packages of its own, finds this one, and the types of handlers."""
FOLDER: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Workload:
    """A handler folder, its latency target in seconds."""

    name: str
    folder: Path
    slo: float
    first_rate: float
    """Requests per second at which the search for the maximum begins."""


WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType(
    {
        workload.name: workload
        for workload in (
            Workload("tabular", ROOT / "functions" / "tabular", 0.100, 400.0),
            Workload("text", FOLDER / "text", 0.050, 400.0),
            Workload("vision", ROOT / "functions" / "vision", 0.300, 40.0),
            Workload("accelerator", ROOT / "functions" / "accelerator", 0.100, 80.0),
        )
    }
)
"""The closed registry; ``accelerator`` is a simulation that sleeps."""

STREAM: Final = Workload("stream", FOLDER / "stream", 0.500, 3.0)
"""Its target is that of the first piece."""

_JSON: Final = json.JSONEncoder(separators=(",", ":"))


class Model:
    """A workload's handler, loaded: bodies in, JSON answers out, in order. What every peer serves."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("bench_handler", folder / "handler.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{folder / 'handler.py'} cannot be imported")
        handler: Any = importlib.util.module_from_spec(spec)
        sys.modules["bench_handler"] = handler
        spec.loader.exec_module(handler)
        self._parse = getattr(handler, "parse", lambda event: event)
        self._handle = handler.handle_batch
        self._context = SimpleNamespace(model=handler.load() if hasattr(handler, "load") else None)
        self.example: bytes = handler.example()

    def predict(self, bodies: Sequence[bytes]) -> list[bytes]:
        """One JSON answer per body. Raises ``ValueError`` for a body that the handler refuses."""
        inputs = [self._parse(SimpleNamespace(body=body)) for body in bodies]
        results = self._handle(inputs, self._context)
        return [_JSON.encode(result).encode() for result in results]


def model_of_environment() -> Model:
    """The model that the process was started for (``BENCH_FOLDER``); torch gets one thread, as with ours."""
    model = Model(Path(os.environ["BENCH_FOLDER"]))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return model
