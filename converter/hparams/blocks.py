"""The official `backbone_config`: a list of blocks, which must be the backbone's own.

Source: the official code's `efficientnet_model.BlockArgs` and `efficientnet_builder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effdet_torch.architecture.backbone import SQUEEZE_EXCITE_RATIO, STAGES, STEM_CHANNELS

# The fields of BlockArgs in order; a file lists their values.
FIELDS = (
    "kernel_size",
    "num_repeat",
    "input_filters",
    "output_filters",
    "expand_ratio",
    "id_skip",
    "strides",
    "se_ratio",
    "conv_type",
    "fused_conv",
    "super_pixel",
    "condconv",
)


def require_own_blocks(value: Any) -> None:
    """Check that a block list is the one that every EfficientNet has; widths and depths are scaled later.

    Args:
        value: {"blocks": [values of `FIELDS`, or mappings of them]}.

    Raises:
        ValueError: It is something else; the text names the first difference.
    """
    if not isinstance(value, Mapping) or set(value) != {"blocks"} or not isinstance(value["blocks"], list):
        raise ValueError("expected a list called blocks")
    blocks, expected = value["blocks"], own_blocks()
    if len(blocks) != len(expected):
        raise ValueError(f"it has {len(blocks)} blocks; only the backbone's own {len(expected)} are supported")
    for number, (block, own) in enumerate(zip(blocks, expected, strict=True)):
        values = block if isinstance(block, Mapping) else dict(zip(FIELDS, block, strict=False))
        if unknown := sorted(map(str, set(values) - set(FIELDS))) or (len(block) > len(FIELDS) and ["more values"]):
            raise ValueError(f"block {number} has {unknown[0]}; expected {', '.join(FIELDS)}")
        if missing := [name for name in FIELDS if name not in values]:
            raise ValueError(f"block {number} lacks {missing[0]}; expected {', '.join(FIELDS)}")
        for name, found in values.items():
            found = list(found) if isinstance(found, tuple) else found
            if found != own[name]:
                raise ValueError(
                    f"block {number} has {name} {found!r}; only the backbone's own {own[name]!r} is supported"
                )


def own_blocks() -> list[dict[str, Any]]:
    """Return the blocks of the unscaled network, by `FIELDS`."""
    blocks, channels = [], STEM_CHANNELS
    for repeats, kernel_size, stride, expand_ratio, out_channels in STAGES:
        values = (
            kernel_size,
            repeats,
            channels,
            out_channels,
            expand_ratio,
            True,
            [stride, stride],
            SQUEEZE_EXCITE_RATIO,
        )
        blocks.append(dict(zip(FIELDS, (*values, 0, 0, 0, False), strict=True)))
        channels = out_channels
    return blocks
