"""Models that only the `effdet` package has: equal outputs, anchors and settings, in both directions."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converter.conversion import convert_checkpoint, prepare
from converter.errors import ConversionError, UnsupportedSourceError
from converter.identify.families import BACKBONE
from converter.locate import open_checkpoint
from effdet_torch import Predictor, create_model, load_backbone, load_model, make_anchors_yxyx
from effdet_torch.architecture.effdet_models import UNSUPPORTED_MODELS
from effdet_torch.config import PACKAGE_VARIANTS, BackboneConfig, get_config
from effdet_torch.errors import ConfigError, ModelFileError, UsageError
from effdet_torch.network.bifpn import max_pool_same, max_pool_symmetric
from effdet_torch.network.model import EfficientDet
from effdet_torch.optimize.fuse import fuse
from effdet_torch.train.norms import prepare_norms, restore_norms
from effdet_torch.train.recipe import Recipe
from support.exports import LIMIT, exported, noise, raw_outputs, worst_error
from support.networks import alive
from support.sources import MemorySource
from verify.demo import write_demo
from verify.errors import ParityError, ReferenceModelError
from verify.seeded import seeded_variables
from verify.verification import Settings, verify_model

SIZE = (128, 128)
ROUNDING = 1e-5  # of rms; float64 stays below 1e-9, but deep random networks in float32 amplify every rounding
DIFFERENT = 1e-3  # a wrong padding or epsilon is above it
# One of each kind: symmetric; SAME around a symmetric backbone; quad pyramid, bilinear as well; EdgeTPU; V2.
KINDS = ("efficientdet_d0", "efficientdet_lite0", "efficientdet_q0", "efficientdet_q1", "efficientdet_es")
KINDS += ("efficientdetv2_dt",)


def package_model(effdet: ModuleType, name: str, **settings: Any) -> nn.Module:
    """Return a model of the package with random values everywhere, whose outputs depend on its input."""
    config = effdet.get_efficientdet_config(name)
    config.update({"image_size": SIZE, "num_classes": 3, **settings})
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = effdet.EfficientDet(config, pretrained_backbone=False)
    return alive(model)  # type: ignore[no-any-return]


def outputs(model: nn.Module) -> list[Tensor]:
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        class_logits, box_deltas = model.double()(images)
    return [*class_logits, *box_deltas]


def distance(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference between the outputs of two models, in rms of the outputs of the second one."""
    pairs = zip(outputs(one), outputs(other), strict=True)
    return max(float((a - b).abs().max() / b.square().mean().sqrt()) for a, b in pairs)


def converted(path: Path, out: str = "out.pth", variant: str | None = None, **options: Any) -> EfficientDet:
    with open_checkpoint(path) as source:
        preparation = prepare(source, variant, hparams={"image_size": SIZE[0]})
        convert_checkpoint(preparation, path.with_name(out), **options)
    return load_model(path.with_name(out))


@pytest.mark.parametrize("name", KINDS)
def test_a_bare_state_dict_computes_the_same(effdet: ModuleType, tmp_path: Path, name: str) -> None:
    model = package_model(effdet, name)
    torch.save(model.state_dict(), tmp_path / f"{name}-0123abcd.pth")
    ours = converted(tmp_path / f"{name}-0123abcd.pth")
    assert ours.config.name == name
    assert distance(ours, model) < ROUNDING
    assert distance(fuse(ours), model) < ROUNDING
    own = PACKAGE_VARIANTS[name]
    for wrong in ({"backbone_style": "tensorflow"}, {"padding": "same"}, {"resampling": "max_nearest"}):
        ((field, value),) = wrong.items()
        if getattr(own, field) == value or (own.resampling == "bilinear" and field == "padding"):
            continue
        other = create_model(name, num_classes=3, image_size=SIZE[0], redundant_bias=False, **wrong).eval()
        other.load_state_dict(ours.state_dict())
        assert distance(other, model) > DIFFERENT, field


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(PACKAGE_VARIANTS) - set(KINDS)))
def test_the_other_models_compute_the_same(effdet: ModuleType, tmp_path: Path, name: str) -> None:
    test_a_bare_state_dict_computes_the_same(effdet, tmp_path, name)


