"""Classifies images with MobileNetV3 small. Raw pixels in, JSON out.

The body is one image: 224 x 224 pixels x 3 channels (red, green, blue), one byte each, 150,528 bytes in all.
The answer is the class with the best score of 1,000: {"class": 417, "score": 0.93}. A body of another length
is its client's 400, and the model never sees it.

The weights are random, from a fixed seed: there is nothing to download, and the classes mean nothing. On a
CPU batches of more than a few images save nothing per image: the watchdog has to find that out by itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

from batching_watchdog import Context, Event

SIDE = 224
BODY_BYTES = SIDE * SIDE * 3
SEED = 1

# ImageNet's statistics, as every torchvision model expects them, for pixels from 0 to 255.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255


def load() -> nn.Module:
    """The model."""
    torch.manual_seed(SEED)
    model: nn.Module = mobilenet_v3_small(weights=None).to(memory_format=torch.channels_last)
    spread(model)
    return model.eval()


def example() -> bytes:
    """A typical body, with which the watchdog measures how long batches take."""
    pixels = torch.randint(0, 256, (BODY_BYTES,), generator=torch.Generator().manual_seed(SEED))
    return bytes(pixels.tolist())


def parse(event: Event) -> bytes:
    """The pixels of a request. Raises ``ValueError`` for a body that is not an image."""
    if len(event.body) != BODY_BYTES:
        rule = f"the body must be {BODY_BYTES} bytes: {SIDE} x {SIDE} pixels x 3 channels of one byte"
        raise ValueError(f"{rule}; it has {len(event.body)}")
    return event.body


@torch.inference_mode()
def handle_batch(images: Sequence[bytes], context: Context) -> list[dict[str, float | int]]:
    """The best class of each image, in one forward for all."""
    best, classes = context.model(normalize(images)).softmax(dim=1).max(dim=1)
    return [{"class": c, "score": s} for c, s in zip(classes.tolist(), best.tolist(), strict=True)]


def normalize(bodies: Sequence[bytes]) -> Tensor:
    """Bodies as one tensor (image, channel, row, column) of normalized floats.

    A pixel's channels are neighbors in the body, which is torch's channels_last format: the permutation
    moves no data, and convolutions are faster on it.
    """
    pixels = torch.frombuffer(bytearray().join(bodies), dtype=torch.uint8)
    images = pixels.view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    return images.float().sub_(MEAN).div_(DEVIATION)


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Make random weights answer differently to different images, as trained ones would.

    Untrained, the signal dies on its way and every image gets the same answer; statistics of some noise in
    the normalization layers and a wider last layer prevent that.
    """
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # take the statistics of the next forward as they are
    model.train()(torch.randn(8, 3, SIDE, SIDE))
    *_, last = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    nn.init.normal_(last.weight, std=0.05)
