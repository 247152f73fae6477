"""Time non-maximum suppression: ours against the `effdet` package's, on the same candidates of one image.

    python -m benchmarks.nms [--repeats 20] [--threads 2] [--device cpu]

All functions run interleaved, so that a busy machine disturbs them alike. The table shows the median.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import timer
from torchvision.ops import batched_nms

from effdet_torch.geometry.boxes import yxyx_to_xyxy
from effdet_torch.geometry.nms import non_max_suppression

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "reference" / "postprocess" / "post_ema_img_512.npz"
NUM_CANDIDATES = 5000


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source, candidates = golden_candidates() if GOLDEN.is_file() else random_candidates()
    boxes, scores, classes = (tensor.to(options.device) for tensor in candidates)
    seconds = measure(contestants(boxes, scores, classes), options.repeats)
    print(f"{boxes.shape[0]} candidates ({source}), {options.threads} threads, {options.device}")
    ours = seconds["ours, hard"]
    for name, value in seconds.items():
        print(f"{name:34s} {value * 1e3:9.2f} ms {value / ours:8.2f} x ours, hard")
    print(f"soft: {seconds['effdet, soft'] / seconds['ours, soft']:.1f} x faster than effdet")


def contestants(boxes: Tensor, scores: Tensor, classes: Tensor) -> dict[str, Callable[[], object]]:
    """Return the functions to time; boxes (N, 4) xyxy, scores (N,), classes (N,)."""
    from effdet.soft_nms import batched_soft_nms

    batch = boxes[None], scores[None], classes[None]
    return {
        "ours, hard": lambda: non_max_suppression(*batch),
        "ours, soft": lambda: non_max_suppression(*batch, score_threshold=0.001, soft_nms_sigma=0.25),
        "effdet, hard (torchvision batched)": lambda: batched_nms(boxes, scores, classes, 0.5),
        "effdet, soft": lambda: batched_soft_nms(boxes, scores, classes, iou_threshold=0.3, score_threshold=0.001),
    }


def measure(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of every function; all of them run once per round. The timer waits for a GPU."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = timer()
            function()
            seconds[name].append(timer() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


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
