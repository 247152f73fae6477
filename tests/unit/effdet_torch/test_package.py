"""The public names, as users import them."""

from __future__ import annotations

import pytest

import effdet_torch

PUBLIC = {
    "COCO_NAMES",
    "EfficientDet",
    "EfficientDetConfig",
    "ExportSettings",
    "ImageDetections",
    "Predictor",
    "as_torchvision",
    "create_model",
    "export_model",
    "get_config",
    "list_models",
    "load_backbone",
    "load_model",
    "make_anchors_yxyx",
    "read_labels",
    "save_model",
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_is_the_one_of_its_module(name: str) -> None:
    found = getattr(effdet_torch, name)
    if name == "COCO_NAMES":
        assert found[1] == "person"
    else:
        assert (found.__name__, found.__module__.split(".")[0]) == (name, "effdet_torch")


def test_completion_offers_the_public_names_only() -> None:
    assert set(dir(effdet_torch)) == PUBLIC | {"__version__"}


def test_no_other_name_is_public() -> None:
    assert set(effdet_torch.__all__) == PUBLIC
    assert isinstance(effdet_torch.__version__, str)
    with pytest.raises(AttributeError, match="has no attribute 'Detector'"):
        effdet_torch.Detector  # noqa: B018
