"""Non-maximum suppression with the semantics of TensorFlow's `NonMaxSuppressionV5`, hard and soft.

TensorFlow keeps the candidates of one image and one class in a priority queue and decays a score when it reaches the
top. The same detections come out when the best score of all is taken, all others are decayed at once, and so on; only
the products are rounded in another order (1e-7). That is `max_outputs` steps over (B, N) tensors, without a loop over
images, classes or boxes.

All classes share these steps. A class is a third axis along which a box is 1 long: boxes of different classes do not
overlap there, volumes are areas, and no coordinate has to be shifted. The 100 best of all classes are the same as when
every class is suppressed alone and the results are merged, because a selection changes no score of another class, and
no class can contribute more than the 100 that it may keep. The official merge prefers the lower class among equal
scores: pass candidates in the order of their classes to get the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from effdet_torch.geometry.thresholds import least_score


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor | None = None,
    max_outputs: int = 100,
    iou_threshold: float = 0.5,
    score_threshold: float = -math.inf,
    soft_nms_sigma: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best boxes of every image, greedily; among equal scores the lower index wins.

    Hard: a selected box removes those that overlap it by more than `iou_threshold`. Soft: it multiplies their scores by
    exp(-IoU^2 / (2 * soft_nms_sigma)) instead. Empty and non-finite boxes overlap nothing.

    Args:
        boxes: (B, N, 4) corners, x or y first, in any unit, in either order.
        scores: (B, N); in soft mode not negative. NaN is never selected.
        classes: (B, N), boxes of different classes do not suppress each other; None: all boxes are of one class.
        max_outputs: M, how many boxes to select per image.
        iou_threshold: 0..1; no effect in soft mode.
        score_threshold: a selected box scores more than this, after decay; in soft mode at least 0.
        soft_nms_sigma: 0 means hard. As in the TensorFlow op this is *half* the sigma of the Soft-NMS paper.

    Returns:
        indices (B, M) int64 into N, best first; scores (B, M) float32, decayed if soft; and the number of selected
        boxes (B,) int64, behind which indices and scores are 0.

    Raises:
        ValueError: A threshold is out of these ranges.

    Source: TensorFlow `core/kernels/image/non_max_suppression_op.cc`; Soft-NMS (arXiv:1704.04503).
    """
    score_threshold = least_score(iou_threshold, score_threshold, soft_nms_sigma > 0.0)
    steps = min(max_outputs, scores.shape[1])
    candidates, scores = _padded(_intervals(boxes.detach().float(), classes), scores.detach().float())
    indices, scores = _select(candidates, scores, steps, iou_threshold, score_threshold, soft_nms_sigma)
    return fixed_size(indices, scores, max_outputs, score_threshold)


