"""Inner layers of the converted d0 against the official code's: 73 of them, with a float32 golden file."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from effdet_torch.config import EfficientDetConfig
from effdet_torch.network.model import EfficientDet
from support.converted import convert_arrays
from support.golden import GoldenCase, load_golden, seeded_view
from support.tolerances import FLOAT32_RANDOM_INPUT
from verify.layers.parity import record_outputs


def modules_of(config: EfficientDetConfig) -> dict[str, str]:
    """Return {TensorFlow name in the golden file: PyTorch module}."""
    modules = {
        f"{config.backbone}/stem": "backbone.bn1",
        "resample_p6": "fpn.resample.3",
        "resample_p7": "fpn.resample.4",
    }
    for block in config.blocks:
        modules[f"{config.backbone}/blocks_{block.flat}"] = f"backbone.blocks.{block.stage}.{block.block}"
    for node in config.nodes:
        scope = f"fpn_cells/cell_{node.cell}/fnode{node.index}/op_after_combine{node.feature}"
        modules[scope] = f"fpn.cell.{node.cell}.fnode.{node.index}"
    for head in ("class", "box"):
        for repeat in range(config.head_repeats):
            for index, level in enumerate(config.levels):
                modules[f"{head}_net/{head}-{repeat}-bn-{level}-act"] = f"{head}_net.bn_rep.{repeat}.{index}"
    return modules


def layer_errors(shared: Path, seeded: ModuleType, modules: dict[str, str]) -> dict[str, float]:
    """Run the converted d0 in float64 and return each layer's error over rms."""
    golden = load_golden(shared / "reference" / "golden" / "d0_taps_ema_rand_512.npz")
    case = GoldenCase.from_path(shared / "reference" / "golden" / "d0_ema_rand_512_f64.npz")
    state_dict = convert_arrays(seeded_view(shared, seeded, "d0", "ema"), case, redundant_bias=False)
    with torch.device("meta"):
        model = EfficientDet(case.config)
    model.load_state_dict(state_dict, strict=True, assign=True)
    images = np.asarray(seeded.random_input(*case.config.image_size))
    with torch.inference_mode():
        outputs = record_outputs(model.eval(), set(modules.values()), images, "float64")
    assert set(golden.samples) == set(modules)
    arrays = {scope: outputs[module, 0].permute(0, 2, 3, 1).numpy() for scope, module in modules.items()}
    return {scope: golden.compare(scope, array) for scope, array in arrays.items()}


def test_every_inner_layer(shared: Path, seeded: ModuleType) -> None:
    case = GoldenCase.from_path(shared / "reference" / "golden" / "d0_ema_rand_512_f64.npz")
    errors = layer_errors(shared, seeded, modules_of(case.config))
    worst = max(errors, key=lambda scope: errors[scope])
    print(f"{len(errors)} layers, worst {worst}: {errors[worst]:.2e}")
    assert len(errors) == 73
    assert errors[worst] <= FLOAT32_RANDOM_INPUT


def test_exchanged_layers_do_not_pass(shared: Path, seeded: ModuleType) -> None:
    """Negative control: two nodes of one level and shape under each other's names."""
    case = GoldenCase.from_path(shared / "reference" / "golden" / "d0_ema_rand_512_f64.npz")
    modules = modules_of(case.config)
    one, other = "fpn_cells/cell_0/fnode2/op_after_combine7", "fpn_cells/cell_1/fnode2/op_after_combine7"
    modules[one], modules[other] = modules[other], modules[one]
    errors = layer_errors(shared, seeded, modules)
    assert {scope for scope, error in errors.items() if error > FLOAT32_RANDOM_INPUT} == {one, other}
