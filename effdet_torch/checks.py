"""What arguments must be; for the values of a model's settings: field -> a check, and what it expects in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from numbers import Integral
from typing import Any, cast

from effdet_torch.architecture.backbone import BACKBONES, PACKAGE_BACKBONES
from effdet_torch.architecture.pyramid import CELLS
from effdet_torch.errors import UsageError

LARGEST = 1e9  # above any ratio, scale or colour; infinity and NaN fail the comparison
LEAST_PIXELS = 32  # per side: one step of the backbone's last features; a smaller image is padding for the most part
MOST_PIXELS = 8192  # per side of the network input, five times D7's; its activations alone need some 20 GB
MOST_PARTS = 100  # cells, repeats, nodes, ...: the largest official network has 8 of a kind; a cell, 10 nodes
MOST = 1_000_000  # classes or channels
MOST_IN_MASK = 1 << 16  # classes of pixels: a mask is a picture of 8 or 16 bits
DETECTION, SEGMENTATION = HEADS = "object_detection", "segmentation"  # the official names, in the order of the outputs
LABEL_MAP = "{category id: name}, which is dict(enumerate(names, start=1)) of a list"
Test = Callable[[Any], bool]
Check = tuple[Test, str]


def require_type(value: object, kinds: type | tuple[type, ...], name: str, expected: str) -> None:
    """Refuse an argument of another type.

    Raises:
        UsageError: The text has the name of the argument, and in words what is expected.
    """
    if not isinstance(value, kinds):
        raise UsageError(f"{name} is of type {type(value).__name__}; expected {expected}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def require_label_map(label_map: object, num_classes: int) -> dict[int, str]:
    """Return the class names that a user passed, {category id: name}.

    Raises:
        UsageError: It is something else, names a category that the model does not have, or a name cannot be written.
    """
    require_type(label_map, Mapping, "label_map", LABEL_MAP)
    names = cast("Mapping[Any, Any]", label_map)
    for number, name in names.items():
        require_type(number, Integral, f"the category {number!r} of label_map", LABEL_MAP)
        require_type(name, str, f"the name of category {number} in label_map", LABEL_MAP)
        if not 1 <= number <= num_classes:
            raise UsageError(
                f"label_map names category {number}; expected 1 to {num_classes}, the classes of the model"
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the name of category {number} in label_map is {name!r}; expected Unicode text"
            ) from error
    return {int(number): name for number, name in names.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _all(is_valid: Test, values: Any, count: int | None = None) -> bool:
    has_count = isinstance(values, tuple) and (len(values) == count if count else 0 < len(values) <= MOST_PARTS)
    return has_count and all(map(is_valid, values))


def _are_pairs(values: Any, is_first: Test, is_second: Test) -> bool:
    pairs = isinstance(values, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in values)
    return pairs and all(is_first(first) and is_second(second) for first, second in values)


def one_of(choices: Collection[str]) -> Check:
    """Return the check of a text that is one of several."""
    return lambda value: _is_text(value) and value in choices, f"one of {', '.join(choices)}"


def integer(low: int, high: int) -> Check:
    """Return the check of a whole number, low to high."""
    return lambda value: _is_int(value) and low <= value <= high, f"{low} to {high}"


def _positive(most: int) -> Check:
    return integer(1, most)[0], f"a positive integer, at most {most}"


# Official `nms_configs`: name -> what its value must be.
NMS_CHECKS: Mapping[str, Check] = {
    "method": one_of(("gaussian", "hard")),
    "iou_thresh": (lambda value: _is_positive(value) and value <= 1, "above 0, up to 1"),
    "score_thresh": (lambda value: _is_positive(value) and value <= 1, "above 0, up to 1"),
    "sigma": (_is_positive, "a positive number"),
    "max_nms_inputs": integer(1, 1_000_000),
    "max_output_size": integer(1, 100_000),
    "max_per_class": integer(1, 100_000),
    "profile": one_of(("object-detection-api",)),  # what the other settings change; by default "serving"
}
NMS_NAMES = tuple(NMS_CHECKS)

_SWITCH: Check = (lambda value: isinstance(value, bool), "true or false")

CHECKS: Mapping[str, Check] = {
    "backbone": one_of((*BACKBONES, *PACKAGE_BACKBONES)),
    "fusion": one_of(("fastattn", "attn", "sum", "channel_fastattn", "channel_attn")),
    "activation": one_of(("swish", "relu6", "relu", "hswish", "mish")),
    "normalization": one_of(("mean_std", "scale_range", "advprop")),
    "fpn_name": one_of(CELLS),
    "padding": one_of(("same", "symmetric")),
    "backbone_style": one_of(("tensorflow", "pytorch")),
    "resampling": one_of(("max_nearest", "bilinear")),
    "resize": one_of(("half_pixel", "legacy")),
    "taps": (
        lambda value: _are_pairs(value, _is_int, _is_int) and len(value) <= MOST_PARTS,
        "pairs (stage, block), or nothing",
    ),
    # A file of a few bytes can name any number, and would have a network built that fills the memory.
    **dict.fromkeys(("fpn_channels", "num_classes"), _positive(MOST)),
    "seg_num_classes": _positive(MOST_IN_MASK),
    **dict.fromkeys(("fpn_cells", "head_repeats", "num_scales"), _positive(MOST_PARTS)),
    "heads": (
        lambda value: isinstance(value, tuple) and value in ((DETECTION,), (SEGMENTATION,), HEADS),
        f"one or both of {', '.join(HEADS)}, in this order",
    ),
    "min_level": integer(1, 5),
    "max_level": integer(5, 12),
    "image_size": (
        lambda value: _all(integer(LEAST_PIXELS, MOST_PIXELS)[0], value, 2),
        f"(height, width), two integers from {LEAST_PIXELS} to {MOST_PIXELS}",
    ),
    "aspect_ratios": (
        lambda value: _all(lambda ratio: _is_positive(ratio) or _all(_is_positive, ratio, 2), value),
        "positive numbers, or pairs of them",
    ),
    "anchor_scale": (
        lambda value: _is_positive(value) or _all(_is_positive, value),
        "a positive number, or one for every level",
    ),
    "std_rgb": (lambda value: _all(_is_positive, value, 3), "three positive numbers"),
    "mean_rgb": (lambda value: _all(_is_number, value, 3), "three numbers"),
    "survival_prob": (lambda value: _is_number(value) and 0 <= value <= 1, "0 to 1"),
    "redundant_bias": _SWITCH,
    "conv_after_downsample": _SWITCH,
    "conv_bn_act_pattern": _SWITCH,
    "apply_bn_for_resampling": _SWITCH,
    "separable_conv": _SWITCH,
    "fpn_config": (
        lambda value: _are_pairs(value, _is_int, lambda inputs: _all(_is_int, inputs)) and len(value) <= MOST_PARTS,
        f"nodes (level, offsets of the inputs), at most {MOST_PARTS}",
    ),
    "nms_configs": (
        lambda value: (
            _are_pairs(value, NMS_NAMES.__contains__, lambda _: True)
            and all(NMS_CHECKS[name][0](given) for name, given in value)
        ),
        f"pairs of a name and a value: {', '.join(f'{name} {words}' for name, (_, words) in NMS_CHECKS.items())}",
    ),
    "label_map": (
        lambda value: _are_pairs(value, _is_int, _is_text),
        "pairs of a category id and a name, or {category id: name}, which is dict(enumerate(names, start=1)) of a list",
    ),
}
