"""Time an evaluation stage by stage, so that the bottleneck is visible.

    python -m benchmarks.evaluation MODEL COCO [--images 32] [--batch 8] [--device cpu] [--threads 2]

Every stage runs alone on the same images: images per second is what it would allow if the others took no time. Workers
multiply the first one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from effdet_torch.data.coco_dataset import CocoImage, read_split
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.inference.images import read_image
from effdet_torch.inference.postprocess import PROFILES, postprocess
from effdet_torch.inference.preprocess import preprocess
from effdet_torch.network.model import EfficientDet
from verify.detections.run import CocoSettings, detect_images, load_for


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("coco", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = CocoSettings(batch=options.batch, workers=options.workers, device=options.device)
    model = load_for(options.model, settings)
    images = read_split(options.coco).first(options.images).images
    config = model.config
    print(f"{config.name}, {config.image_size[0]} x {config.image_size[1]}, {len(images)} images, {settings}")
    for name, seconds in measure(model, images, settings).items():
        print(f"{name:32s} {len(images) / seconds:9.1f} images/s {1e3 * seconds / len(images):9.2f} ms/image")


@torch.inference_mode()
def measure(model: EfficientDet, images: tuple[CocoImage, ...], settings: CocoSettings) -> dict[str, float]:
    """Return seconds per stage for all images."""
    device = next(model.parameters()).device
    step = 1 if device.type == "cpu" else settings.batch  # as the evaluation does
    seconds: dict[str, float] = {}
    anchors_yxyx, size = make_anchors_yxyx(model.config, device), model.config.image_size
    model(torch.zeros(step, 3, *size, device=device))  # the first run chooses and loads kernels
    for start in range(0, len(images), step):
        with timed(seconds, "decode", device):
            decoded = [read_image(image.path) for image in images[start : start + step]]
        with timed(seconds, "preprocess", device):
            pixels, image_scales = preprocess(decoded, model.config)
        with timed(seconds, "to the device", device):
            pixels, image_scales = pixels.to(device), image_scales.to(device)
        with timed(seconds, "network", device):
            class_logits, box_deltas = model(pixels)
        for profile in PROFILES:
            with timed(seconds, f"NMS, {profile}", device):
                postprocess(class_logits, box_deltas, anchors_yxyx, image_scales, size, profile)
    with timed(seconds, f"whole, {settings.workers} workers", device):
        for _ in detect_images(model, images, settings):
            pass
    return seconds


@contextmanager
def timed(seconds: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    """Add the time that the block takes, on the device too."""
    synchronize(device)
    start = time.perf_counter()
    yield
    synchronize(device)
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