@pytest.mark.parametrize("name", PACKAGE_VARIANTS)
def test_anchors_and_settings_are_the_packages(effdet: ModuleType, name: str) -> None:
    config, own = effdet.get_efficientdet_config(name), PACKAGE_VARIANTS[name]
    anchors = effdet.anchors.Anchors.from_config(config).boxes.numpy()
    assert np.array_equal(np.asarray(make_anchors_yxyx(own)), anchors)
    assert own.image_size == tuple(config.image_size)
    assert "mean" not in config  # the colours of ImageNet, in the package's loader
    assert own.mean_rgb == tuple(255 * value for value in (0.485, 0.456, 0.406))
    assert own.std_rgb == pytest.approx([255 * value for value in (0.229, 0.224, 0.225)])
    assert (own.redundant_bias, own.normalization) == (config.redundant_bias, "mean_std")


def test_every_other_model_of_the_package_is_refused_by_name(effdet: ModuleType) -> None:
    names = {name for name in effdet.config.model_config.efficientdet_model_param_dict if not name.startswith("tf_")}
    assert names == set(PACKAGE_VARIANTS) | set(UNSUPPORTED_MODELS)
    for name in UNSUPPORTED_MODELS:
        with pytest.raises(ConfigError, match=f"'{name}' of the effdet package is not supported: it"):
            get_config(name)


def test_two_networks_with_the_same_tensors(effdet: ModuleType, tmp_path: Path) -> None:
    """Only a name tells efficientdet_d0 from a d0 whose biases were folded; what is assumed is said."""
    model = package_model(effdet, "efficientdet_d0")
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    torch.save({"state_dict": model.state_dict(), "arch": "efficientdet_d0"}, tmp_path / "named.pth")
    assert distance(converted(tmp_path / "plain.pth", variant="efficientdet_d0"), model) < ROUNDING
    assert distance(converted(tmp_path / "named.pth"), model) < ROUNDING
    assert distance(converted(tmp_path / "plain.pth"), model) > DIFFERENT
    for name, variant, words in (
        (
            "plain",
            None,
            "same tensors, but compute different outputs: d0 is assumed; if that is wrong, pass --variant eff",
        ),
        ("plain", "efficientdet_d0", None),
        ("named", None, None),
    ):
        with open_checkpoint(tmp_path / f"{name}.pth") as source:
            notes = " ".join(prepare(source, variant).settings.notes)
            assert (words or "") in notes
            assert ("compute different outputs" in notes) == (words is not None)
    with (
        open_checkpoint(tmp_path / "named.pth") as source,
        pytest.raises(
            ConversionError, match=r"not d0: the training of effdet .* says padding symmetric, and d0 has same"
        ),
    ):
        prepare(source, "d0")


