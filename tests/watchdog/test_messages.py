import pytest

from batching_watchdog.messages import Batch, DispatchReason, Reply, Request


def test_reasons_are_a_closed_list_of_metric_label_values():
    assert {str(reason) for reason in DispatchReason} == {
        "idle",
        "full",
        "best_size",
        "deadline",
        "delay",
        "late",
        "retry",
        "profile",
    }


@pytest.mark.parametrize(
    "value",
    [
        Request(1, b"GET /\r\n", b"", 0.0, 1.0, 2.0),
        Reply(200, b"", b""),
        Batch((), DispatchReason.IDLE, 0.0),
    ],
)
def test_messages_can_not_be_changed_on_their_way(value: object):
    with pytest.raises((AttributeError, TypeError)):
        value.body = b"other"  # type: ignore[attr-defined] # that it cannot be set is the point


def test_a_reply_is_no_failure_unless_it_says_so():
    assert not Reply(500, b"", b"").failed
