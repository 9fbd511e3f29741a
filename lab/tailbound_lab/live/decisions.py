"""What the autoscaler decided during a run, read from its decision log. [P]

The log has one JSON object on each line, among other lines; whatever is no decision is passed over. The next
step is :mod:`tailbound_lab.demo.report`, which shows why replicas came and went.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a function's replicas: when in the run (seconds), from how many to how many, and why."""

    seconds: float
    function_name: str
    before: int
    after: int
    reason: str


def parse(
    lines: Iterable[str], begun: datetime, duration: float, *, holds: bool = False
) -> tuple[Decision, ...]:
    """Return the changes that were decided within ``duration`` seconds of the beginning, in their order.

    With ``holds`` also the decisions to change nothing; the log has one when it is news.
    """
    found: list[Decision] = []
    for line in lines:
        if not line.startswith("{"):
            continue
        try:
            item = json.loads(line)
            decision = Decision(
                seconds=(datetime.fromisoformat(item["time"]) - begun).total_seconds(),
                function_name=item["function_name"],
                before=int(item["from"]),
                after=int(item["to"]),
                reason=str(item["reason"]),
            )
        except (ValueError, KeyError, TypeError):
            continue
        if (holds or decision.before != decision.after) and 0 <= decision.seconds <= duration:
            found.append(decision)
    return tuple(found)
