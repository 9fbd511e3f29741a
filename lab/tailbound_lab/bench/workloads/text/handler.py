"""Scores a text of 32 tokens with a small transformer encoder. JSON in, JSON out.

    {"tokens": [17, 4021, ...]}  ->  {"score": 0.37, "label": 0}

Two layers of 64 channels and 4 heads: the size of a classifier for intents or spam. The weights are random,
from a fixed seed: there is nothing to download.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 32
VOCABULARY = 10_000
CHANNELS = 64
SEED = 1


class Encoder(nn.Module):
    """Embedding, two encoder layers, mean over the tokens, one score."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, CHANNELS)
        layer = nn.TransformerEncoderLayer(CHANNELS, nhead=4, dim_feedforward=128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(CHANNELS, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores from 0 to 1 of a tensor of token numbers (text, token)."""
        encoded: Tensor = self.encoder(self.embedding(tokens))
        scores: Tensor = self.head(encoded.mean(dim=1)).flatten().sigmoid()
        return scores


def load() -> nn.Module:
    """The model, once per worker."""
    torch.manual_seed(SEED)
    return Encoder().eval()


def example() -> bytes:
    """A typical body."""
    draw = random.Random(SEED)
    return json.dumps({"tokens": [draw.randrange(VOCABULARY) for _ in range(TOKENS)]}).encode()


@torch.inference_mode()
def handle_batch(events: Sequence[Any], context: Any) -> list[Any]:
    """One answer per event, in order; a body that is not what it should be is answered 400 alone."""
    rows = [parse(event.body) for event in events]
    good = [row for row in rows if row is not None]
    scores = iter(context.model(torch.tensor(good)).tolist() if good else ())
    return [answer(next(scores)) if row is not None else refusal() for row in rows]


def parse(body: bytes) -> list[int] | None:
    """The tokens of a body; None if it is not what it should be."""
    try:
        tokens = json.loads(body)["tokens"]
        good = len(tokens) == TOKENS and min(tokens) >= 0 and max(tokens) < VOCABULARY
    except (ValueError, TypeError, KeyError):
        return None
    return tokens if good and set(map(type, tokens)) == {int} else None


def answer(score: float) -> dict[str, float | int]:
    """The answer to a text."""
    return {"score": score, "label": int(score >= 0.5)}


def refusal() -> dict[str, Any]:
    """The answer to a body that is not a text."""
    rule = f'the body must be {{"tokens": [{TOKENS} whole numbers from 0 to {VOCABULARY - 1}]}}'
    return {"statusCode": 400, "body": {"error": rule}}
