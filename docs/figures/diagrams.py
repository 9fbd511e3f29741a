"""Draws the diagrams of the whole: ``make reference``, or ``python -m docs.figures.diagrams``.

Owns their descriptions: one request, one reconcile, the states of a request in the engine. The names in them
are the code's; tests/docs/test_diagrams.py looks each of them up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent

_INK, _GRAY, _BLUE, _FILL, _LINE = "#1f2933", "#5f6b76", "#1769aa", "#eef4fa", "#b9c4ce"
_MONO: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


@dataclass(frozen=True, slots=True)
class Part:
    """A column: a room of the program, or a neighbor of it."""

    key: str
    title: str
    names: tuple[str, ...] = ()
    """``path.py:Name`` of each module and class in it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A row: one part calls another, or returns something to it."""

    start: str
    end: str
    call: str = ""
    """``Class.method`` or function of ``end``; empty if something is returned."""
    passes: str = ""
    """Types or words."""

    @property
    def text(self) -> str:
        """What stands on the arrow."""
        name = self.call.rpartition(".")[2]
        return f"{name}({self.passes})" if name else self.passes


@dataclass(frozen=True, slots=True)
class Sequence:
    """Steps from top to bottom between parts from left to right."""

    about: str
    parts: tuple[Part, ...]
    steps: tuple[Step, ...]


DATA_PATH: Final = Sequence(
    "One request: from the gateway through the watchdog to a worker and back",
    (
        Part("client", "gateway"),
        Part("front", "front end", ("front/protocol.py:HttpProtocol", "front/routes.py:Front")),
        Part("shell", "shell", ("shell.py:Shell",)),
        Part(
            "engine",
            "engine",
            ("engine/engine.py:Engine", "engine/policy.py:Slo", "engine/cost.py:CostModel"),
        ),
        Part("pool", "pool", ("pool/connection.py:Connection",)),
        Part("worker", "worker process", ("worker/serve.py:BatchWorker", "worker/handler.py:Handler")),
    ),
    (
        Step("client", "front", "HttpProtocol.data_received", "bytes"),
        Step("front", "front", "Front.handle", "Exchange"),
        Step("front", "shell", "Shell.offer", "Request"),
        Step("shell", "engine", "Engine.offer", "Request"),
        Step("shell", "engine", "Engine.tick", "now"),
        Step("engine", "engine", "Slo.choose", "queues"),
        Step("engine", "shell", passes="Dispatch, Cancel, WakeAt"),
        Step("shell", "pool", "Connection.send", "Batch"),
        Step("pool", "worker", passes="one frame"),
        Step("worker", "worker", "Handler.serve", "events"),
        Step("worker", "pool", passes="one frame"),
        Step("pool", "shell", "Shell.batch_done", "replies"),
        Step("shell", "engine", "Engine.batch_done", "replies"),
        Step("engine", "engine", "CostModel.learn", "seconds"),
        Step("engine", "shell", passes="Answer"),
        Step("shell", "front", "Front.deliver", "Answer"),
        Step("front", "client", passes="bytes"),
    ),
)

RECONCILE: Final = Sequence(
    "One reconcile: observe, decide, act, record",
    (
        Part("controller", "controller", ("controller.py:Controller", "leader.py:Leader")),
        Part("source", "source", ("sources/prometheus.py:PrometheusSource",)),
        Part("platform", "platform", ("platforms/openfaas.py:OpenFaas",)),
        Part(
            "law",
            "law",
            (
                "law/decide.py:decide",
                "law/policies.py:slo",
                "law/recommend.py:recommend",
                "law/allocate.py:allocate",
            ),
        ),
        Part("record", "record", ("journal.py:Journal", "metrics.py:Metrics")),
    ),
    (
        Step("controller", "controller", "Leader.leads"),
        Step("controller", "source", "PrometheusSource.observe"),
        Step("source", "controller", passes="Observation"),
        Step("controller", "platform", "OpenFaas.scales"),
        Step("platform", "controller", passes="Scale"),
        Step("controller", "law", "recommended", "Spec, Observation, Scale, Memory"),
        Step("law", "law", "slo"),
        Step("law", "controller", passes="Wish, with a Recommendation"),
        Step("controller", "law", "allocate", "Claim"),
        Step("controller", "law", "decided", "Wish, share, Memory"),
        Step("law", "controller", passes="Decision, Memory"),
        Step("controller", "record", "Journal.record", "Entry"),
        Step("controller", "record", "Metrics.decided", "Decision"),
        Step("controller", "platform", "OpenFaas.set_scale", "replicas"),
    ),
)

SEQUENCES: Final[Mapping[str, Sequence]] = {"data-path": DATA_PATH, "reconcile": RECONCILE}


@dataclass(frozen=True, slots=True)
class State:
    """Where the engine has a request."""

    name: str
    constant: str
    """Its name in ``engine/engine.py``."""
    note: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, and the methods of ``Engine`` in which it happens."""

    start: str
    end: str
    methods: tuple[str, ...]
    path: tuple[tuple[int, int], ...]
    label: tuple[int, int]


