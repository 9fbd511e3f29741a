"""docs/scaling.md says when each reason of the closed list applies."""

import re
from pathlib import Path

from slo_autoscaler.model import Reason

SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_every_reason_is_explained():
    assert {reason.value for reason in Reason} <= set(re.findall(r"`(\w+)`", SCALING.read_text()))
