"""A floor under Knative's own autoscaler, on an API server."""

import pytest

from slo_autoscaler.errors import FunctionGoneError, PlatformError, ScaleChangedError
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.keys import FLOOR_APPLIED, FLOOR_ORIGINAL, MIN_SCALE, MODE
from slo_autoscaler.platforms.knative.objects import CONFIG_MAPS, REVISIONS
from slo_autoscaler.platforms.leader import Alone
from support import doubles
from support.cluster import delete, on_double
from support.doubles import decide, has_listed
from support.knative_world import Standby, drive

pytestmark = on_double

MAX_SCALE = "autoscaling.knative.dev/max-scale"
PATCHES = "PATCH /apis/serving.knative.dev"


@pytest.fixture
def floor(start):
    """Start the platform; without a leader the test takes its thread's steps."""
    return lambda leader=None: start(leader, mode="floor")


@pytest.fixture
def routed(world):
    """A revision of a labeled Service, with all the traffic."""
    world.route(r1=100)
    return world.revision()


@pytest.fixture
def platform(routed, floor):
    return floor()


def test_a_floor_is_written_seen_at_once_and_the_users_minimum_comes_back(world, floor):
    name = world.revision(desired=3, **{MIN_SCALE: "2", MAX_SCALE: "9"})
    world.route(r1=100)
    platform = floor(Alone())
    scale = Scale(desired=2, available=3, min=2, max=9, revision=name, unschedulable=0)
    world.until(lambda: platform.scales() == {world.function: scale}, "it is seen")
    assert platform.scale(world.function).desired == 2
    decide(platform, world.function, 5)
    given = {MIN_SCALE: "5", FLOOR_APPLIED: "5", FLOOR_ORIGINAL: "2"}
    assert world.annotations() == {MAX_SCALE: "9", **given}
    assert platform.scales()[world.function].desired == 5
    world.route(mode=None, r1=100)
    world.until(lambda: world.annotations() == {MIN_SCALE: "2", MAX_SCALE: "9"}, "its own minimum is back")
    world.until(lambda: platform.scales() == {}, "it is not ours any more")


def test_a_leader_that_led_before_has_forgotten_its_decisions(world, routed, platform):
    decide(platform, world.function, 4)
    world.leader.leading = False
    drive(platform)
    theirs = {MIN_SCALE: "2", FLOOR_APPLIED: "2"}
    world.change(REVISIONS, routed, metadata={"annotations": theirs})
    world.until(lambda: platform.scales()[world.function].desired == 2, "another leader's floor is seen")
    world.leader.leading = True
    world.settle(platform)
    assert world.annotations()[MIN_SCALE] == "2"


def test_a_rollout_takes_the_floor_along(world, platform):
    decide(platform, world.function, 4)
    world.revision(2, ready="Unknown")
    world.until(lambda: world.annotations(2).get(MIN_SCALE) == "4", "before it is routed", platform)
    world.revision(2)
    world.route(r2=100)
    world.until(lambda: MIN_SCALE not in world.annotations(1), "the old one may go to zero", platform)
    world.settle(platform)
    assert world.annotations(2)[MIN_SCALE] == "4"


def test_a_decision_on_a_floor_that_another_writer_has_changed_is_left_out(world, routed, platform):
    decide(platform, world.function, 4)
    seen = platform.scales()[world.function]
    world.change(REVISIONS, routed, metadata={"annotations": {MIN_SCALE: "2", FLOOR_APPLIED: "2"}})
    world.until(lambda: platform.scales()[world.function].desired == 2, "the watch reports it")
    world.leader.leading = False
    drive(platform)  # what it decided is forgotten: another leader's floor is seen
    world.leader.leading = True
    with pytest.raises(ScaleChangedError, match="the floor has become 2 where it was 4"):
        platform.set_scale(world.function, 5, seen)
    assert world.annotations()[MIN_SCALE] == "2"


def test_standby_gives_no_floor(world, routed, floor):
    platform = floor(Standby())
    world.until(lambda: world.function in platform.scales(), "it is seen")
    with pytest.raises(PlatformError, match="not the leader"):
        decide(platform, world.function, 5)
    drive(platform)
    assert MIN_SCALE not in world.annotations()


@pytest.mark.parametrize("route", [True, False])
def test_a_function_that_is_not_labeled_or_not_routed_has_no_floor(world, floor, route):
    world.revision()
    if route:
        world.route(mode=None, r1=100)
    platform = floor()
    world.until(lambda: has_listed(platform), "it has listed")
    assert platform.scales() == {}
    with pytest.raises(FunctionGoneError, match=rf"no route to it has the label {MODE}"):
        decide(platform, world.function, 5)
    drive(platform)
    assert MIN_SCALE not in world.annotations()


@pytest.mark.parametrize("mode", ["shadow", "recommend", "off"])
def test_a_function_that_is_not_active_has_no_floor_and_the_count_that_knative_wants(world, platform, mode):
    decide(platform, world.function, 4)
    world.revision(desired=3)
    world.route(mode=mode, r1=100)
    world.until(lambda: MIN_SCALE not in world.annotations(), "the floor is taken back", platform)
    world.until(lambda: platform.scale(world.function).desired == 3, "Knative's count is told")
    assert platform.scales()[world.function].mode == mode
    world.route(mode="active", r1=100)
    world.settle(platform)
    assert MIN_SCALE not in world.annotations(), "the decision from before is forgotten"


def test_a_knative_that_is_too_old_or_unknown_is_refused_by_name(world, routed, floor):
    world.configure(version="1.21.0")
    assert world.function in floor().scales()
    world.configure(version="1.20.1")
    with pytest.raises(PlatformError, match=r"floor needs Knative 1\.21 or later; this is 1\.20"):
        floor().scales()
    delete(world.cluster, CONFIG_MAPS.path("knative-serving", "config-autoscaler"))
    with pytest.raises(PlatformError, match="config-autoscaler"):
        floor().scales()


def test_a_refused_floor_is_an_error_that_says_why_and_no_decision(api, world, platform):
    api.faults[PATCHES] = doubles.status(400, b'{"message": "max-scale=6 is less than min-scale=9"}')
    with pytest.raises(PlatformError, match="max-scale=6 is less than min-scale=9"):
        decide(platform, world.function, 9)
    api.faults.clear()
    world.settle(platform)
    assert MIN_SCALE not in world.annotations()
