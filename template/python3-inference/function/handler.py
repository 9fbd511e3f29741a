"""Your function. Replace the model, what a request holds, and what is answered.

The watchdog in front of it collects requests into batches that meet the latency target (slo_latency in the
stack file) and calls handle_batch with each. This example takes JSON, {"x": [four numbers]}, and answers
{"y": <number>}. `batching-watchdog try FOLDER` says what batches of it cost, and what one replica can do.
"""

import json

import torch
from torch import nn

INPUTS = 4


def load():
    """Make the model; called once in each worker process, before it serves. It becomes context.model.

    Load your own weights here; a file in this folder is at Path(__file__).with_name("model.pt").
    """
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 1)).eval()


@torch.inference_mode()
def handle_batch(events, context):
    """Answer a batch: one result for each event, in the same order.

    An event has body (bytes), headers, method, path, query and json(). A result is bytes, text, anything that
    JSON can hold, a dict with statusCode, body and headers, or an exception: then that request alone fails.
    """
    rows = [parse(event.body) for event in events]
    good = [row for row in rows if row is not None]
    answers = iter(context.model(torch.tensor(good)).flatten().tolist() if good else ())
    return [bad_request() if row is None else {"y": next(answers)} for row in rows]


def example():
    """A typical body: the watchdog measures batches of it before the first request. Optional, but useful."""
    return b'{"x": [0.1, 0.2, 0.3, 0.4]}'


def parse(body):
    """The numbers in a body, or None if it is not what it should be."""
    try:
        row = [float(number) for number in json.loads(body)["x"]]
    except (ValueError, TypeError, KeyError):
        return None
    return row if len(row) == INPUTS else None


def bad_request():
    return {"statusCode": 400, "body": {"error": f'the body must be {{"x": [{INPUTS} numbers]}}'}}
