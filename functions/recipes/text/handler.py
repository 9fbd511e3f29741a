"""Texts, through a Hugging Face classifier; the texts of a batch are padded to the longest."""

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def load():
    folder = Path(__file__).with_name("model")  # from save_pretrained()
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return AutoTokenizer.from_pretrained(folder), model


def parse(event):  # any error here is its client's: 400
    texts = event.json()["inputs"]
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        raise ValueError("inputs must be a list of texts")
    return texts


@torch.inference_mode()
def handle_batch(groups, context):
    tokenizer, model = context.model
    texts = [text for group in groups for text in group]
    tokens = tokenizer(texts, padding="longest", truncation=True, return_tensors="pt")
    scores = iter(model(**tokens).logits.softmax(-1).tolist())
    return [{"scores": [next(scores) for _ in group]} for group in groups]


def example():
    return [b'{"inputs": ["fine"]}', b'{"inputs": ["it was fine, as far as I can tell", "not so good"]}']
