"""The converted model against the official code's outputs: nine variants, both copies, folded and not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch.network.checkpoint import load_model
from support.converted import convert_arrays, run_model
from support.golden import GoldenCase, error_over_rms, golden_input, load_golden, seeded_view
from support.tolerances import FLOAT32_RANDOM_INPUT, FLOAT32_REAL_IMAGE, FLOAT64

QUICK = ("d0", "lite0")
GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "reference" / "golden"
PATHS = [path for path in sorted(GOLDEN.glob("*.npz")) if "_rand_" in path.name or "_img_" in path.name]
CASES = [GoldenCase.from_path(path) for path in PATHS if not path.name.startswith(("d0_taps_", "d0_input_"))]


def cases(**wanted: str) -> list[Any]:
    """Return the golden cases with the wanted attributes as test parameters; big variants are marked slow."""
    chosen = [case for case in CASES if all(getattr(case, name) == value for name, value in wanted.items())]
    slow = [() if case.config.name in QUICK else (pytest.mark.slow,) for case in chosen]
    return [pytest.param(case, marks=marks, id=case.path.stem) for case, marks in zip(chosen, slow, strict=True)]


def error_of(shared: Path, seeded: ModuleType, case: GoldenCase, state_dict: dict[str, torch.Tensor]) -> float:
    return load_golden(case.path).compare_heads(run_model(case, state_dict, golden_input(shared, seeded, case)))


FOLDED_OR_KEPT = pytest.mark.parametrize("redundant_bias", [False, True], ids=["folded", "kept"])


@FOLDED_OR_KEPT
@pytest.mark.parametrize("case", cases(dtype="float64"))
def test_float64_proves_the_mapping(shared: Path, seeded: ModuleType, case: GoldenCase, redundant_bias: bool) -> None:
    """All class and box outputs equal the official code's in float64."""
    variables = seeded_view(shared, seeded, case.config.name, case.view)
    error = error_of(shared, seeded, case, convert_arrays(variables, case, redundant_bias))
    print(f"{case.path.stem} {'kept' if redundant_bias else 'folded'}: {error:.2e}")
    assert error <= FLOAT64


@FOLDED_OR_KEPT
@pytest.mark.parametrize("case", cases(source="rand"))
def test_float32_on_random_input(shared: Path, seeded: ModuleType, case: GoldenCase, redundant_bias: bool) -> None:
    """In float32, as users run it, the outputs are within the official code's own rounding."""
    variables = seeded_view(shared, seeded, case.config.name, case.view)
    case = replace(case, dtype="float32")
    error = error_of(shared, seeded, case, convert_arrays(variables, case, redundant_bias))
    print(f"{case.path.stem} {'kept' if redundant_bias else 'folded'} float32: {error:.2e}")
    assert error <= FLOAT32_RANDOM_INPUT


def mutate_permutation(state_dict: dict[str, torch.Tensor]) -> None:
    """Omit one transposition: exchange output and input channels of a square kernel."""
    name = "fpn.cell.1.fnode.2.after_combine.conv.conv_pw.weight"
    state_dict[name] = state_dict[name].transpose(0, 1).contiguous()


def mutate_swap(state_dict: dict[str, torch.Tensor]) -> None:
    """Exchange two tensors of one shape: the fusion weights of two nodes."""
    one, other = "fpn.cell.0.fnode.1.combine.edge_weights", "fpn.cell.0.fnode.3.combine.edge_weights"
    state_dict[one], state_dict[other] = state_dict[other], state_dict[one]


def mutate_level(state_dict: dict[str, torch.Tensor]) -> None:
    """Shift the batch norms of a head by one level."""
    for suffix in ("weight", "bias", "running_mean", "running_var"):
        names = [f"class_net.bn_rep.1.{level}.bn.{suffix}" for level in range(5)]
        values = [state_dict[name] for name in names]
        state_dict.update(zip(names, values[1:] + values[:1], strict=True))


def mutate_bias(state_dict: dict[str, torch.Tensor]) -> None:
    """Fold a bias twice instead of once; it is about 0.1."""
    state_dict["fpn.resample.3.conv.bn.running_mean"] -= 0.1


@pytest.mark.parametrize("mutate", [mutate_permutation, mutate_swap, mutate_level, mutate_bias, None])
def test_a_single_mistake_breaks_the_comparison(shared: Path, seeded: ModuleType, mutate: Any) -> None:
    """Negative control: each of the usual mistakes, the other copy (None) among them, exceeds every tolerance."""
    case = next(case for case in CASES if case.path.stem == "d0_ema_rand_512_f64")
    variables = seeded_view(shared, seeded, "d0", "ema" if mutate else "raw")
    state_dict = convert_arrays(variables, case, redundant_bias=False)
    if mutate:
        mutate(state_dict)
    assert error_of(shared, seeded, case, state_dict) > 100 * FLOAT32_REAL_IMAGE


def test_trained_checkpoint(shared: Path, tmp_path: Path) -> None:
    """A real training checkpoint, converted without options, reproduces the stored outputs of a photograph."""
    with open_checkpoint(shared / "trained_d0_256") as source:
        convert_checkpoint(prepare(source), tmp_path / "out.pth")
    model = load_model(tmp_path / "out.pth")
    with np.load(shared / "trained_d0_256" / "ref_000000037777.npz") as stored:
        expected = dict(stored)
    with torch.inference_mode():
        outputs = model(torch.from_numpy(expected["input_nhwc"]).permute(0, 3, 1, 2))
    for head, levels in zip(("cls", "box"), outputs, strict=True):
        for level, output in zip(model.config.levels, levels, strict=True):
            error = error_over_rms(output.permute(0, 2, 3, 1).numpy(), expected[f"{head}_P{level}"])
            print(f"{head} P{level}: {error:.2e}")
            assert error <= FLOAT32_REAL_IMAGE
