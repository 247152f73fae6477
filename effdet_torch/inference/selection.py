"""Which detections a call asks for: thresholds, limits and classes, over those of the postprocessing profile.

Classes are chosen after suppression and before the limit on the number of detections. So they leave out the other
classes and change nothing else: boxes and scores are those of a call without them, whatever the profile. (Chosen before
suppression, a box of a class that nobody asked for would no longer suppress a second box on the same object where all
classes suppress each other, and the scores of soft suppression would be other ones.)
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

from effdet_torch.checks import require_type
from effdet_torch.errors import ConfigError, listed
from effdet_torch.processing.numpy_postprocess import Detections
from effdet_torch.processing.profiles import Profile, profile_name

GROWTH = 4  # of the number of detections, until enough of them are of the chosen classes
JUST_BELOW = 1 - 1e-5  # a threshold times this is below it by more than a rounding of a float32
MOST_NAMED = 20  # classes in an error


@dataclass(frozen=True)
class Selection:
    """What a call asks for; None leaves it to the profile.

    Args:
        score_threshold: detections below it are left out, 0..1.
        iou_threshold: overlap above which hard suppression removes a box, 0..1.
        max_detections: per image, at least 1.
        category_ids: of the classes to report.

    Raises:
        UsageError: A value has another type.
        ConfigError: A value is out of its range.
    """

    score_threshold: float
    iou_threshold: float | None = None
    max_detections: int | None = None
    category_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if value is None and name == "iou_threshold":
                continue
            require_type(value, Real, name, "a number, 0 to 1")
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; expected 0 to 1")
        if self.max_detections is not None:
            require_type(self.max_detections, Integral, "max_detections", "a whole number, at least 1")
            if self.max_detections < 1:
                raise ConfigError(f"max_detections is {self.max_detections}; expected at least 1")

    def applied_to(self, profile: Profile, is_fixed: bool) -> Profile:
        """Return a profile with the settings of this selection in the place of its own.

        Args:
            profile: that would be used.
            is_fixed: whether suppression runs inside the model's file, with this profile.

        Raises:
            ConfigError: A setting would have no effect.
        """
        if self.iou_threshold is not None:
            if is_fixed:
                raise ConfigError(
                    "the IoU threshold (--iou) is fixed in the file, which makes its detections itself; leave it out, "
                    "or export the model again without --nms"
                )
            if profile.sigma > 0:
                raise ConfigError(
                    f"the profile {profile_name(profile)} lowers the scores of overlapping boxes (soft NMS) and has no "
                    "IoU threshold; leave out --iou, or pass a profile of hard NMS, such as --profile serving-hard"
                )
            profile = replace(profile, iou_threshold=float(self.iou_threshold))
        if self.max_detections is None:
            return profile
        if is_fixed and self.max_detections > profile.max_detections:
            raise ConfigError(
                f"the file makes at most {profile.max_detections} detections per image itself; pass --max-detections "
                f"{profile.max_detections} or less, or export the model again without --nms"
            )
        return replace(profile, max_detections=int(self.max_detections))

    def detections(
        self, make: Callable[[Profile], Sequence[Detections]], profile: Profile, is_fixed: bool
    ) -> list[Detections]:
        """Return what was asked for of every image.

        Args:
            make: returns the detections of every image with a profile, best first.
            profile: see `applied_to`.
            is_fixed: whether `make` returns the same for every profile.
        """
        if self.category_ids is None or is_fixed:
            return [self._chosen(one, profile.max_detections) for one in make(profile)]
        # Scores only decay, so what scores less than the threshold decides about nothing that scores more.
        floor = self.score_threshold * JUST_BELOW
        wide = replace(profile, score_threshold=max(profile.score_threshold, floor)) if floor > 0 else profile
        while True:  # make more until enough are of the chosen classes: the first ones stay what they are
            made = make(wide)
            found = [self._chosen(one, profile.max_detections) for one in made]
            is_all = (len(one.scores) < wide.max_detections for one in made)
            if all(
                len(few.scores) == profile.max_detections or every for few, every in zip(found, is_all, strict=True)
            ):
                return found
            wide = replace(wide, max_detections=wide.max_detections * GROWTH)

    def _chosen(self, found: Detections, most: int) -> Detections:
        kept = found.scores >= self.score_threshold
        if self.category_ids is not None:
            kept &= np.isin(found.classes, self.category_ids)
        places = np.flatnonzero(kept)[:most]
        return Detections(found.boxes_xyxy[places], found.scores[places], found.classes[places])


def listed_classes(text: str) -> list[str]:
    """Return the classes of a list with commas, as in a line of CSV: `person,"bolt, large"` are two.

    Raises:
        ConfigError: Quotation marks are misplaced.
    """
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise ConfigError(
            f"cannot read the list of classes {text!r}: {error}; quote a name as in CSV, or pass category ids"
        ) from error


def category_ids_of(
    classes: str | int | Iterable[str | int], names: Mapping[int, str], num_classes: int
) -> tuple[int, ...]:
    """Return the ids of classes that are given by name or id, ascending.

    Args:
        classes: one or several; a name may be written in other upper and lower case, and comes before a number: the
            text "3" is the id 3 only if no class has that name.
        names: {category id: name} of the model.
        num_classes: of the model; ids are 1 to this number.

    Raises:
        ConfigError: There is no such class, or none is given.
        UsageError: A class is neither a text nor a number.
    """
    given = list(classes) if isinstance(classes, Iterable) and not isinstance(classes, str) else [classes]
    if not given:
        raise ConfigError("classes is empty; name at least one class, or leave it out to report all of them")
    by_name: dict[str, list[int]] = {}
    for number, name in names.items():
        by_name.setdefault(name.strip().casefold(), []).append(int(number))
    chosen: set[int] = set()
    for place, one in enumerate(given, 1):
        require_type(one, (str, Integral), f"the class {one!r}", "a name or a category id")
        text = str(one).strip()
        found = by_name.get(text.casefold(), []) if isinstance(one, str) else []
        if not found and text.isdecimal() and 1 <= int(text) <= num_classes:
            found = [int(text)]
        if not found and not text:
            raise ConfigError(f"class {place} of {len(given)} is empty; name it, or remove its comma")
        if not found:
            raise ConfigError(_unknown(text, names, num_classes))
        chosen.update(found)
    return tuple(sorted(chosen))


def _unknown(text: str, names: Mapping[int, str], num_classes: int) -> str:
    ids = f"category ids are 1 to {num_classes}"
    if not names:
        return f"unknown class {text!r}; the model has no class names; {ids}, and --labels adds names"
    from difflib import get_close_matches  # late: for an error only

    near = get_close_matches(text.casefold(), {name.casefold(): None for name in names.values()}, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the model has {listed(names.values(), MOST_NAMED)};"
    quote = ", and a name with a comma needs quotation marks" if any("," in name for name in names.values()) else ""
    return f"unknown class {text!r}; {hint} {ids}{quote}"
