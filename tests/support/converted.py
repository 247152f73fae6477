"""Convert arrays in memory and run the result: the PyTorch side of every numeric comparison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effdet_torch.network.model import EfficientDet
from support.golden import GoldenCase
from support.sources import converted, plan_of
from verify.reference.base import HeadOutputs

Arrays = dict[str, NDArray[Any]]


def convert_arrays(variables: Arrays, case: GoldenCase, redundant_bias: bool) -> dict[str, torch.Tensor]:
    """Convert variables in the dtype of a golden case."""
    plan = plan_of(replace(case.config, redundant_bias=redundant_bias))
    tensors = converted(plan, variables, dtype=case.dtype)
    return {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}


def run_model(case: GoldenCase, state_dict: dict[str, torch.Tensor], images: NDArray[Any]) -> HeadOutputs:
    """Run our model, built for the layout of a state_dict, on NHWC images."""
    redundant_bias = "class_net.conv_rep.0.conv_pw.bias" in state_dict
    dtype = getattr(torch, case.dtype)
    with torch.device("meta"):
        model = EfficientDet(replace(case.config, redundant_bias=redundant_bias))
    model.load_state_dict(state_dict, strict=True, assign=True)
    with torch.inference_mode():
        outputs = model.eval()(torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(dtype))
    named = [
        {level: output.permute(0, 2, 3, 1).numpy() for level, output in zip(case.config.levels, head, strict=True)}
        for head in outputs
    ]
    return HeadOutputs(*named)
