"""`create_model` with the values of a file: whose settings count, and what starts from random values."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from effdet_torch import create_model, load_model, save_model
from effdet_torch.errors import ConfigError, ModelFileError, UsageError
from effdet_torch.file_format import untrained
from support.coco_samples import small_model

NAMES = {"label_map": ((1, "cat"), (2, "dog"))}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_model(small_model(**NAMES), tmp_path / "d0.pth")
    return tmp_path / "d0.pth"


@pytest.mark.parametrize("name", ["d0", "efficientdet-d0", "tf_efficientdet_d0"])
def test_settings_that_are_not_given_are_the_files(file: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, expected = create_model(name, pretrained=file, image_size=128), load_model(file)
    assert model.config.image_size == (128, 128)
    assert model.config.label_map == expected.config.label_map
    assert not model.training
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        for ours, theirs in zip(model(images), expected(images), strict=True):
            assert all(map(torch.equal, ours, theirs))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert untrained(model.metadata) is None


def test_another_number_of_classes_starts_the_head_anew(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, before = create_model("d0", pretrained=file, num_classes=5), load_model(file).state_dict()
    assert (model.config.num_classes, model.config.label_map) == (5, ())
    for key, tensor in model.state_dict().items():
        fresh = key.startswith("class_net.predict.conv_pw")
        assert (key in before and before[key].shape == tensor.shape and torch.equal(before[key], tensor)) != fresh, key
    assert "class head: 5 classes in place of 2; its last convolution starts from random values" in caplog.text
    assert "UNTRAINED the last convolution of the class head" in str(untrained(model.metadata))
    named = create_model("d0", pretrained=file, num_classes=3, label_map={1: "a"})
    assert named.config.label_map == ((1, "a"),)
    same = create_model("d0", pretrained=file, num_classes=2)  # negative control
    assert torch.equal(
        same.state_dict()["class_net.predict.conv_pw.weight"], before["class_net.predict.conv_pw.weight"]
    )


def test_what_does_not_fit(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"d0\.pth is d0, not d1; pass the file's own variant"):
        create_model("tf_efficientdet_d1", pretrained=file)
    with pytest.raises(ConfigError, match=r"d0\.pth is d0, not efficientdet_d0"):
        create_model("efficientdet_d0", pretrained=file)  # another network, though of the same shapes
    with pytest.raises(ModelFileError, match=r"mismatched: .* Leave out the settings that change the network"):
        create_model("d0", pretrained=file, fpn_channels=16)
    with pytest.raises(ConfigError, match="unknown model setting 'fpn_chanels'"):
        create_model("d0", pretrained=file, fpn_chanels=16)
    with pytest.raises(UsageError, match=r"pretrained is of type bool; expected the path .*, or hf:user/repository"):
        create_model("d0", pretrained=True)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="cannot read the model file"):
        create_model("d0", pretrained=tmp_path / "none.pth")
