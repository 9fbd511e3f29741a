"""The five decisions of docs/scaling.md, computed again from what stands on that page alone."""

import re
from itertools import pairwise
from math import ceil, sqrt

import pytest

from docs import worked

PAGE = worked.PAGE.read_text()
SPREAD = sqrt(1 / (8 * (1 + 45 * 0.2)) + (0.4 * 0.25) ** 2)
HORIZON = 10 + 5


def table(name):
    """Return the titles and the rows of one of the page's tables."""
    part = PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]
    titles, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in part.strip().splitlines()
    ]
    return titles, rows


def number(text):
    return float(text.rstrip("%")) / (100 if text.endswith("%") else 1)


def interpolated(at, points):
    """Return the value at ``at`` between the two points beside it, (x, y) ascending."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1:
            return y0 + (y1 - y0) * max(0.0, at - x0) / (x1 - x0)
    return points[-1][1]


TITLES, CURVE = table("curve")
LATE = [(float(row[0]), number(row[TITLES.index(f"late, {round(SPREAD, 2):g}")])) for row in CURVE]
SAVED = [(float(row[0]), number(row[TITLES.index(f"saved, {round(SPREAD, 2):g}")])) for row in CURVE]
BEYOND = [(load, 1 - 1 / load) for load in (2.0, 3.0, 6.0, 12.0)]
"""By the page's sentence below its table."""
LOAD = [(late, load) for load, late in LATE if 1e-5 < late < 0.5]
FORMULAS = PAGE.split("### Late requests allowed now")[1]
RESERVED, UNSPENT, MOST, THIRD = (
    float(re.search(rf"{before}([\d.]+)", FORMULAS)[1])
    for before in (r"objective\) x ", "unspent / ", "at most ", "at least 1/")
)
NEEDY, DEAREST = map(
    float, re.search(r"is below (-[\d.]+)[^.]*at most ([\d.]+) x the expected", PAGE).groups()
)
NAMES, ROWS = table("worked")
COLUMNS = {name: {row[0]: row[index] for row in ROWS} for index, name in enumerate(NAMES) if name}


def allowed(left):
    return 0.01 * RESERVED * min(max(1 + left / UNSPENT, 1 / THIRD), MOST)


def by_hand(column):
    """Return (late by count, recommended count, count after the limits), by the steps of the page."""
    goodput = 45 / interpolated(0.01, LOAD) * float(column["correction"])
    rate = float(column["R, requests per second"])
    odds = [
        (float(key.split()[2]), number(value)) for key, value in column.items() if key.startswith("odds of")
    ]
    expected = rate * sum(ratio * share for ratio, share in odds) / sum(share for _, share in odds)

    def late(count):
        total = sum(
            share * ratio * interpolated(ratio * rate / (count * goodput), LATE + BEYOND)
            for ratio, share in odds
        )
        return total / sum(share * ratio for ratio, share in odds)

    load = interpolated(allowed(float(column["unspent budget"])), LOAD)
    worth = goodput * interpolated(load, SAVED)
    if float(column["unspent budget"]) < NEEDY:
        worth = min(worth, DEAREST * expected)
    steady = ceil(float(column["median of the rates to come"]) / (load * goodput))
    count = next(n for n in range(steady, 50) if expected * (late(n) - late(n + 1)) < worth)
    now, in_flight = int(column["replicas"]), float(column["in flight"])
    if in_flight:
        waiting = max(0.0, in_flight - now * 45 * 0.2)
        count = max(count, ceil((rate + waiting / (3 * HORIZON)) / goodput))
    if count > now:
        after = min(count, max(now * 2, now + 4))
    else:
        after = min(now, max(count, int(column["enough until now"]), min(ceil(now / 2), now - 1)))
    return late, count, after


@pytest.mark.parametrize("at", worked.situations(), ids=lambda at: at.title)
def test_decision_by_hand_from_the_page_is_that_of_the_law(at):
    late, count, after = by_hand(COLUMNS[at.title])
    decision, _ = at.decide()
    assert (count, after) == (decision.inputs["recommended"], decision.replicas)
    told = {
        decision.replicas + step: decision.inputs[name]
        for step, name in ((-1, "predicted_fewer"), (0, "predicted"), (1, "predicted_more"))
    }
    for replicas, share in told.items():
        assert late(replicas) == pytest.approx(share, rel=0.2, abs=0.001)


def test_the_page_says_what_the_law_says_now():
    assert worked.filled(PAGE) == PAGE, "out of date: run make reference"
