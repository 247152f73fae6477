"""Time and memory of training targets and loss beside the `effdet` package, on the same boxes and outputs.

    python -m benchmarks.training.loss [--repeats 10] [--threads 2] [--device cpu]

d0 at 512 pixels, 4 images of 20 boxes, 90 classes; targets with one thread, as in a loader's worker. All functions run
interleaved, so that a busy machine disturbs them alike; the table shows the minimum and the median. Memory is what a
loss with its gradient needs beside the outputs, at its peak.
"""

from __future__ import annotations

import argparse
import ctypes
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import timer

from benchmarks.processes import own_memory
from benchmarks.turns import in_turns, print_times
from effdet_torch.config import get_config
from effdet_torch.geometry.boxes import yxyx_to_xyxy
from effdet_torch.train.objective import DetectionLoss, TargetAssigner
from effdet_torch.train.recipe import OFFICIAL

CONFIG = get_config("d0")
IMAGES, BOXES = 4, 20
Functions = dict[str, Callable[[], object]]


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # effdet scripts functions while it is imported
    boxes, labels = random_boxes()
    torch.set_num_threads(1)
    print_times(in_turns(targets(boxes, labels), options.repeats, timer, warm_up=1))
    torch.set_num_threads(options.threads)
    functions = losses(boxes, labels, options.device)
    print_times(in_turns(functions, options.repeats, timer, warm_up=1))
    for name, function in functions.items():
        print(f"{name:44s} {peak_memory(function, options.device) / 1e6:9.1f} MB")


def random_boxes() -> tuple[list[Tensor], list[Tensor]]:
    """Return boxes of all sizes, (N, 4) xyxy in pixels, and labels (N,) of every image."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(IMAGES, BOXES, 2, generator=generator) * 400
    sizes = 4 * 75 ** torch.rand(IMAGES, BOXES, 2, generator=generator)  # 4 to 300 pixels
    boxes = torch.cat((low, (low + sizes).clamp(max=511)), dim=2)
    return list(boxes), list(torch.randint(1, 91, (IMAGES, BOXES), generator=generator))


def targets(boxes: list[Tensor], labels: list[Tensor]) -> Functions:
    """Return the assignment of all boxes to anchors."""
    theirs, yxyx, assigner = labeler(), [yxyx_to_xyxy(image) for image in boxes], TargetAssigner(CONFIG)
    return {
        "targets": lambda: assigner(boxes, labels),
        "targets, effdet": lambda: theirs.batch_label_anchors(yxyx, labels),
    }


def losses(boxes: list[Tensor], labels: list[Tensor], device: str) -> Functions:
    """Return losses with gradients; in the layout NHWC, which a network in channels_last gives, as well."""
    from effdet import get_efficientdet_config
    from effdet.loss import DetectionLoss as Theirs

    own, assigned = DetectionLoss(OFFICIAL, CONFIG).to(device), TargetAssigner(CONFIG)(boxes, labels)
    config = get_efficientdet_config("tf_efficientdet_d0")
    config.update(label_smoothing=OFFICIAL.label_smoothing, legacy_focal=False, jit_loss=False)
    theirs, found = Theirs(config), labeler().batch_label_anchors([yxyx_to_xyxy(image) for image in boxes], labels)
    dense = [[part.to(device) for part in parts] for parts in found[:2]], found[2].to(device)
    layouts = {"": torch.contiguous_format, " NHWC": torch.channels_last}
    functions: Functions = {}
    for name, layout in layouts.items():
        outputs = random_outputs(device, layout)
        functions[f"loss and gradient{name}"] = step(outputs, lambda *heads: own(*heads, assigned).total)
        functions[f"loss and gradient{name}, effdet"] = step(
            outputs, lambda *heads: theirs(*heads, *dense[0], dense[1])[0]
        )
    return functions


def random_outputs(device: str, layout: torch.memory_format) -> list[list[Tensor]]:
    """Return class logits and box deltas of an untrained network, as leaves."""
    generator, sizes = torch.Generator().manual_seed(0), list(CONFIG.feature_sizes().values())
    return [
        [
            (torch.randn(IMAGES, 9 * channels, *size, generator=generator) * deviation + mean)
            .to(device)
            .contiguous(memory_format=layout)
            .requires_grad_()
            for size in sizes
        ]
        for channels, mean, deviation in ((90, -4.0, 1.5), (4, 0.0, 0.3))
    ]


def step(outputs: list[list[Tensor]], loss: Callable[..., Tensor]) -> Callable[[], object]:
    """Return a function that computes a loss and the gradients of the outputs, and drops them."""
    leaves = [level for head in outputs for level in head]
    return lambda: bool(torch.autograd.grad(loss(*outputs), leaves))


def labeler() -> Any:
    """Return `effdet`'s assignment of boxes to the anchors of d0."""
    from effdet import get_efficientdet_config
    from effdet.anchors import AnchorLabeler, Anchors

    return AnchorLabeler(Anchors.from_config(get_efficientdet_config("tf_efficientdet_d0")), CONFIG.num_classes)


def peak_memory(function: Callable[[], object], device: str) -> int:
    """Return how many bytes more a function holds at its peak than before; on the CPU from Linux."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps would hide what is needed
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is held now
    before = own_memory("VmRSS")
    function()
    return own_memory("VmHWM") - before


if __name__ == "__main__":
    main()
