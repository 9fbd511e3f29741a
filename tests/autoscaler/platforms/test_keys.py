"""Labels and annotations: which key is read how, and what becomes of wrong and unknown ones."""

import math
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.errors import UnreadableError
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.keys import (
    KNATIVE,
    KUBERNETES,
    MAX_REPLICAS,
    MIN_REPLICAS,
    MODE,
    OPENFAAS,
    OPENFAAS_HOLD,
    OPENFAAS_MAX,
    OPENFAAS_MIN,
    OPENFAAS_UID,
    OPENFAAS_ZERO,
    OPENFAAS_ZERO_DURATION,
    PLACES,
    Declaration,
    WrongKeyError,
)
from slo_autoscaler.settings.schedule import hold_of
from slo_autoscaler.settings.spec import Modes
from support.builders import BOMB

OBSERVED = Scale(desired=3, available=2, min=4, max=8, scaler="", revision="r-1", version="7")


def read(keys, labels=(), annotations=()):
    return keys.read(keys.texts(dict(labels), dict(annotations)))


def declared(keys, labels=(), annotations=(), modes=None):
    said = read(keys, labels, annotations)
    return keys.declared("f.ns", partial(replace, OBSERVED), said, modes or Modes())


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({}, Declaration()),
        ({OPENFAAS_MIN: "0", OPENFAAS_MAX: "7"}, Declaration(min=0, max=7)),
        ({OPENFAAS_MIN: ""}, Declaration()),
        ({OPENFAAS_ZERO: "True", OPENFAAS_ZERO_DURATION: "5m"}, Declaration(zero=True, zero_duration=300.0)),
        ({OPENFAAS_ZERO_DURATION: "0"}, Declaration()),
        ({OPENFAAS_UID: "17"}, Declaration(revision="17")),
        ({"app": "x", "com.openfaas.scale.type": "rps"}, Declaration()),
        (
            {OPENFAAS_MIN: "many", OPENFAAS_MAX: "-1"},
            Declaration(
                faults={
                    "min": f"label {OPENFAAS_MIN}: 'many' must be a whole number, or empty",
                    "max": f"label {OPENFAAS_MAX}: '-1' must be a whole number, or empty",
                }
            ),
        ),
    ],
)
def test_read_labels_of_openfaas_gives_their_fields(labels, said):
    assert read(OPENFAAS, labels) == said


@pytest.mark.parametrize(
    ("said", "zero_after"),
    [
        (Declaration(), None),
        (Declaration(zero=True), 900.0),
        (Declaration(zero=False, zero_duration=300.0), math.inf),
    ],
)
def test_zero_after_is_the_duration_where_the_label_allows_zero(said, zero_after):
    assert said.zero_after == zero_after


def test_read_label_where_an_annotation_is_meant_is_unknown_and_sets_nothing():
    said = read(KUBERNETES, {MODE: "", MIN_REPLICAS: "2"})
    assert said.min is None
    assert f"label {MIN_REPLICAS} is unknown, did you mean annotation {MIN_REPLICAS}?" in said.unknown


@pytest.mark.parametrize(
    ("keys", "labels", "known"),
    [
        (KUBERNETES, {"tailbound.dev/boost": ""}, True),
        (KNATIVE, {"tailbound.dev/boost": ""}, False),
        (OPENFAAS, {"tailbound.dev/boost": ""}, True),
        (OPENFAAS, {"com.tailbound.boost": ""}, False),
    ],
)
def test_read_key_of_another_object_is_known_where_it_may_stand(keys, labels, known):
    assert (read(keys, labels).unknown == "") is known


def test_read_thousands_of_unknown_keys_names_a_few_in_short():
    names = ["tailbound.dev/" + "x" * 300 + str(number) for number in range(2000)]
    said = read(KUBERNETES, {MODE: ""}, dict.fromkeys(["tailbound.dev/max-replica\n", *names], ""))
    assert f"tailbound.dev/max-replica\\n is unknown, did you mean annotation {MAX_REPLICAS}?" in said.unknown
    assert said.unknown.endswith("1,998 more are unknown")
    assert len(said.unknown) < 1000


def test_declared_fields_take_the_place_of_the_observed_and_others_stay():
    scale = declared(KUBERNETES, {MODE: "shadow"}, {MAX_REPLICAS: "9"})
    assert (scale.mode, scale.max, scale.min, scale.revision) == ("shadow", 9, 4, "r-1")
    assert (scale.desired, scale.version) == (OBSERVED.desired, OBSERVED.version)


def test_declared_zero_as_minimum_is_a_minimum():
    assert declared(OPENFAAS, {OPENFAAS_MIN: "0"}).min == 0


@pytest.mark.parametrize(
    ("keys", "labels", "annotations", "word"),
    [
        (KUBERNETES, {MODE: "on"}, {}, f"f.ns: label {MODE}: 'on'"),
        (KUBERNETES, {MODE: ""}, {MIN_REPLICAS: ""}, f"f.ns: annotation {MIN_REPLICAS}: ''"),
        (KUBERNETES, {MODE: ""}, {MAX_REPLICAS: "0"}, f"f.ns: annotation {MAX_REPLICAS}: '0'"),
        (KNATIVE, {MODE: ""}, {"tailbound.dev/hold": ""}, "f.ns: annotation tailbound.dev/hold"),
        (OPENFAAS, {}, {OPENFAAS_HOLD: "1"}, f"f.ns: annotation {OPENFAAS_HOLD}"),
        (OPENFAAS, {}, {OPENFAAS_HOLD: BOMB}, f"f.ns: annotation {OPENFAAS_HOLD}: must be JSON"),
    ],
)
def test_declared_wrong_key_is_unreadable_with_the_observed_count(keys, labels, annotations, word):
    with pytest.raises(UnreadableError) as caught:
        declared(keys, labels, annotations)
    assert word in str(caught.value)
    assert caught.value.replicas == 3


def test_keys_each_have_one_row_on_each_place():
    titles = [(place, title) for place, listed in PLACES.items() for key in listed for title in key.titles]
    assert len(titles) == len(set(titles))


_names = st.sampled_from([name for listed in PLACES.values() for key in listed for name in key.names])
_texts = st.sampled_from(["", "0", "7", "true", "off", "[]", "{}", "5m"]) | st.text(max_size=8)
_given = st.dictionaries(_names, _texts, max_size=6)


@settings(max_examples=100)
@given(st.sampled_from([OPENFAAS, KUBERNETES, KNATIVE]), _given, _given)
def test_declared_any_text_is_a_scale_or_one_with_last_good_values(keys, labels, annotations):
    try:
        scale = declared(keys, labels, annotations)
    except WrongKeyError as error:
        scale = error.with_last(OBSERVED)
        assert scale.wrong
    assert scale.desired == OBSERVED.desired


def test_with_last_takes_the_wrong_fields_alone_from_the_last_scale():
    last = Scale(1, 1, min=2, max=5, mode="recommend", hold=hold_of('{"until": "2026-12-01T09:00:00Z"}'))
    with pytest.raises(WrongKeyError) as caught:
        declared(KUBERNETES, {MODE: "on"}, {MIN_REPLICAS: "many", MAX_REPLICAS: "9"})
    scale = caught.value.with_last(last)
    assert (scale.mode, scale.min, scale.max, scale.hold) == ("recommend", 2, 9, None)
    assert (scale.desired, scale.available) == (OBSERVED.desired, OBSERVED.available)