def test_biases_tell_the_package_from_the_official_network(effdet: ModuleType, tmp_path: Path) -> None:
    torch.save(package_model(effdet, "tf_efficientdet_d0").state_dict(), tmp_path / "efficientdet_d0.pth")
    assert converted(tmp_path / "efficientdet_d0.pth").config.name == "d0"
    with (
        open_checkpoint(tmp_path / "efficientdet_d0.pth") as source,
        pytest.raises(ConversionError, match=r"not efficientdet_d0: .*without biases in front of batch norms"),
    ):
        prepare(source, "efficientdet_d0")


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_q0", "efficientdet_es"])
def test_the_way_back_loads_strictly_and_computes_the_same(effdet: ModuleType, tmp_path: Path, name: str) -> None:
    model = package_model(effdet, name)
    torch.save(model.state_dict(), tmp_path / f"{name}.pth")
    with open_checkpoint(tmp_path / f"{name}.pth") as source:
        preparation = prepare(source, hparams={"image_size": SIZE[0]})
        convert_checkpoint(preparation, tmp_path / "bare.pth", bare=True)
        notes = preparation.family.package_notes(preparation.settings.config)
        (code,) = (note.removeprefix("for effdet: ") for note in notes)
    names = {key: getattr(effdet, key) for key in ("EfficientDet", "get_efficientdet_config")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    names["model"].load_state_dict(torch.load(tmp_path / "bare.pth", weights_only=True), strict=True)
    assert distance(names["model"].eval(), model) < ROUNDING


def test_a_converted_file_can_be_converted_again(effdet: ModuleType, tmp_path: Path) -> None:
    """Its metadata say what no tensor shows, also of a network that is no variant."""
    model = package_model(effdet, "efficientdet_d0", fpn_cell_repeats=1, pad_type="same")
    torch.save({"model": model}, tmp_path / "pickled.pth")
    first = converted(tmp_path / "pickled.pth", "first.pth")
    assert (first.config.padding, first.config.backbone_style) == ("same", "pytorch")
    assert distance(first, model) < ROUNDING
    again = converted(tmp_path / "first.pth", "again.safetensors")
    assert again.config == first.config
    assert distance(again, model) < ROUNDING


def test_there_is_no_tensorflow_file_of_it(effdet: ModuleType, tmp_path: Path) -> None:
    torch.save(package_model(effdet, "efficientdet_q0").state_dict(), tmp_path / "q0.pth")
    with (
        open_checkpoint(tmp_path / "q0.pth") as source,
        pytest.raises(UsageError, match=r"efficientdet_q0 cannot be written as .*: only the effdet package has"),
    ):
        convert_checkpoint(prepare(source), tmp_path / "out.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q0.pth"]


def test_the_proof_without_tensorflow(effdet: ModuleType, tmp_path: Path) -> None:
    """The built-in reference is TensorFlow's; tensors and the fused network can be compared without it."""
    state = package_model(effdet, "efficientdet_d0").state_dict()
    torch.save({"state_dict": state, "arch": "efficientdet_d0"}, tmp_path / "named.pth")
    torch.save(state, tmp_path / "plain.pth")
    for name in ("named", "plain"):
        converted(tmp_path / f"{name}.pth", f"out_{name}.pth")
    only_fused = Settings(modes=("fused",), dtypes=("float32",))
    with open_checkpoint(tmp_path / "named.pth") as source:
        with pytest.raises(ReferenceModelError, match=r"efficientdet_d0 has no TensorFlow original .*--mode fused"):
            verify_model(tmp_path / "out_named.pth", source)
        assert verify_model(tmp_path / "out_named.pth", source, only_fused).passed
        with pytest.raises(ParityError, match=r"says padding symmetric, and the model has same \(model: d0\)"):
            verify_model(tmp_path / "out_plain.pth", source, only_fused)
        state["backbone.conv_stem.weight"][0, 0, 0, 0] += 1
        torch.save({"state_dict": state, "arch": "efficientdet_d0"}, tmp_path / "other.pth")
    with open_checkpoint(tmp_path / "other.pth") as source:
        assert not verify_model(tmp_path / "out_named.pth", source, only_fused).passed


def test_a_tensorflow_backbone_does_not_fit(tmp_path: Path) -> None:
    plan = BACKBONE.plan(BackboneConfig("efficientnet-b0"))
    source = MemorySource(dict(seeded_variables(plan, "raw/0")))
    convert_checkpoint(prepare(source), tmp_path / "b0.pth")
    load_backbone(create_model("d0", image_size=SIZE), tmp_path / "b0.pth")
    with pytest.raises(ModelFileError, match=r"b0\.pth holds efficientnet-b0 as TensorFlow computes it; eff"):
        load_backbone(create_model("efficientdet_d0", image_size=SIZE), tmp_path / "b0.pth")


def test_training_keeps_the_epsilon_and_the_padding(tmp_path: Path) -> None:
    """An update of the class head from the package's values: the rest of the network still computes the same."""
    model = alive(create_model("efficientdet_q0", fpn_channels=16, fpn_cells=1, head_repeats=1, image_size=SIZE))
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    expected = model(images)[1][0].detach()
    prepare_norms(model, Recipe(freeze_bn=True))
    model.train()
    loss = model(images)[0][0].square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    assert torch.allclose(model(images)[1][0], expected, atol=1e-5)
    restore_norms(model)
    assert {norm.eps for norm in model.backbone.modules() if isinstance(norm, nn.BatchNorm2d)} == {1e-5}


def test_names_of_networks_that_are_not_supported(effdet: ModuleType, tmp_path: Path) -> None:
    state = package_model(effdet, "efficientdet_w0").state_dict()
    torch.save({"state_dict": state, "arch": "efficientdet_w0"}, tmp_path / "w0.pth")
    with pytest.raises(
        UnsupportedSourceError, match=r"w0\.pth: efficientdet_w0 of the effdet package is not supported"
    ):
        open_checkpoint(tmp_path / "w0.pth")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("efficientdet_d0", ".torchscript"),
        pytest.param("efficientdet_d0", ".onnx", marks=pytest.mark.slow),
        ("efficientdet_q1", ".torchscript"),
        pytest.param("efficientdet_q1", ".onnx", marks=pytest.mark.slow),
        pytest.param("efficientdetv2_dt", ".onnx", marks=pytest.mark.slow),
    ],
)
def test_an_exported_file_computes_the_same(tmp_path: Path, name: str, suffix: str) -> None:
    small = create_model(name, fpn_channels=16, fpn_cells=1, head_repeats=1, num_classes=3, image_size=SIZE)
    model, pixels = alive(small), noise(1, SIZE)
    engine = exported(model, tmp_path / f"model{suffix}")
    found = [*itertools.chain(*engine(pixels))]
    assert worst_error(found, raw_outputs(model, pixels)) < LIMIT


