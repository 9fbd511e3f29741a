"""Continues a prompt character by character, in batches that requests join. Text in, a stream of pieces out.

    once upon  ->  {"text": "q"}  {"text": "K"}  ...

A small causal transformer with a key-value cache per stream. It is a load, not a language model: its weights
are random, from a fixed seed, so it writes noise at the cost of a real one. It ends a stream by its own end
token, after 80 characters on average. The same prompt gets the same answer.
"""

import math
import random
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from batching_watchdog import Context, Event

CHARACTERS = "".join(map(chr, range(32, 127)))
END = len(CHARACTERS)
WIDTH, HEADS, LAYERS = 256, 4, 2
LONGEST_PROMPT, SHORTEST, LONGEST = 256, 20, 400
"""Characters of a prompt at most, and of an answer at least and at most."""
MEAN = 80
"""Characters of an answer, about."""
SEED = 1


class Block(nn.Module):
    """Attention over a stream's own past, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, rows: Tensor, streams: Sequence["Stream"], layer: int) -> Tensor:
        """Return new ``rows``: as many of each stream as ``streams`` has characters that are not cached."""
        query, key, value = (
            self.qkv(self.before_attention(rows)).view(len(rows), 3, HEADS, -1).permute(1, 2, 0, 3)
        )
        attended, begin = [], 0
        for stream in streams:
            end = begin + len(stream.new)
            stream.keys[layer][:, stream.cached : stream.cached + end - begin] = key[:, begin:end]
            stream.values[layer][:, stream.cached : stream.cached + end - begin] = value[:, begin:end]
            upto = stream.cached + end - begin
            past_keys, past_values = stream.keys[layer][:, :upto], stream.values[layer][:, :upto]
            causal = end - begin > 1
            attended.append(
                scaled_dot_product_attention(query[:, begin:end], past_keys, past_values, is_causal=causal)
            )
            begin = end
        rows = rows + self.out(torch.cat(attended, 1).transpose(0, 1).reshape(len(rows), WIDTH))
        added: Tensor = self.mlp(self.before_mlp(rows))
        return rows + added


class Model(nn.Module):
    """The transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(END + 1, WIDTH)
        self.places = nn.Embedding(LONGEST_PROMPT + LONGEST, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, END + 1)

    def forward(self, streams: Sequence["Stream"]) -> Tensor:
        """Return the probabilities of each stream's next character; its new ones are cached then."""
        tokens = torch.tensor([token for stream in streams for token in stream.new])
        places = torch.cat([torch.arange(len(stream.new)) + stream.cached for stream in streams])
        rows = self.characters(tokens) + self.places(places)
        for layer, block in enumerate(self.blocks):
            rows = block(rows, streams, layer)
        last = torch.tensor([len(stream.new) for stream in streams]).cumsum(0) - 1
        for stream in streams:
            stream.cached += len(stream.new)
        probabilities: Tensor = self.head(rows[last]).softmax(-1)
        return probabilities


class Stream:
    """The state of one stream: its cache, and its characters that are not cached yet."""

    def __init__(self, prompt: str) -> None:
        self.random = random.Random(zlib.crc32(prompt.encode()))
        self.new = [CHARACTERS.index(character) if character in CHARACTERS else 0 for character in prompt]
        self.cached = self.written = 0
        size = (LAYERS, HEADS, len(prompt) + LONGEST, WIDTH // HEADS)
        self.keys, self.values = torch.empty(size), torch.empty(size)

    def take(self, probabilities: Sequence[float]) -> str | None:
        """Draw the next character; None: the stream ends."""
        *allowed, end = probabilities
        if self.written == LONGEST or (self.written >= SHORTEST and self.random.random() < end):
            return None
        token = self.random.choices(range(END), allowed)[0]
        self.written += 1
        self.new = [token]
        return CHARACTERS[token]


def load() -> Model:
    """The model."""
    torch.manual_seed(SEED)
    model = Model().eval()
    with torch.inference_mode():
        model.head.bias[END] = math.log(END / (MEAN - SHORTEST))
    return model


def example() -> bytes:
    """A typical body, with which the watchdog measures how long starts and steps take."""
    return b"It was a dark and stormy night; the rain fell in torrents"


def parse(event: Event) -> str:
    """The prompt of a request. Raises ``ValueError`` for none, or one that is too long."""
    prompt = str(event.body, "utf-8")
    if not 0 < len(prompt) <= LONGEST_PROMPT:
        raise ValueError(f"the body must be a prompt of 1 to {LONGEST_PROMPT} characters")
    return prompt


@torch.inference_mode()
def start(prompts: Sequence[str], context: Context) -> list[Stream]:
    """One state per prompt, which is cached up to its last character."""
    states = [Stream(prompt) for prompt in prompts]
    longer = [stream for stream in states if len(stream.new) > 1]
    lasts = [stream.new.pop() for stream in longer]
    if longer:
        context.model(longer)
    for stream, last in zip(longer, lasts, strict=True):
        stream.new = [last]
    return states


@torch.inference_mode()
def step(states: Sequence[Stream], context: Context) -> list[tuple[Any, bool]]:
    """One character of each stream, and whether it has ended."""
    characters = [
        stream.take(row) for stream, row in zip(states, context.model(states).tolist(), strict=True)
    ]
    return [
        (None if character is None else {"text": character}, character is None) for character in characters
    ]
