"""Names of variants, as the official code, timm and the `effdet` package spell them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

# What stands before the variant, with "-" for "_". timm's and the package's models with TensorFlow's weights begin with
# the first one; the official models and the package's own with the second one.
PREFIXES = ("tf-efficientdet-", "efficientdet-")
BACKBONE_PREFIXES = ("tf-efficientnet-", "efficientnet-")
ADVPROP, NOISY_STUDENT = "-advprop", "-noisystudent"
# Endings of the packages -> the official ones; timm's newer names have dots.
SYNONYMS: Mapping[str, str] = {"-ap": ADVPROP, ".ap-in1k": ADVPROP, "-ns": NOISY_STUDENT, ".ns-jft-in1k": NOISY_STUDENT}
BACKBONE_SYNONYMS: Mapping[str, str] = {**SYNONYMS, "-aa": "", ".aa-in1k": "", ".ra-in1k": "-randaug"}

# What an ending of an official name sets; it is not part of a variant.
SETTINGS: Mapping[str, str] = {
    ADVPROP: "normalization='advprop' (effdet-convert: --hparams mean_rgb=0,stddev_rgb=1,scale_range=true)",
    "-640": "image_size=640 (effdet-convert: --hparams image_size=640)",
}
CUTOFF = 0.6  # names are short: "d9" shares half of its letters with every other one


def short_name(name: str) -> str:
    """Return the short official form of a name: "d0" of "EfficientDet-D0", "d0-advprop" of "tf_efficientdet_d0_ap".

    That of a backbone keeps a prefix: "efficientnet-b0-noisystudent" of "tf_efficientnet_b0_ns".
    """
    text = name.lower().replace("_", "-")
    begin = next(filter(text.startswith, (*PREFIXES, *BACKBONE_PREFIXES)), "")
    is_backbone = begin in BACKBONE_PREFIXES
    synonyms = BACKBONE_SYNONYMS if is_backbone else SYNONYMS
    ending = next(filter(text.endswith, synonyms), "")
    text = text.removeprefix(begin).removesuffix(ending) + synonyms.get(ending, "")
    return BACKBONE_PREFIXES[-1] + text if is_backbone else text


def has_prefix(name: str) -> bool:
    """Whether a name begins as only names of EfficientDets and of their backbones do."""
    return name.lower().replace("_", "-").startswith((*PREFIXES, *BACKBONE_PREFIXES))


def split_ending(name: str) -> tuple[str, str]:
    """Return a short name without the ending that stands for settings, and these settings; "" if there are none."""
    ending = next(filter(name.endswith, SETTINGS), "")
    return name.removesuffix(ending), SETTINGS.get(ending, "")


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Return a question with the closest of some names, to end a sentence; "" if none is close.

    Args:
        name: what was given.
        names: what exists.
        prefix: what the name begins with: it says nothing of how close another one is that also begins so.
    """
    endings = [other.removeprefix(prefix) for other in names if other.startswith(prefix)]
    close = difflib.get_close_matches(name.removeprefix(prefix), endings, n=1, cutoff=CUTOFF)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""
