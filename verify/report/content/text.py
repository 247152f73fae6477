"""Numbers and names as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Names of settings and of facts about files -> what a page says instead, with units and axes.
FACTS: Mapping[str, str] = {
    "image_size": "image size (height, width), pixels",
    "size_bytes": "size, bytes",
    "view": "copy of the weights",
    "redundant_bias": "biases in front of batch norms",
    "config_origins": "where each setting is from",
    "candidates": "candidates (top_k: highest scores; best_class: every anchor with its best class)",
    "max_candidates": "most candidates of an image",
    "max_detections": "most detections of an image",
    "per_class": "suppression within a class only",
    "clip": "boxes clipped to the network input",
    "sigma": "sigma of soft NMS (0: hard NMS)",
    "iou_threshold": "IoU threshold of hard NMS",
    "score_threshold": "least score of a detection",
    "backend": "whose NMS semantics",
    "batch": "images per step",
    "workers": "processes that read images",
    "score": "least score in the confusion matrix",
    "shown": "worst images shown",
    "limit": "most images",
}


def percent(share: float) -> str:
    """Return a share as a number in 0..100; "n/a" for -1, where there is nothing to find."""
    return "n/a" if share < 0 else f"{100 * share:.2f}"


def listed(names: Iterable[str]) -> str:
    """Return names as a list in a sentence, each once: "a, b and c"."""
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def number(value: float) -> str:
    """Return an error or a tolerance with two digits."""
    return "0" if value == 0 else f"{value:.1e}"
