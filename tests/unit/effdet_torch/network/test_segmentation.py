"""The segmentation head in PyTorch; `tests/parity/test_segmentation.py` compares it with the official code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from converter.identify.effdet_package import detector_notes
from effdet_torch import create_model, get_config, load_model, save_model
from effdet_torch.engines.torch_engine import TorchEngine
from effdet_torch.errors import ConfigError, ModelFileError, UsageError
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.segmentation import TransposedConv
from support.networks import alive
from support.sources import plan_of, small_config
from verify.layers.fused import compare_fused

BOTH = ("object_detection", "segmentation")
CONFIG = small_config(heads=BOTH, image_size=(64, 96))


@pytest.fixture(scope="module", params=[BOTH, ("segmentation",)])
def model(request: pytest.FixtureRequest) -> EfficientDet:
    return alive(EfficientDet(replace(CONFIG, heads=request.param)))


def test_a_transposed_convolution_leaves_out_the_last_row_and_column() -> None:
    conv = TransposedConv(2, 3, bias=True)
    features = torch.randn(1, 2, 4, 5)
    whole = torch.nn.functional.conv_transpose2d(features, conv.weight, conv.bias, stride=2)
    assert whole.shape == (1, 3, 9, 11)
    assert torch.equal(conv(features), whole[:, :, :8, :10])
    assert not torch.equal(conv(features), whole[:, :, 1:, 1:])  # negative control


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (61, 90)])
def test_sizes_whose_levels_double(size: tuple[int, int]) -> None:
    logits = EfficientDet(replace(CONFIG, image_size=size)).eval()(torch.zeros(1, 3, *size))[2]
    assert logits.shape == (1, 3, 2 * -(-size[0] // 8), 2 * -(-size[1] // 8))


@pytest.mark.parametrize("size", [(80, 96), (96, 88)])
def test_other_sizes_are_refused(size: tuple[int, int], model: EfficientDet) -> None:
    words = r"does not fit a segmentation head.* multiples of 32 pixels"
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, image_size=size)
    with pytest.raises(ConfigError, match=words):
        model(torch.zeros(1, 3, *size))
    replace(CONFIG, image_size=size, heads=BOTH[:1])  # negative control


def test_variants_whose_own_size_does_not_fit() -> None:
    for variant, side in (("lite0", 320), ("lite2", 448)):
        with pytest.raises(ConfigError, match=r"multiples of 128 pixels"):
            get_config(variant, heads=BOTH)
        assert get_config(variant, heads=BOTH, image_size=384).image_size != (side, side)
    assert create_model("d7x", heads=("segmentation",)).config.max_level == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": ()}, "heads is .*object_detection, segmentation"),
        ({"heads": ("depth",)}, "heads is"),
        ({"heads": ("segmentation", "object_detection")}, "in this order"),
        ({"heads": "segmentation"}, "heads is"),
        ({"seg_num_classes": 0}, "seg_num_classes is 0"),
        ({"seg_num_classes": 1 << 17}, "at most 65536"),
    ],
)
def test_settings_that_are_no_heads(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_heads_in_words_and_for_other_packages() -> None:
    assert CONFIG.class_counts == "2 classes, 3 classes of pixels"
    assert replace(CONFIG, heads=BOTH[1:]).class_counts == "3 classes of pixels"
    assert list(detector_notes(replace(CONFIG, heads=BOTH[:1], max_level=7, image_size=(128, 128))))
    with pytest.raises(UsageError, match=r"the effdet package cannot build this network: heads \("):
        list(detector_notes(CONFIG))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_was_saved_comes_back(model: EfficientDet, suffix: str, tmp_path: Path) -> None:
    save_model(model, path := tmp_path / f"m.{suffix}")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(tree_leaves(load_model(path)(images)), tree_leaves(model(images)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_tensors_of_a_head_that_the_config_lacks(model: EfficientDet, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m.pth")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    content["metadata"]["config"]["heads"] = ["object_detection"]
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(ModelFileError, match=r"unexpected: seg_head"):
        load_model(tmp_path / "m.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_computes_the_same(model: EfficientDet) -> None:
    scripted, images = torch.jit.script(model), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        pairs = zip(tree_leaves(scripted(images)), tree_leaves(model(images)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        with pytest.raises(torch.jit.Error, match="does not fit a segmentation head"):
            scripted(torch.randn(1, 3, 80, 96))


def test_a_batch_in_an_engine(model: EfficientDet) -> None:
    images = torch.randn(3, 3, 64, 96)
    engine = TorchEngine(model, torch.device("cpu"))
    for index, whole in enumerate(tree_leaves(engine(images))):
        alone = [tree_leaves(engine(image[None]))[index] for image in images]
        assert torch.equal(whole, torch.cat(alone))


def test_the_fused_head_is_compared_inside(model: EfficientDet) -> None:
    images = torch.randn(1, 64, 64, 3).numpy()
    results = compare_fused(model, plan_of(model.config), images, ["float64"])
    names = {result.torch for result in results if result.torch.startswith("seg_head")}
    assert names == {"seg_head.bn_rep.0", "seg_head.bn_rep.1", "seg_head.predict"}
    assert max(result.measures.max_over_rms for result in results) < 1e-11
