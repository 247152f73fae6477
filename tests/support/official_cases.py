"""Official configurations beside the project: `config.yaml`, variables, and the outputs of the official code."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from support.golden import error_over_rms
from verify.reference.base import HeadOutputs

Arrays = dict[str, NDArray[Any]]
SIZE = 128
_NAMES = """
    act_hswish act_relu act_relu6 act_silu anchor_scale_list base bb_fused
    bb_kernel bb_superpixel conv_after_down conv_bn_act conv_bn_act_sum d0_backbone_lite0 fpn_filters_eq_p5
    fpn_qufpn fpncfg_attn fpncfg_fewer fpncfg_same fpncfg_wm_sum_conflict full_conv heads_both
    heads_seg_only label_map max_level5 min_level2 nms_hard no_bn_resample scale_range
    survival_b0 wm_attn wm_channel_fastattn
"""
CASES = tuple(_NAMES.split())


@dataclass(frozen=True)
class OfficialCase:
    """One configuration; its outputs are the official code's float32, on the EMA values and random input."""

    folder: Path
    seeded: ModuleType

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def images(self) -> NDArray[Any]:
        """(1, SIZE, SIZE, 3), float32."""
        images: NDArray[Any] = self.seeded.random_input(SIZE, SIZE)
        return images

    @cached_property
    def oracle(self) -> Arrays:
        """{"class_L" and "box_L": (1, H, W, C)}; "seg" where there is a segmentation head."""
        with np.load(self.folder / "oracle.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def variables(self, view: str = "ema") -> Arrays:
        """Draw the values of all variables."""
        return drawn(self.folder.parents[1], self.seeded, self.folder / "variables.tsv", view)

    def error(self, outputs: HeadOutputs) -> float:
        """Return the largest error over rms of all heads on all levels; no array may be missing."""
        arrays = {f"class_{level}": array for level, array in outputs.class_logits.items()}
        arrays |= {f"box_{level}": array for level, array in outputs.box_deltas.items()}
        arrays |= {} if outputs.mask_logits is None else {"seg": outputs.mask_logits}
        assert arrays.keys() == self.oracle.keys()
        return max(error_over_rms(array, self.oracle[name]) for name, array in arrays.items())


def drawn(sources: Path, seeded: ModuleType, shapes: Path, view: str) -> Arrays:
    """Draw the values of the variables whose shapes a file lists, by the module in the folder of all sources."""
    with patch.dict("sys.modules", seeded_variables=seeded):
        spec = importlib.util.spec_from_file_location("seeded_extra", sources / "seeded_extra.py")
        assert spec is not None
        assert spec.loader is not None
        extra = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(extra)
    return dict(extra.draw(seeded.read_shapes(shapes), view=view))


def case_folders(shared: Path) -> dict[str, Path]:
    """Return {name: folder} of all configurations."""
    return {path.parent.name: path.parent for path in (shared / "reference" / "sources" / "cases").glob("*/oracle.npz")}
