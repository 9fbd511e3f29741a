"""Scores one row of 32 numbers with a multi-layer perceptron. JSON in, JSON out.

    {"features": [0.1, ...]}  ->  {"score": 0.37, "label": 0}

A batch is one JSON parse per row and one forward for all. A row that is not what it should be is its client's
400, and the model never sees it. The weights are random, from a fixed seed: there is nothing to download.
"""

import json
import math
import random
from array import array
from collections.abc import Sequence

import torch
from torch import nn

from batching_watchdog import Context, Event

FEATURES = 32
HIDDEN = 1024
SEED = 1


def load() -> nn.Module:
    """The model."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Linear(FEATURES, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 1),
        nn.Sigmoid(),
        nn.Flatten(0),
    ).eval()


def example() -> bytes:
    """A typical body, with which the watchdog measures how long batches take."""
    draw = random.Random(SEED)
    return json.dumps({"features": [round(draw.gauss(0.0, 1.0), 12) for _ in range(FEATURES)]}).encode()


def parse(event: Event) -> "array[float]":
    """The features of a request. Raises ``ValueError`` that says what is wrong with them."""
    try:
        features = array("f", json.loads(event.body)["features"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ValueError(f'the body must be {{"features": [{FEATURES} numbers]}}') from None
    if len(features) != FEATURES:
        raise ValueError(f"features must be {FEATURES} numbers, not {len(features)}")
    if not math.isfinite(sum(features)):  # JSON has no NaN or infinity, but Python's reader takes them
        raise ValueError("features must be finite numbers")
    return features


@torch.inference_mode()
def handle_batch(rows: Sequence["array[float]"], context: Context) -> list[dict[str, float | int]]:
    """One answer per row, in order."""
    numbers = torch.frombuffer(bytearray().join(rows), dtype=torch.float32)
    scores: list[float] = context.model(numbers.view(-1, FEATURES)).tolist()
    return [{"score": score, "label": int(score >= 0.5)} for score in scores]
