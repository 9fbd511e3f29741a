"""Scores a text of 32 tokens with a small transformer encoder. JSON in, JSON out.

    {"tokens": [17, 4021, ...]}  ->  {"score": 0.37, "label": 0}

Two layers of 64 channels and 4 heads: the size of a classifier for intents or spam. The weights are random,
from a fixed seed: there is nothing to download.
"""

import json
import random
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from batching_watchdog import Context, Event

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
    """The model."""
    torch.manual_seed(SEED)
    return Encoder().eval()


def example() -> bytes:
    """A typical body."""
    draw = random.Random(SEED)
    return json.dumps({"tokens": [draw.randrange(VOCABULARY) for _ in range(TOKENS)]}).encode()


def parse(event: Event) -> list[int]:
    """The tokens of a body. Raises ``ValueError`` if it is not what it should be."""
    with suppress(ValueError, TypeError, KeyError):
        tokens: list[int] = json.loads(event.body)["tokens"]
        good = len(tokens) == TOKENS and min(tokens) >= 0 and max(tokens) < VOCABULARY
        if good and set(map(type, tokens)) == {int}:
            return tokens
    raise ValueError(f'the body must be {{"tokens": [{TOKENS} whole numbers from 0 to {VOCABULARY - 1}]}}')


@torch.inference_mode()
def handle_batch(rows: Sequence[list[int]], context: Context) -> list[dict[str, float | int]]:
    """One answer per text, in order."""
    scores = context.model(torch.tensor(rows)).tolist()
    return [{"score": score, "label": int(score >= 0.5)} for score in scores]
