"""How many of each class there are, in words: "2 cats, 1 orange".

The plurals are those of COCO's names, which are known. No rule gives the plural of any name in any language (sheep,
mice, "helmet_off"), so another name is left as it is: "2 x helmet_off". A library of English rules, inflect, would
bring four packages along, and be wrong where names are not English words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from effdet_torch.inference.labels import COCO_NAMES

SIBILANTS = ("s", "x", "ch", "sh")
# (one, several) of COCO's names that do not just get an s, or es behind a sibilant.
IRREGULAR: Mapping[str, tuple[str, str]] = {
    "person": ("person", "people"),
    "sheep": ("sheep", "sheep"),
    "skis": ("pair of skis", "pairs of skis"),
    "knife": ("knife", "knives"),
    "broccoli": ("broccoli", "broccoli"),
    "mouse": ("mouse", "mice"),
    "scissors": ("pair of scissors", "pairs of scissors"),
}
WORDS: Mapping[str, tuple[str, str]] = {
    name: IRREGULAR.get(name, (name, f"{name}{'es' if name.endswith(SIBILANTS) else 's'}"))
    for name in COCO_NAMES.values()
}


def counted(names: Iterable[str]) -> str:
    """Return how often every name is there, in the order of the first ones: "2 cats, 1 orange, 3 x helmet"."""
    return ", ".join(_words(name, count) for name, count in Counter(names).items()) or "no detections"


def _words(name: str, count: int) -> str:
    if name not in WORDS:
        return f"{count} x {name}"
    return f"{count} {WORDS[name][count > 1]}"
