"""Time what surrounds a network: preprocessing, candidates, non-maximum suppression, and all profiles from end to end.

    python -m benchmarks.inference.postprocessing [--repeats 30] [--threads 2] [--device cpu] [--effdet]

The NumPy versions, which the CPU path runs, beside the torch versions on `--device` and torchvision; d0 at 512 pixels.
All functions run interleaved, so that a busy machine disturbs them alike; the table shows the minimum and the median.
`--effdet` adds the soft NMS of the `effdet` package, which takes a second or more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import timer
from torchvision.ops import batched_nms

from benchmarks.project import SHARED
from benchmarks.turns import in_turns, print_times
from effdet_torch.config import get_config
from effdet_torch.geometry import nms, numpy_nms
from effdet_torch.geometry.boxes import yxyx_to_xyxy
from effdet_torch.processing import numpy_candidates, numpy_preprocess, postprocess, preprocess
from effdet_torch.processing.cpu import CpuProcessing
from effdet_torch.processing.gpu import GpuProcessing
from effdet_torch.processing.profiles import PROFILES

GOLDEN = SHARED / "reference" / "postprocess" / "post_ema_img_512.npz"
NUM_CANDIDATES = 5000
CONFIG = get_config("d0")
Functions = dict[str, Callable[[], object]]


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--effdet", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    functions = {**around(options.device), **suppression(options.device, options.effdet)}
    print(f"d0, 512 x 512, {options.threads} threads; torch on {options.device}")
    print_times(in_turns(functions, options.repeats, timer, warm_up=1))


def around(device: str) -> Functions:
    """Return pre- and postprocessing of one image, the logits as the network gives them: NHWC, and most of them low."""
    random, sizes = np.random.default_rng(0), list(CONFIG.feature_sizes().values())
    image = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    logits = [random.standard_normal((1, *size, 810), np.float32) * np.float32(1.5) - 5 for size in sizes]
    deltas = [random.standard_normal((1, *size, 36), np.float32) * np.float32(0.3) for size in sizes]
    logits, deltas = ([level.transpose(0, 3, 1, 2) for level in head] for head in (logits, deltas))
    torch_logits, torch_deltas = ([torch.from_numpy(x).to(device) for x in head] for head in (logits, deltas))
    first = [level[0] for level in logits]
    cpu, gpu, scales = CpuProcessing(CONFIG), GpuProcessing(CONFIG, device), torch.ones(1)
    functions: Functions = {
        "preprocessing of 480 x 640": lambda: numpy_preprocess.preprocess([image], CONFIG),
        "preprocessing of 480 x 640, torch": lambda: preprocess.preprocess([image], CONFIG, device),
        "5000 candidates": lambda: numpy_candidates.top_k(
            first, numpy_candidates.maxima(first, 90), 90, NUM_CANDIDATES, -np.inf
        ),
        "5000 candidates, torch": lambda: postprocess.top_k(
            postprocess.flatten_levels(torch_logits, 90), NUM_CANDIDATES
        ),
    }
    for name, profile in PROFILES.items():
        functions[f"postprocessing, {name}"] = partial(cpu.detections, logits, deltas, scales, profile)
        functions[f"postprocessing, {name}, torch"] = partial(
            gpu.detections, torch_logits, torch_deltas, scales, profile
        )
    return functions


def suppression(device: str, with_effdet: bool) -> Functions:
    """Return NMS over 5000 candidates of one image."""
    source, candidates = golden_candidates() if GOLDEN.is_file() else random_candidates()
    boxes, scores, classes = (tensor.numpy() for tensor in candidates)
    one = candidates[0].to(device), candidates[1].to(device), candidates[2].to(device)
    batch = one[0][None], one[1][None], one[2][None]
    soft = partial(numpy_nms.non_max_suppression, score_threshold=0.001, soft_nms_sigma=0.25)
    torch_soft = partial(nms.non_max_suppression, score_threshold=0.001, soft_nms_sigma=0.25)
    functions: Functions = {
        f"hard NMS ({source})": partial(numpy_nms.non_max_suppression, boxes, scores, classes),
        "hard NMS, torch": partial(nms.non_max_suppression, *batch),
        "hard NMS, torchvision": partial(batched_nms, *one, 0.5),
        "soft NMS": partial(soft, boxes, scores, classes),
        "soft NMS, torch": partial(torch_soft, *batch),
    }
    if with_effdet:
        from effdet.soft_nms import batched_soft_nms

        functions["soft NMS, effdet"] = partial(batched_soft_nms, *one, iou_threshold=0.3, score_threshold=0.001)
    return functions


def golden_candidates() -> tuple[str, tuple[Tensor, Tensor, Tensor]]:
    """Return the candidates of a real image: boxes (N, 4) xyxy, scores (N,), classes (N,)."""
    with np.load(GOLDEN) as golden:
        boxes, scores, classes = (
            torch.from_numpy(golden[f"prenms5000_{k}"][0]) for k in ("boxes", "scores", "classes")
        )
    return "official results", (yxyx_to_xyxy(boxes), scores, classes.long())


def random_candidates() -> tuple[str, tuple[Tensor, Tensor, Tensor]]:
    """Return crowded candidates: boxes scattered around 60 objects, half of them in 5 of 90 classes."""
    generator = torch.Generator().manual_seed(0)
    objects = torch.rand(60, 4, generator=generator) * torch.tensor([480.0, 480.0, 200.0, 200.0])
    owner = torch.randint(60, (NUM_CANDIDATES,), generator=generator)
    center_size = objects[owner] * (1 + 0.2 * torch.randn(NUM_CANDIDATES, 4, generator=generator))
    boxes = torch.cat((center_size[:, :2] - center_size[:, 2:] / 2, center_size[:, :2] + center_size[:, 2:] / 2), dim=1)
    scores = torch.rand(NUM_CANDIDATES, generator=generator) ** 4
    classes = torch.where(owner < 30, owner % 5, torch.randint(90, (NUM_CANDIDATES,), generator=generator))
    return "random", (boxes, scores, classes)


if __name__ == "__main__":
    main()
