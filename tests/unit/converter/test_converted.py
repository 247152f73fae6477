"""Any source as a converted file that exists only as long as it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converter.converted import converted_file
from converter.errors import ConversionError
from effdet_torch import EfficientDet, load_model, save_model
from effdet_torch.errors import ConfigError
from support.sources import small_config


def test_a_checkpoint_of_tensorflow_as_either_copy(shared: Path) -> None:
    source = str(shared / "trained_d0_256")
    with converted_file(source) as file:
        averages = load_model(file)
    with converted_file(source, weights="raw", keep_redundant_bias=True) as file:
        raw = load_model(file)
    assert not file.exists()
    assert not file.parent.exists()
    assert [model.metadata["view"]["name"] for model in (averages, raw)] == ["ema", "raw"]
    assert [model.metadata["redundant_bias"] for model in (averages, raw)] == ["folded", "kept"]
    assert raw.config.image_size == (256, 256)
    first = "backbone.conv_stem.weight"
    assert not torch.equal(averages.state_dict()[first], raw.state_dict()[first])


def test_keras_weights_and_hyperparameters(shared: Path) -> None:
    source = shared / "trained_d0_256" / "efficientdet-d0_ema.h5"
    with converted_file(str(source), hparams="image_size=384x256") as file:
        assert load_model(file).config.image_size == (256, 384)


def test_a_file_of_this_project(tmp_path: Path) -> None:
    save_model(EfficientDet(small_config(image_size=64)), tmp_path / "mine.pth")
    with converted_file(str(tmp_path / "mine.pth")) as file:
        assert load_model(file).config == load_model(tmp_path / "mine.pth").config


def test_it_is_removed_after_a_failure(shared: Path) -> None:
    with pytest.raises(ZeroDivisionError), converted_file(str(shared / "trained_d0_256")) as file:
        _ = 1 / 0
    assert not file.exists()


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [("nothing.ckpt", {}, ConversionError), ("trained_d0_256", {"hparams": "no_such=1"}, ConfigError)],
)
def test_what_cannot_be_converted(shared: Path, source: str, options: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error), converted_file(str(shared / source), **options):  # type: ignore[arg-type]
        pytest.fail("the block ran")
