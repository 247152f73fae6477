from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from converter.identify.official import official_files
from effdet_torch.config import EfficientDetConfig, get_config
from verify.detections.published import VAL_IMAGES, compare_with_published
from verify.results.detections import PublishedAP


def published(
    name: str, config: EfficientDetConfig, view: str = "ema", split: str = "val2017", images: int = VAL_IMAGES
) -> PublishedAP | None:
    metadata = {"source": {"name": name}, "view": {"name": view}}
    return compare_with_published(metadata, config, split, images, 0.3440)


@pytest.mark.parametrize(
    ("name", "variant", "more", "ap"),
    [
        ("efficientdet-d0-advprop", "d0", {"normalization": "advprop", "mean_rgb": (0.0, 0.0, 0.0)}, 35.1),
        ("efficientdet-d1_advprop", "d1", {"normalization": "advprop"}, 40.8),
        ("efficientdet-d6-640", "d6", {"image_size": 640, "redundant_bias": True}, 47.9),
    ],
)
def test_official_checkpoints_are_known(name: str, variant: str, more: dict[str, Any], ap: float) -> None:
    assert published(name, get_config(variant, **more)) == PublishedAP(name, ap, pytest.approx(34.4))


@pytest.mark.parametrize(
    ("name", "variant", "more"),
    [
        ("mine", "d0", {}),
        ("efficientdet-d1", "d0", {}),
        ("efficientdet-d0", "d0", {"image_size": 640}),
        ("efficientdet-d0", "d0", {"num_classes": 20}),
        ("efficientdet-d0-640", "d0", {"image_size": 640}),
        ("efficientdet-d0-advprop", "d0", {}),
        ("efficientdet-d4-640", "d4", {}),
        ("efficientdet-d4-640", "d4", {"image_size": 640, "normalization": "advprop"}),
        ("efficientdet-d6", "d6", {"normalization": "advprop"}),
    ],
)
def test_other_models_have_no_published_ap(name: str, variant: str, more: dict[str, Any]) -> None:
    assert published(name, get_config(variant, **more)) is None


def test_every_official_file_has_its_published_ap() -> None:
    for file in official_files().values():
        if not isinstance(file.config, EfficientDetConfig):
            continue
        if file.ap is None:
            assert published(file.name, file.config) is None
            continue
        for name in (file.name, file.url.rpartition("/")[2]):
            found = published(name, file.config)
            assert found is not None
            assert (found.checkpoint, found.published) == (name, file.ap)


def test_a_published_ap_is_only_compared_on_the_averages_and_all_of_val2017() -> None:
    name, config = "efficientdet-d0", get_config("d0")
    found = published(name, config)
    assert found == PublishedAP(name, 34.3, pytest.approx(34.4))
    assert found.passed
    assert not replace(found, measured=34.18).passed
    assert published(name, config, view="raw") is None
    assert published(name, config, images=VAL_IMAGES - 1) is None
    assert published(name, config, split="train2017") is None
