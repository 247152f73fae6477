"""EfficientNet checkpoints: timm's backbone with the converted weights equals TensorFlow's, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from converter.conversion import convert_checkpoint, prepare
from converter.errors import AccountingError, UnsupportedSourceError, ViewError
from converter.identify.families import BACKBONE
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.expand import Plan
from effdet_torch import create_model, load_backbone, load_model
from effdet_torch.architecture.backbone import BACKBONES, timm_name
from effdet_torch.config import VARIANTS, BackboneConfig
from effdet_torch.errors import ModelFileError, UsageError
from effdet_torch.network.model_file import read_model_file
from support.commands import run
from support.sources import EMA, Array, averages, plan_of, write_checkpoint
from verify.errors import ParityError
from verify.seeded import seeded_variables, write_seeded_checkpoint
from verify.verification import Settings, verify_model

VARIANT_OF = {config.backbone: config.name for config in reversed(VARIANTS.values())}
QUICK = Settings(image_size=(64, 64))


def backbone_plan(backbone: str) -> Plan:
    return BACKBONE.plan(BackboneConfig(backbone))


def classifier(backbone: str) -> dict[str, Array]:
    """Everything that the official trainer of classifiers stores: both copies, the head, slots, the step."""
    plan = backbone_plan(backbone)
    scope = f"{backbone}/head"
    norm = {f"{scope}/tpu_batch_normalization/{leaf}": np.ones(5, np.float32) for leaf in ("gamma", "moving_mean")}
    head = {f"{scope}/conv2d/kernel": np.ones((1, 1, 4, 5), np.float32), f"{scope}/dense/bias": np.ones(7, np.float32)}
    stored = {**dict(seeded_variables(plan, "raw")), **norm, **head}
    slots = {f"{name}/RMSProp": array for name, array in stored.items()}
    ema = averages({**dict(seeded_variables(plan, "ema")), **norm, **head})
    return {**stored, **ema, **slots, "global_step": np.array(100, np.int64)}


@pytest.fixture(scope="module")
def b0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint."""
    folder = tmp_path_factory.mktemp("efficientnet-b0")
    write_checkpoint(folder / "model.ckpt", classifier("efficientnet-b0"))
    return folder


