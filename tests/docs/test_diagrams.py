"""The diagrams of the whole have the names, the effects and the states of the code."""

import random
import re
from typing import Any, get_args

import pytest
from docs.figures import diagrams

from batching_watchdog.engine import effects, engine
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Dispatch
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Reply, Request
from docs.test_code import camels, source_exists

SLO = 0.2
PUBLIC = ("offer", "tick", "batch_done", "worker_lost", "abandon", "give_up")


@pytest.mark.parametrize("name", diagrams.NAMES)
def test_diagram_is_drawn_from_its_description(name: str):
    text = (diagrams.FOLDER / f"{name}.svg").read_text()
    assert text == diagrams.svg(name), "out of date: run make reference"


@pytest.mark.parametrize("name", diagrams.SEQUENCES)
def test_sequence_names_only_modules_classes_and_calls_that_exist(name: str):
    assert [place for place in diagrams.names(diagrams.SEQUENCES[name]) if not source_exists(*place)] == []


@pytest.mark.parametrize("name", diagrams.SEQUENCES)
def test_sequence_passes_only_types_that_exist(name: str):
    types = {word for step in diagrams.SEQUENCES[name].steps for word in re.findall(r"[A-Z]\w+", step.passes)}
    assert types
    assert types <= camels()


def test_data_path_shows_every_effect_of_the_engine():
    steps = [step for step in diagrams.DATA_PATH.steps if step.start == "engine" and not step.call]
    shown = {word for step in steps for word in step.passes.split(", ")}
    assert shown == {effect.__name__ for effect in get_args(effects.Effect)}


class Recorded(Request):
    """A request that tells its changes of place."""

    def __init__(self, changes: set[tuple[str, str, str]], during: list[str], *args: Any) -> None:
        self._changes, self._during, self._now = changes, during, ""
        super().__init__(*args)

    @property
    def place(self) -> int:
        return self._place

    @place.setter
    def place(self, value: int) -> None:  # type: ignore[override]
        before, self._place = self._now, value
        if self._during:  # the constructor's is none
            self._now = STATES[value]
            self._changes.add((before, self._now, self._during[-1]))


STATES = {getattr(engine, state.constant): state.name for state in diagrams.STATES}


class Worker:
    """A worker that answers when the test lets it."""


def test_engine_states_are_those_that_the_engine_goes_through():
    """Random loads and failures, until nothing new is seen for long."""
    drawn = {(each.start, each.end, method) for each in diagrams.TRANSITIONS for method in each.methods}
    drawn.add(("", "on time", "offer"))
    seen: set[tuple[str, str, str]] = set()
    for seed in range(60):
        seen |= walk(random.Random(seed), shed=bool(seed % 5 == 0))
    assert seen == drawn


def walk(chance: random.Random, *, shed: bool) -> set[tuple[str, str, str]]:
    """The changes of place in one run of 300 events: (from, to, method)."""
    changes: set[tuple[str, str, str]] = set()
    during: list[str] = []
    cost = CostModel(8)
    for size in (1, 2, 4, 8) * 5:
        cost.learn_any(size, 0.02 + 0.01 * size)
    made = Engine(
        POLICIES["slo"](PolicySettings(8, 0.0, SLO)),
        cost,
        max_inflight=12,
        workers=2,
        shed_late=shed,
        lead=0.005,
    )
    crew: list[Worker] = [Worker(), Worker()]
    busy: dict[Worker, list[int]] = {}
    requests: list[Recorded] = []
    now = 0.0

    def call(method: str, *args: Any) -> Any:
        during.append(method)
        try:
            return getattr(made, method)(*args)
        finally:
            during.pop()

    for each in crew:
        made.worker_ready(each)
    for number in range(300):
        now += chance.choice((0.001, 0.01, 0.05, 0.2))
        event = chance.random()
        if event < 0.55:
            request = Recorded(
                changes, during, number, b"", b"", now, now + SLO, now + chance.choice((0.3, 1.0, 5.0))
            )
            requests.append(request)
            try:
                call("offer", request, now)
            except QueueFull:
                requests.pop()
        elif event < 0.75 and busy:
            worker = chance.choice(list(busy))
            call("batch_done", worker, [Reply(200, b"", b"")] * busy[worker].pop(0), now)
            if not busy[worker]:
                del busy[worker]
            made.worker_ready(worker)
        elif event < 0.85 and busy:
            worker = chance.choice(list(busy))
            del busy[worker]
            call("worker_lost", worker)
            made.worker_ready(Worker())
        elif event < 0.93 and requests:
            call("abandon", chance.choice(requests), now)
        elif event > 0.997:
            call("give_up", QueueFull(12, 1))
        for effect in call("tick", now):
            if isinstance(effect, Dispatch):
                busy.setdefault(effect.worker, []).append(len(effect.batch.requests))  # type: ignore[arg-type]
    return changes