STATES: Final = (
    State("on time", "_ON_TIME", "in order of deadline", 40, 150),
    State("late", "_LATE", "backfill, or when idle", 330, 30),
    State("running", "_RUNNING", "in a worker's batch", 330, 300),
    State("suspect", "_SUSPECT", "tried again in parts", 600, 300),
    State("gone", "_GONE", "answered or abandoned", 760, 150),
)
_ENTER: Final = "offer"

TRANSITIONS: Final = (
    Transition("on time", "late", ("tick",), ((150, 150), (150, 55), (330, 55)), (160, 48)),
    Transition("on time", "running", ("tick",), ((150, 200), (150, 325), (330, 325)), (160, 318)),
    Transition("late", "running", ("tick",), ((385, 80), (385, 300)), (391, 270)),
    Transition("running", "suspect", ("worker_lost",), ((490, 315), (600, 315)), (500, 308)),
    Transition("suspect", "running", ("tick",), ((600, 337), (490, 337)), (530, 352)),
    Transition("running", "on time", ("worker_lost",), ((330, 340), (70, 340), (70, 200)), (76, 356)),
    Transition("on time", "gone", ("tick", "abandon", "give_up"), ((200, 175), (760, 175)), (520, 168)),
    Transition(
        "late", "gone", ("offer", "tick", "abandon", "give_up"), ((490, 55), (840, 55), (840, 150)), (500, 48)
    ),
    Transition(
        "running",
        "gone",
        ("batch_done", "worker_lost", "tick", "abandon", "give_up"),
        ((450, 300), (450, 225), (825, 225), (825, 200)),
        (456, 218),
    ),
    Transition(
        "suspect", "gone", ("tick", "abandon", "give_up"), ((760, 325), (885, 325), (885, 200)), (766, 343)
    ),
)

WIDTH: Final = 1000
_STATE: Final = (160, 50)
_ROW: Final = 30
_CHARACTER: Final = 7.3
"""Width of a monospaced character of 12 px."""


def names(sequence: Sequence) -> Iterator[tuple[str, str]]:
    """The modules and classes of a sequence, and what is called of them: (path, dotted name)."""
    known = {part.key: [name.split(":") for name in part.names] for part in sequence.parts}
    for places in known.values():
        yield from ((path, name) for path, name in places)
    for step in sequence.steps:
        if step.call:
            owner = step.call.partition(".")[0]
            found = [path for path, name in known[step.end] if name == owner]
            yield (found or [known[step.end][0][0]])[0], step.call


def svg(name: str) -> str:
    """One diagram as a file; raises ``KeyError`` for a name that there is not."""
    return _states() if name == "engine-states" else _sequence(SEQUENCES[name])


NAMES: Final = (*SEQUENCES, "engine-states")


