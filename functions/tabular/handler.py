"""Scores one row of 32 numbers with a multi-layer perceptron. JSON in, JSON out.

    {"features": [0.1, ...]}  ->  {"score": 0.37, "label": 0}

A batch is one JSON parse per row and one forward for all. A row that is not what it should be is answered
400 and leaves the others alone. The weights are random, from a fixed seed: there is nothing to download.
"""

import json
import math
import random
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

FEATURES = 32
HIDDEN = 1024
SEED = 1


def load() -> nn.Module:
    """The model, once per worker."""
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


@torch.inference_mode()
def handle_batch(events: Sequence[Any], context: Any) -> list[Any]:
    """One answer per event, in order."""
    results: list[Any] = []
    numbers = array("f")
    places: list[int] = []  # where in results the rows of numbers belong
    for place, event in enumerate(events):
        try:
            numbers.extend(parse(event.body))
        except ValueError as error:
            results.append({"statusCode": 400, "body": {"error": str(error)}})
        else:
            results.append(None)
            places.append(place)
    if places:
        rows = torch.frombuffer(numbers, dtype=torch.float32).view(-1, FEATURES)
        for place, score in zip(places, scores(context.model, rows), strict=True):
            results[place] = {"score": score, "label": int(score >= 0.5)}
    return results


def scores(model: nn.Module, rows: Tensor) -> list[float]:
    """One number from 0 to 1 for each row."""
    answers: list[float] = model(rows).tolist()
    return answers


def parse(body: bytes) -> "array[float]":
    """The features of a body. Raises ``ValueError`` that says what is wrong with it."""
    try:
        features = array("f", json.loads(body)["features"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ValueError(f'the body must be {{"features": [{FEATURES} numbers]}}') from None
    if len(features) != FEATURES:
        raise ValueError(f"features must be {FEATURES} numbers, not {len(features)}")
    if not math.isfinite(sum(features)):  # JSON has no NaN or infinity, but Python's reader takes them
        raise ValueError("features must be finite numbers")
    return features