@pytest.fixture(scope="module")
def converted(b0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "b0.pth"
    with open_checkpoint(b0) as source:
        convert_checkpoint(prepare(source), path)
    return path


def test_everything_is_accounted_for(b0: Path) -> None:
    with open_checkpoint(b0) as source:
        prepared, facts = prepare(source), inspect_source(source)
    assert prepared.view.name == "ema"
    assert len(prepared.accounting.consumed) == len(prepared.accounting.other_view) == 304
    assert facts["problems"] == []
    assert facts["architecture"] == "efficientnet-b0, without a detector"
    assert set(facts["ignored"]) == {
        "classifier on top of the backbone, which a detector does not have",
        "optimizer slot: RMSProp's mean square",
        "training step counter",
    }


@pytest.mark.parametrize("backbone", BACKBONES)
def test_targets_are_the_state_dict_of_timm(backbone: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(timm_name(backbone), features_only=True, out_indices=(2, 3, 4))
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: entry.target_shape for key, entry in backbone_plan(backbone).targets.items()} == expected


def test_the_rows_are_those_of_the_detector() -> None:
    detector = plan_of("d0")
    alone = {f"backbone.{key}": entry.sources for key, entry in backbone_plan("efficientnet-b0").targets.items()}
    assert alone == {key: e.sources for key, e in detector.targets.items() if key.startswith("backbone.")}


@pytest.mark.parametrize(
    "backbone", ["efficientnet-b0", "efficientnet-lite0", pytest.param("efficientnet-b3", marks=pytest.mark.slow)]
)
def test_every_layer_equals_tensorflow(backbone: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", classifier(backbone))
    with open_checkpoint(tmp_path) as source:
        convert_checkpoint(prepare(source), tmp_path / "backbone.safetensors")
        result = verify_model(tmp_path / "backbone.safetensors", source, QUICK)
    assert result.passed
    blocks = {layer.tf for layer in result.layers if layer.kind == "block"}
    assert len(blocks) == len(plan_of(VARIANT_OF[backbone]).config.blocks)
    assert {layer.torch.split(".")[0] for layer in result.layers} == {"backbone"}


def test_a_wrong_tensor_is_found(b0: Path, converted: Path, tmp_path: Path) -> None:
    """Negative control: two batch norms exchanged."""
    content = torch.load(converted, weights_only=True)
    tensors = content["state_dict"]
    one, other = "blocks.1.0.bn1.weight", "blocks.1.0.bn2.weight"
    tensors[one], tensors[other] = tensors[other], tensors[one]
    torch.save(content, tmp_path / "wrong.pth")
    with open_checkpoint(b0) as source:
        result = verify_model(tmp_path / "wrong.pth", source, QUICK)
    assert not result.passed
    assert {layer.torch for layer in result.failures if layer.mode == "isolated" and layer.kind == "batch_norm"} == {
        f"backbone.{key.removesuffix('.weight')}" for key in (one, other)
    }


def test_timm_and_the_detector_load_it(converted: Path) -> None:
    tensors, metadata = read_model_file(converted)
    assert (metadata["variant"], metadata["config"]) == ("efficientnet-b0", {"backbone": "efficientnet-b0"})
    assert metadata["table"]["name"] == "efficientnet"
    whole = timm.create_model("tf_efficientnet_b0").load_state_dict(tensors, strict=False)
    assert not whole.unexpected_keys
    assert {key.split(".")[0] for key in whole.missing_keys} == {"conv_head", "bn2", "classifier"}
    other = timm.create_model("tf_efficientnet_b0", features_only=True, out_indices=(2, 3, 4))
    other.load_state_dict(tensors, strict=True)
    assert {norm.eps for norm in other.modules() if isinstance(norm, nn.BatchNorm2d)} == {1e-3}
    model = create_model("d0", num_classes=3)
    assert load_backbone(model, converted) is model
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = model.eval().backbone(images), other.eval()(images)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_what_does_not_fit_is_refused(b0: Path, converted: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"b0.pth holds efficientnet-b0; the backbone of d1 is efficientnet-b1"):
        load_backbone(create_model("d1"), converted)
    with pytest.raises(ModelFileError, match="holds only the backbone efficientnet-b0"):
        load_model(converted)
    detector = write_seeded_checkpoint("d0", tmp_path / "d0")
    with open_checkpoint(detector) as source:
        with pytest.raises(ParityError, match="it holds a whole detector"):
            verify_model(converted, source)
        convert_checkpoint(prepare(source), tmp_path / "d0.pth")
    with pytest.raises(ModelFileError, match="a whole detector, not a backbone alone: use load_model"):
        load_backbone(create_model("d0"), tmp_path / "d0.pth")
    with open_checkpoint(b0) as source, pytest.raises(ParityError, match="it holds a backbone alone"):
        verify_model(tmp_path / "d0.pth", source)
    with pytest.raises(UnsupportedSourceError, match="a converted backbone without a detector"):
        open_checkpoint(converted)
    content = torch.load(converted, weights_only=True)
    del content["state_dict"]["blocks.0.0.bn1.weight"]
    torch.save(content, tmp_path / "cut.pth")
    model = create_model("d0")
    before = model.state_dict()["backbone.conv_stem.weight"].clone()
    with pytest.raises(ModelFileError, match=r"do not fit its backbone efficientnet-b0: 1 missing: blocks"):
        load_backbone(model, tmp_path / "cut.pth")
    assert torch.equal(model.state_dict()["backbone.conv_stem.weight"], before)


@pytest.mark.parametrize("option", [{"variant": "d0"}, {"hparams": "num_classes=3"}])
def test_options_of_a_detector_are_refused(b0: Path, option: dict[str, str]) -> None:
    words = r"the checkpoint holds efficientnet-b0 alone, without a detector; omit --(variant|hparams)$"
    with open_checkpoint(b0) as source, pytest.raises(UsageError, match=words):
        prepare(source, **option)


def test_an_incomplete_copy_is_refused(tmp_path: Path) -> None:
    whole, missing = classifier("efficientnet-b0"), "efficientnet-b0/blocks_3/conv2d/kernel"
    write_checkpoint(tmp_path / "model", {n: a for n, a in whole.items() if n not in (missing, f"{missing}/{EMA}")})
    with open_checkpoint(tmp_path) as source, pytest.raises(AccountingError) as caught:
        prepare(source)
    assert f"missing: {missing}/{EMA}" in caught.value.problems
    write_checkpoint(tmp_path / "model", {name: array for name, array in whole.items() if EMA not in name})
    with open_checkpoint(tmp_path) as source, pytest.raises(ViewError, match="no averages"):
        prepare(source, weights="ema")


def test_commands(b0: Path, tmp_path: Path) -> None:
    done = run("effdet-convert", b0, "b0.pth", "--layout", "effdet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "efficientnet-b0, a backbone without a detector, 3.6" in done.stdout
    assert "for timm: create_model('tf_efficientnet_b0', features_only=True)" in done.stdout
    model = timm.create_model("tf_efficientnet_b0", features_only=True)
    model.load_state_dict(torch.load(tmp_path / "b0.pth", weights_only=True), strict=True)
    for arguments in (("out", "--to", "tf1"), ("out.h5",), ("--dry-run", "--to", "h5")):
        done = run("effdet-convert", b0, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "efficientnet-b0 cannot be written as" in done.stderr
