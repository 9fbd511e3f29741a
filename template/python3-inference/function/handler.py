"""Your function. Replace the model, what a request holds, and what is answered.

The watchdog in front of it collects requests into batches that meet the latency target (slo_latency in the
stack file) and calls handle_batch with each. This example takes JSON, {"x": [four numbers]}, and answers
{"y": <number>}. `batching-watchdog try FOLDER` says what batches of it cost, and what one replica can do.
"""

import torch
from torch import nn

INPUTS = 4


def load():
    """Make the model, before the first request. The result is context.model.

    Load your own weights here; a file in this folder is at Path(__file__).with_name("model.pt").
    """
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 1)).eval()


def parse(event):
    """Read a request; the result takes the event's place in handle_batch. Optional, and named event.

    An event has body (bytes), headers, method, path, query and json(). Any error here is the client's: that
    request alone gets 400, and the model never sees it.
    """
    row = [float(number) for number in event.json()["x"]]
    if len(row) != INPUTS:
        raise ValueError(f"x must be {INPUTS} numbers, not {len(row)}")
    return row


@torch.inference_mode()
def handle_batch(rows, context):
    """Answer a batch: one result for each request, in the same order.

    A result is bytes, text, anything that JSON can hold, a dict with statusCode, body and headers, or an
    exception: then that request alone fails.
    """
    return [{"y": y} for y in context.model(torch.tensor(rows)).flatten().tolist()]


def example():
    """A typical body: the watchdog measures batches of it before the first request. Optional, but useful."""
    return b'{"x": [0.1, 0.2, 0.3, 0.4]}'
