"""Names of variants, as the official code, timm and the `effdet` package spell them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

# What stands before the variant, with "-" for "_". timm's and the package's models with TensorFlow's weights begin with
# the first one; the official models and the package's own with the second one.
PREFIXES = ("tf-efficientdet-", "efficientdet-")
ADVPROP = "-advprop"
SYNONYMS: Mapping[str, str] = {"-ap": ADVPROP}  # endings of the packages -> the official ones

# What an ending of an official name sets; it is not part of a variant.
SETTINGS: Mapping[str, str] = {
    ADVPROP: "normalization='advprop' (effdet-convert: --hparams mean_rgb=0,stddev_rgb=1,scale_range=true)",
    "-640": "image_size=640 (effdet-convert: --hparams image_size=640)",
}
CUTOFF = 0.6  # names are short: "d9" shares half of its letters with every other one


def short_name(name: str) -> str:
    """Return the short official form of a name: "d0" of "EfficientDet-D0", "d0-advprop" of "tf_efficientdet_d0_ap"."""
    text = name.lower().replace("_", "-")
    text = text.removeprefix(next(filter(text.startswith, PREFIXES), ""))
    ending = next(filter(text.endswith, SYNONYMS), "")
    return text.removesuffix(ending) + SYNONYMS.get(ending, "")


def has_prefix(name: str) -> bool:
    """Whether a name begins as only names of EfficientDets do."""
    return name.lower().replace("_", "-").startswith(PREFIXES)


def split_ending(name: str) -> tuple[str, str]:
    """Return a short name without the ending that stands for settings, and these settings; "" if there are none."""
    ending = next(filter(name.endswith, SETTINGS), "")
    return name.removesuffix(ending), SETTINGS.get(ending, "")


def did_you_mean(name: str, names: Iterable[str], cutoff: float = CUTOFF) -> str:
    """Return a question with the closest of some names, to end a sentence; "" if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""
