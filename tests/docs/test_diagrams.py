"""The diagrams of the whole have the names, the effects and the states of the code."""

import re
from typing import get_args

import pytest
from docs.figures import diagrams

from batching_watchdog.engine import effects, engine
from docs.test_code import source_exists, words


@pytest.mark.parametrize("name", diagrams.NAMES)
def test_diagram_is_drawn_from_its_description(name):
    text = (diagrams.FOLDER / f"{name}.svg").read_text()
    assert text == diagrams.svg(name), "out of date: run make reference"


@pytest.mark.parametrize("name", diagrams.SEQUENCES)
def test_sequence_names_only_modules_classes_and_calls_that_exist(name):
    assert [place for place in diagrams.names(diagrams.SEQUENCES[name]) if not source_exists(*place)] == []


@pytest.mark.parametrize("name", diagrams.SEQUENCES)
def test_sequence_passes_only_types_that_exist(name):
    types = {word for step in diagrams.SEQUENCES[name].steps for word in re.findall(r"[A-Z]\w+", step.passes)}
    assert types
    assert types <= words()


def test_data_path_shows_every_effect_of_the_engine():
    steps = [step for step in diagrams.DATA_PATH.steps if step.start == "engine" and not step.call]
    shown = {word for step in steps for word in step.passes.split(", ")}
    assert shown == {effect.__name__ for effect in get_args(effects.Effect)}


def test_states_and_the_methods_between_them_are_those_of_the_engine():
    assert {state.constant for state in diagrams.STATES} <= vars(engine).keys()
    methods = {method for each in diagrams.TRANSITIONS for method in each.methods}
    assert methods <= vars(engine.Engine).keys()
