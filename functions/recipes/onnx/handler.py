"""Rows of numbers, through a model exported to ONNX."""

from pathlib import Path

import numpy as np
import onnxruntime

INPUTS = 4


def load(context):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = context.threads
    return onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), options)


def parse(event):  # any error here is its client's: 400
    row = np.array(event.json()["x"], dtype=np.float32).reshape(INPUTS)
    if not np.isfinite(row).all():  # a null, or 1e39
        raise ValueError("x must be finite numbers")
    return row


def handle_batch(rows, context):
    (answers,) = context.model.run(None, {"x": np.stack(rows)})  # once for all
    return [{"y": answer} for answer in answers]  # arrays are sent as lists


def example():
    return b'{"x": [0.1, 0.2, 0.3, 0.4]}'