def _padded(candidates: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Bring candidates (B, rows, N) and scores (B, N) to a multiple of 64, for `_parts`; the new ones never win."""
    padding = [0, (64 - scores.shape[1] % 64) % 64]
    return functional.pad(candidates, padding), functional.pad(scores, padding, value=-math.inf)


def _select(
    candidates: Tensor,
    scores: Tensor,
    steps: int,
    iou_threshold: float,
    score_threshold: float,
    soft_nms_sigma: float,
) -> tuple[Tensor, Tensor]:
    """Return the index and the decayed score of the best candidate of every step, (B, steps) each."""
    soft = soft_nms_sigma > 0.0
    # The score of what is out: not above the threshold, and unchanged by every later step.
    removed = 0.0 if soft else -math.inf
    exponent = -0.5 / (math.log(2.0) * soft_nms_sigma) if soft else 0.0
    remaining = torch.where(scores > score_threshold, scores, removed).unsqueeze(1)
    rows = candidates.shape[1]
    ends, volumes = torch.split(candidates, [rows - 1, 1], dim=1)
    common_ends = torch.empty_like(ends)
    lengths, upper = common_ends.chunk(2, dim=1)
    work = [common_ends, lengths, upper, torch.empty_like(remaining), torch.empty_like(remaining)]
    zero, decay = remaining.new_zeros(1), torch.empty_like(remaining)
    decay_parts = _parts(decay)
    indices, selected_scores = [torch.zeros_like(remaining[:, :, :0], dtype=torch.long)], [remaining[:, :, :0]]
    for _ in range(steps):
        index = remaining.argmax(dim=2, keepdim=True)
        indices.append(index)
        selected_scores.append(remaining.gather(2, index))
        best = torch.split(candidates.gather(2, index.expand(-1, rows, 1)), [rows - 1, 1], dim=1)
        iou = _iou(ends, volumes, best[0], best[1], work)
        # Arithmetic and threshold() instead of masks, which take several times longer.
        if soft:
            torch.addcmul(zero, iou, iou, value=exponent, out=decay)
            for part in decay_parts:
                part.exp2_()
            # Without the threshold, scores would become denormal numbers, which are slow.
            torch.threshold_(remaining.mul_(decay), score_threshold, removed)
        else:
            remaining.sub_(torch.threshold_(iou, iou_threshold, 0.0), alpha=3e38)
        remaining.scatter_(2, index, removed)
    return torch.cat(indices, dim=2)[:, 0], torch.cat(selected_scores, dim=2)[:, 0]


def _intervals(boxes: Tensor, classes: Tensor | None) -> Tensor:
    """Return the boxes as products of intervals, (B, 2 D + 1, N): negative lower ends, upper ends, volume.

    D is 2, or 3 with classes. A box without a positive finite area becomes a point of infinite volume: its
    intersection with anything over the union is then 0, as TensorFlow defines it.
    """
    low = torch.minimum(boxes[:, :, :2], boxes[:, :, 2:]).transpose(1, 2)
    high = torch.maximum(boxes[:, :, :2], boxes[:, :, 2:]).transpose(1, 2)
    volumes = (high - low).prod(dim=1, keepdim=True)
    if classes is not None:
        floor = classes[:, None].to(boxes.dtype)
        low, high = torch.cat((low, floor), dim=1), torch.cat((high, floor + 1.0), dim=1)
    proper = (volumes > 0.0) & (volumes < math.inf)
    ends = torch.where(proper, torch.cat((-low, high), dim=1), 0.0)
    return torch.cat((ends, torch.where(proper, volumes, math.inf)), dim=1)


def _iou(ends: Tensor, volumes: Tensor, best_ends: Tensor, best_volume: Tensor, work: list[Tensor]) -> Tensor:
    """Return the intersection over union of all boxes with the best one of their image, (B, 1, N), a part of `work`.

    The minimum of two boxes' `ends` (B, 2 D, N), negative lower ends and upper ends, is their intersection. `work` is
    memory for intermediate results: one like `ends` and its two halves, two like `volumes` (B, 1, N).
    """
    common_ends, lengths, upper, overlap, union = work
    torch.minimum(ends, best_ends, out=common_ends)
    torch.prod(lengths.add_(upper).relu_(), dim=1, keepdim=True, out=overlap)
    torch.add(volumes, best_volume, out=union)
    return overlap.div_(union.sub_(overlap))


def _parts(values: Tensor) -> list[Tensor]:
    """Return views that together are `values`, so small that exp2 works on each in one thread.

    Equal values must give equal results wherever they are, or the order of equal boxes would be lost. PyTorch rounds
    the last values of a thread's share differently if they do not fill its vector registers, which is why there is a
    multiple of 64 candidates. (exp does not need that, but starts threads even for a hundred values, and that takes far
    longer than the work when the other cores are busy.)
    """
    flat = values.view(-1)
    return list(torch.split(flat, flat.shape[0] if values.is_cuda else 16384))


def fixed_size(indices: Tensor, scores: Tensor, size: int, score_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices and scores, (B, up to `size`), padded with 0 behind the valid ones, and the number of those."""
    valid = scores > score_threshold
    padding = [0, size - scores.shape[1]]
    indices = functional.pad(torch.where(valid, indices, 0), padding)
    scores = functional.pad(torch.where(valid, scores, 0.0), padding)
    return indices, scores, valid.sum(dim=1)
