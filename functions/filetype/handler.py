"""Says what kind of file an upload is, with Magika's model (Google, Apache 2.0) on ONNX Runtime.

    curl --data-binary @handler.py .../function/filetype  ->  {"label": "python", "score": 0.99, ...}

The model reads the first and the last 1,024 bytes, so every upload costs the same. Its 3 MB ship in the
package ``magika``, whose own client answers one file at a time; here one run of the model answers a batch.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnxruntime

from batching_watchdog import Context, Event

FOLDER = Path(magika.__file__).parent
MODEL = FOLDER / "models" / "standard_v3_3"
NO_MODEL = "unknown", "txt"
"""Labels of bytes and of text, where the file is too short for the model, or the model is not sure enough."""


@dataclass(frozen=True, slots=True)
class Model:
    """The session, the model's own configuration, and what is known of each label."""

    session: onnxruntime.InferenceSession
    config: dict[str, Any]
    kinds: dict[str, dict[str, Any]]


def load() -> Model:
    """The model."""
    options = onnxruntime.SessionOptions()
    # ONNX Runtime starts a thread for every core of the node, whatever the container's limit, unless told.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    session = onnxruntime.InferenceSession(MODEL / "model.onnx", options, ["CPUExecutionProvider"])
    config = json.loads((MODEL / "config.min.json").read_text())
    kinds = json.loads((FOLDER / "config" / "content_types_kb.min.json").read_text())
    return Model(session, config, kinds)


def example() -> bytes:
    """A typical body, with which the watchdog measures how long batches take."""
    return Path(__file__).read_bytes()


def handle_batch(events: Sequence[Event], context: Context) -> list[dict[str, Any]]:
    """One answer per event, in order."""
    model: Model = context.model
    rows = [features(event.body, model.config) for event in events]
    known = [row for row in rows if row is not None]
    scores = iter(model.session.run(None, {"bytes": np.stack(known)})[0] if known else ())
    return [
        short(event.body, model) if row is None else best(next(scores), model)
        for event, row in zip(events, rows, strict=True)
    ]


def features(body: bytes, config: dict[str, Any]) -> np.ndarray[Any, Any] | None:
    """The bytes that the model reads, as its authors cut and pad them; None if there are too few."""
    head = body[: config["block_size"]].lstrip()[: config["beg_size"]]
    tail = body[-config["block_size"] :].rstrip()[-config["end_size"] :]
    if len(head) < config["min_file_size_for_dl"]:
        return None
    row = np.full(config["beg_size"] + config["end_size"], config["padding_token"], np.int32)
    row[: len(head)] = np.frombuffer(head, np.uint8)
    row[len(row) - len(tail) :] = np.frombuffer(tail, np.uint8)
    return row


def best(scores: np.ndarray[Any, Any], model: Model) -> dict[str, Any]:
    """The label with the highest score, or a general one where that is below the label's threshold."""
    place = int(scores.argmax())
    score, found = float(scores[place]), model.config["target_labels_space"][place]
    label = model.config["overwrite_map"].get(found, found)
    if score < model.config["thresholds"].get(found, model.config["medium_confidence_threshold"]):
        label = NO_MODEL[model.kinds[label]["is_text"]]
    return answer(label, score, model)


def short(body: bytes, model: Model) -> dict[str, Any]:
    """The answer to a body that is too short for the model."""
    try:
        body[: model.config["block_size"]].decode()
    except UnicodeDecodeError:
        return answer(NO_MODEL[False], 1.0, model)
    return answer(NO_MODEL[True] if body else "empty", 1.0, model)


def answer(label: str, score: float, model: Model) -> dict[str, Any]:
    """The answer as JSON."""
    return {"label": label, "mime_type": model.kinds[label]["mime_type"], "score": round(score, 4)}
