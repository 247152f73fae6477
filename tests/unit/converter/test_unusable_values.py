"""Values that no network can use are refused while they are converted, and nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.conversion import UNUSABLE, convert_checkpoint, converting, prepare
from converter.errors import UnusableValuesError
from converter.locate import open_checkpoint
from converter.report import conversion_report, conversion_text
from converter.writers.targets import choose_target
from effdet_torch import load_model
from effdet_torch.errors import ModelFileError
from support.sources import Array, MemorySource, plan_of, seeded, small_config

PLAN = plan_of(small_config())
GOOD = seeded(PLAN)
KERNEL, VARIANCE = "class_net/class-predict/pointwise_kernel", "box_net/box-0-bn-4/moving_variance"
TARGETS = pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.h5", "checkpoint"])


def with_nan(arrays: dict[str, Array]) -> dict[str, Array]:
    kernel = arrays[KERNEL].copy()
    kernel.reshape(-1)[[3, 5]] = np.nan, np.inf
    return {**arrays, KERNEL: kernel}


def with_negative_variance(arrays: dict[str, Array]) -> dict[str, Array]:
    return {**arrays, VARIANCE: -np.ones_like(arrays[VARIANCE])}


def with_kernels_of_zeros(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: array * (array.ndim != 4) for name, array in arrays.items()}


FAULTS = {
    with_nan: f"{KERNEL}: 2 of {GOOD[KERNEL].size} values are not finite",
    with_negative_variance: f"{VARIANCE}: 8 of 8 variances are negative",
    with_kernels_of_zeros: "hold nothing but zeros",
}


def convert(arrays: dict[str, Array], out: Path, **options: Any) -> dict[str, Any]:
    target = choose_target(out, None if out.suffix else "tf1")
    return convert_checkpoint(prepare(MemorySource(arrays)), out, target=target, **options)


@TARGETS
@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_unusable_values_are_refused_by_name_and_nothing_is_written(
    tmp_path: Path, name: str, spoil: Callable[[dict[str, Array]], dict[str, Array]]
) -> None:
    with pytest.raises(UnusableValuesError) as caught:
        convert(spoil(GOOD), tmp_path / name)
    assert FAULTS[spoil] in str(caught.value)
    assert str(caught.value).startswith("folder/model holds values that no network can use (1 found: ")
    assert "--allow-nonfinite" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    convert(GOOD, tmp_path / name)  # negative control


def test_a_file_that_was_there_stays(tmp_path: Path) -> None:
    convert(GOOD, tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    with pytest.raises(UnusableValuesError):
        convert(with_nan(GOOD), tmp_path / "x.pth")
    assert (tmp_path / "x.pth").read_bytes() == before


def test_many_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableValuesError, match=rf"\({len(GOOD)} found: .* and {len(GOOD) - 3} more\)"):
        convert({name: np.full_like(array, np.nan) for name, array in GOOD.items()}, tmp_path / "x.pth")


def test_values_of_the_other_copy_do_not_matter(tmp_path: Path) -> None:
    averages = {f"{name}/ExponentialMovingAverage": array for name, array in GOOD.items()}
    convert({**with_nan(GOOD), **averages}, tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_accepted_values_are_said_in_report_and_metadata_and_not_loaded(
    tmp_path: Path, suffix: str, spoil: Callable[[dict[str, Array]], dict[str, Array]]
) -> None:
    out = tmp_path / f"x.{suffix}"
    prepared = prepare(MemorySource(spoil(GOOD)))
    with converting(prepared, out, allow_nonfinite=True) as written:
        metadata = written.metadata
    assert len(metadata[UNUSABLE]) == 1
    report = conversion_report(prepared, written, out)
    assert "accepted by --allow-nonfinite: " in conversion_text(report)
    assert FAULTS[spoil] in conversion_text(report)
    assert json.loads(json.dumps(report))[UNUSABLE] == metadata[UNUSABLE]
    with pytest.raises(ModelFileError, match=r"holds values that no network can use \(.*(not finite|negative|zeros)"):
        load_model(out)
    model = load_model(out, allow_nonfinite=True)
    assert model.metadata[UNUSABLE] == metadata[UNUSABLE]
    with pytest.raises(UnusableValuesError, match="no network can use"), open_checkpoint(out) as again:
        convert_checkpoint(prepare(again), tmp_path / "y.pth")


def test_nothing_is_said_where_nothing_had_to_be_accepted(tmp_path: Path) -> None:
    assert UNUSABLE not in convert(GOOD, tmp_path / "x.pth", allow_nonfinite=True)
    convert(GOOD, tmp_path / "y.pth")
    assert (tmp_path / "x.pth").read_bytes() == (tmp_path / "y.pth").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_in_another_precision_is_looked_at_as_well(tmp_path: Path, dtype: torch.dtype) -> None:
    convert(GOOD, tmp_path / "x.pth")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, tmp_path / "x.pth")
    load_model(tmp_path / "x.pth")
    state["class_net.predict.conv_pw.bias"][1] = torch.nan
    torch.save({**content, "state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(ModelFileError, match=r"class_net\.predict\.conv_pw\.bias: 1 of \d+ values are not finite"):
        load_model(tmp_path / "x.pth")
