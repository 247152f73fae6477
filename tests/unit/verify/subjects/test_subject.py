"""Which copy of a checkpoint a model is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from effdet_torch import load_model, save_model
from support.sources import MemorySource, plan_of, small_config, training_checkpoint
from verify.subjects.subject import load_converted, prepare_reference

CHECKPOINT = training_checkpoint(plan_of(small_config()))


@pytest.mark.parametrize("view", ["ema", "raw"])
def test_a_saved_model_is_compared_with_the_copy_of_its_parent(tmp_path: Path, view: ViewName) -> None:
    source = MemorySource(CHECKPOINT)
    convert_checkpoint(prepare(source, weights=view), tmp_path / "converted.pth")
    save_model(load_model(tmp_path / "converted.pth"), tmp_path / "saved.pth")
    for name in ("converted.pth", "saved.pth"):
        assert prepare_reference(load_converted(tmp_path / name), source).view.name == view


@pytest.mark.parametrize(("view", "trained"), [("raw", "ema"), ("ema", "raw")])
def test_a_trained_model_holds_the_copy_that_it_says(tmp_path: Path, view: ViewName, trained: ViewName) -> None:
    """Fine-tuned from a source with raw values alone, such as a TensorFlow Lite file, it holds averages of its own."""
    convert_checkpoint(prepare(MemorySource(CHECKPOINT), weights=view), tmp_path / "converted.pth")
    save_model(load_model(tmp_path / "converted.pth"), tmp_path / "trained.pth", training={"weights": trained})
    with open_checkpoint(tmp_path / "trained.pth") as source:
        assert prepare_reference(load_converted(tmp_path / "trained.pth"), source).view.name == trained
