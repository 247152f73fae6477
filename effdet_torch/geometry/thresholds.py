"""The thresholds of non-maximum suppression, the same for both implementations."""

from __future__ import annotations


def least_score(iou_threshold: float, score_threshold: float, soft: bool) -> float:
    """Return the score that a selected box exceeds.

    Raises:
        ValueError: The IoU threshold is not in 0..1, or the score threshold is negative in soft mode.
    """
    if iou_threshold < 0.0 or iou_threshold > 1.0:
        raise ValueError(f"iou_threshold is {iou_threshold}; expected 0 to 1")
    if soft and score_threshold < 0.0:
        raise ValueError(f"score_threshold is {score_threshold}; soft NMS decays scores towards 0 and needs 0 or more")
    # Soft: TensorFlow treats denormal numbers as 0. Hard: what is removed gets a lower score than -1e20.
    return max(score_threshold, 1.2e-38 if soft else -1e20)
