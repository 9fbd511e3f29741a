import pytest

from batching_watchdog.errors import REFUSALS, QueueFull, TooManyConnections


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if kind.status in (429, 503)])
def test_refusal_that_passes_has_the_time_to_try_again(kind):
    arguments = {QueueFull: (8, 3), TooManyConnections: (8,)}
    assert kind(*arguments.get(kind, ())).retry_after is not None
