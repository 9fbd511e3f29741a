"""Rows of numbers, checked by a pydantic model; GET /_/schema is its JSON Schema."""

import torch
from pydantic import BaseModel, Field, FiniteFloat

from batching_watchdog import Response


class Row(BaseModel):
    """What a request holds."""

    x: list[FiniteFloat] = Field(min_length=4, max_length=4)


def load():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 1).eval()  # yours


def parse(event):  # an error here is its client's: 400, with the path of each wrong field
    if event.path == "/_/schema":
        return Response(Row.model_json_schema())  # the answer: the model never sees it
    return Row.model_validate_json(event.body)


@torch.inference_mode()
def handle_batch(rows, context):
    return [{"y": y} for y in context.model(torch.tensor([row.x for row in rows])).flatten().tolist()]


def example():
    return b'{"x": [0.1, 0.2, 0.3, 0.4]}'