def _sequence(sequence: Sequence) -> str:
    column = WIDTH // len(sequence.parts)
    lines = max(len(part.names) for part in sequence.parts)
    head = 34 + 14 * lines
    height = 10 + head + _ROW * (len(sequence.steps) + 1)
    middle = {part.key: column * index + column // 2 for index, part in enumerate(sequence.parts)}
    drawn = []
    for part in sequence.parts:
        x = middle[part.key]
        drawn.append(f'<line x1="{x}" y1="{10 + head}" x2="{x}" y2="{height - 10}" stroke="{_LINE}"/>')
        drawn.append(_box(x - column // 2 + 4, 10, column - 8, head))
        drawn.append(_text(x, 31, part.title, "middle", size=14, bold=True))
        for index, name in enumerate(part.names):
            drawn.append(
                _text(x, 50 + 14 * index, name.split(":")[0], "middle", mono=True, size=10, color=_GRAY)
            )
    for index, step in enumerate(sequence.steps):
        y = 10 + head + _ROW * (index + 1)
        start, end = middle[step.start], middle[step.end]
        if start == end:
            drawn.append(
                _arrow(
                    ((start, y - 8), (start + 26, y - 8), (start + 26, y + 6), (start + 3, y + 6)), solid=True
                )
            )
            last = step.end == sequence.parts[-1].key
            drawn.append(
                _text(start + (-6 if last else 32), y + 3, step.text, "end" if last else "start", mono=True)
            )
            continue
        drawn.append(_arrow(((start, y), (end + (3 if end < start else -3), y)), solid=bool(step.call)))
        drawn.append(_text((start + end) // 2, y - 6, step.text, "middle", mono=True))
    return _document(WIDTH, height, sequence.about, drawn)


def _states() -> str:
    wide, tall = _STATE
    drawn = [
        _arrow(((10, 175), (37, 175)), solid=True),
        _text(4, 165, _ENTER, "start", mono=True),
    ]
    for each in TRANSITIONS:
        drawn.append(_arrow(each.path, solid=True))
        drawn.append(_text(*each.label, ", ".join(each.methods), "start", mono=True))
    for state in STATES:
        drawn.append(_box(state.x, state.y, wide, tall))
        drawn.append(_text(state.x + wide // 2, state.y + 21, state.name, "middle", size=14, bold=True))
        drawn.append(_text(state.x + wide // 2, state.y + 39, state.note, "middle", color=_GRAY))
    return _document(
        WIDTH, 370, "The states of a request in the engine, and the calls that change them", drawn
    )


def _document(width: int, height: int, about: str, drawn: list[str]) -> str:
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" font-family="system-ui, sans-serif">\n'
        f"<title>{escape(about)}</title>\n"
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
        f' orient="auto"><path d="M0 0 8 4 0 8z" fill="{_BLUE}"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


def _box(x: int, y: int, width: int, height: int) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{_FILL}" stroke="{_BLUE}"/>'


def _arrow(points: tuple[tuple[int, int], ...], *, solid: bool) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    dashes = "" if solid else ' stroke-dasharray="5 4"'
    return f'<polyline points="{path}" fill="none" stroke="{_BLUE}"{dashes} marker-end="url(#end)"/>'


def _text(
    x: int,
    y: int,
    text: str,
    anchor: str,
    *,
    mono: bool = False,
    size: int = 12,
    bold: bool = False,
    color: str = _INK,
) -> str:
    family = f' font-family="{_MONO}"' if mono else ""
    weight = ' font-weight="600"' if bold else ""
    ground = ""
    if mono and color == _INK:  # a label stays readable where a line passes under it
        wide = round(_CHARACTER * len(text)) + 4
        left = {"start": x - 2, "middle": x - wide // 2, "end": x - wide + 2}[anchor]
        ground = f'<rect x="{left}" y="{y - 11}" width="{wide}" height="14" fill="white"/>'
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{color}"{family}{weight}'
    return f'{ground}<text x="{x}" y="{y}" {style}>{escape(text)}</text>'


def main() -> None:
    """Draw all of them."""
    for name in NAMES:
        (FOLDER / f"{name}.svg").write_text(svg(name))


if __name__ == "__main__":
    main()