def test_detections_are_the_packages(effdet: ModuleType, tmp_path: Path) -> None:
    """Without the size of an image, the package does not clip: the profile "hard". By default, boxes are clipped."""
    model = package_model(effdet, "efficientdet_d0")
    with torch.no_grad():  # scores that differ, and boxes about as large as their anchors
        model.get_parameter("class_net.predict.conv_pw.weight").mul_(5e-4)
        model.get_parameter("box_net.predict.conv_pw.weight").mul_(5e-5)
    torch.save({"state_dict": model.state_dict(), "arch": "efficientdet_d0"}, tmp_path / "d0.pth")
    ours = converted(tmp_path / "d0.pth")
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # what the package's loader has
    pixels = torch.from_numpy(((image / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = effdet.DetBenchPredict(model).eval()(pixels)[0].numpy()
    (found,) = Predictor(ours, profile="hard")([image])
    assert np.allclose(found.scores, expected[:, 4], atol=1e-4)
    first = slice(0, 20)  # further down, equal scores may change places
    assert np.array_equal(found.category_ids[first], expected[first, 5])
    assert np.allclose(found.boxes_xyxy[first], expected[first, :4], atol=0.05)
    (clipped,) = Predictor(ours)([image])
    assert np.allclose(clipped.boxes_xyxy[first], np.clip(expected[first, :4], 0, SIZE[0]), atol=0.05)
    (official,) = Predictor(ours, profile="serving")([image])
    assert not np.array_equal(official.scores, found.scores)


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_q0", "efficientdetv2_dt"])
def test_there_is_nothing_to_demonstrate_without_an_original(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} has no TensorFlow original to show: only the effdet package has"):
        write_demo(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_symmetric_pooling_is_of_one_level_only() -> None:
    features = torch.arange(49.0).reshape(1, 1, 7, 7)
    assert max_pool_symmetric(features, 4, 4).shape == max_pool_same(features, 4, 4).shape
    with pytest.raises(ConfigError, match="symmetric padding can only pool to the next level"):
        max_pool_symmetric(features, 2, 2)
