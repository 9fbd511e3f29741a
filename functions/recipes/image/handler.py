"""Images, through MobileNetV3 of torchvision."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models import mobilenet_v3_small

SIDE = 224
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of the channels in ImageNet


def load():
    model = mobilenet_v3_small()
    model.load_state_dict(torch.load(Path(__file__).with_name("model.pt")))
    return model.eval()


def parse(event):  # any error here is its client's: 400
    image = Image.open(io.BytesIO(event.body))
    image.draft("RGB", (SIDE, SIDE))
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32)


@torch.inference_mode()
def handle_batch(images, context):
    pixels = torch.from_numpy(np.stack(images)) / 255
    pixels = (pixels - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    scores, kinds = context.model(pixels.permute(0, 3, 1, 2)).softmax(-1).max(-1)
    return [{"class": int(kind), "score": float(score)} for kind, score in zip(kinds, scores, strict=True)]


def example():
    image = io.BytesIO()
    Image.effect_noise((640, 480), 50).convert("RGB").save(image, "JPEG")
    return image.getvalue()
