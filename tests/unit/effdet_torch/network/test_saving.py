"""Saved models: they load, are converted and verified like converted files, and claim no source for their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch import create_model, load_model, save_model
from effdet_torch.errors import ModelFileError, OutputError, UsageError
from effdet_torch.file_format import CHECKSUMS_KEY, assumptions, untrained
from effdet_torch.network.checkpoint import _counters
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.saving import WRITERS
from support.coco_samples import small_model
from support.sources import small_config
from verify.results.claim import claim_of

EACH = pytest.mark.parametrize("suffix", list(WRITERS))
CLASS_PART = "the last convolution of the class head"
PARENT: dict[str, Any] = {
    "source": {"kind": "TF1 checkpoint", "name": "d0", "files": [{"name": "model.index", "sha256": "0a"}]},
    "view": {"name": "ema", "reason": "default"},
}


@pytest.fixture
def model() -> EfficientDet:
    """A model of its own settings, as `create_model` returns it."""
    return small_model()


def train_step(model: EfficientDet, parts: Sequence[str] = ("",)) -> None:
    """Update parts of a model by their gradients on a random image."""
    if not parts:
        return
    parameters = [value for name, value in model.named_parameters() if name.startswith(tuple(parts))]
    classes, boxes = model.train()(torch.randn(2, 3, *model.config.image_size))
    sum(level.square().mean() for level in [*classes, *boxes]).backward()
    torch.optim.SGD(parameters, lr=1e-3).step()
    model.zero_grad()
    model.eval()


def converted(model: EfficientDet, **metadata: Any) -> EfficientDet:
    model.metadata = {"config": model.config.to_dict(), **PARENT, **metadata}
    return model


@EACH
def test_what_was_saved_comes_back(tmp_path: Path, model: EfficientDet, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    save_model(model, path)
    loaded = load_model(path, check_values=True)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    assert loaded.metadata["tool"]["name"] == "effdet_torch.save_model"
    assert "source" not in loaded.metadata
    assert model.metadata == {}  # the model itself is left as it was
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    path.rename(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"is a folder, not a model file\. Pass .*model\.safetensors"):
        load_model(tmp_path)


@EACH
def test_a_wrong_bit_is_noticed(tmp_path: Path, model: EfficientDet, suffix: str) -> None:
    """Negative control of the checksums."""
    path = tmp_path / f"mine{suffix}"
    save_model(model, path)
    key = "class_net.predict.conv_pw.weight"
    content = bytearray(path.read_bytes())
    place = content.index(model.state_dict()[key].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    load_model(path)
    with pytest.raises(ModelFileError, match="does not match its checksum"):
        load_model(path, check_values=True)


def test_the_image_size_and_the_names_are_kept(tmp_path: Path) -> None:
    model = create_model("d0", num_classes=3, image_size=(256, 128), label_map={1: "cat"})
    save_model(model, tmp_path / "mine.pth")
    assert load_model(tmp_path / "mine.pth").config == model.config


def test_a_source_is_kept_as_the_parent_only(tmp_path: Path, model: EfficientDet) -> None:
    save_model(converted(model), tmp_path / "one.pth")
    loaded = load_model(tmp_path / "one.pth")
    assert loaded.metadata["parent"] == PARENT
    assert not {"source", "view"} & loaded.metadata.keys()
    save_model(loaded, tmp_path / "two.pth")  # the parent of a saved model stays the converted one
    assert load_model(tmp_path / "two.pth").metadata["parent"] == PARENT


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_saved_model_is_converted(tmp_path: Path, model: EfficientDet, suffix: str) -> None:
    save_model(converted(model, config_origins={"fusion": "config.yaml"}, assumed={}), tmp_path / f"mine.{suffix}")
    with open_checkpoint(tmp_path / f"mine.{suffix}") as source:
        metadata = convert_checkpoint(prepare(source), tmp_path / "again.pth")
    again, wanted = load_model(tmp_path / "again.pth").state_dict(), model.state_dict()
    assert again.keys() == wanted.keys()
    assert {key for key in wanted if not torch.equal(again[key], wanted[key])} <= set(_counters(wanted))
    assert metadata["source"]["parent"] == PARENT
    assert "from" not in metadata["source"]
    assert metadata["config"] == model.config.to_dict()


def test_settings_rest_on_the_model(tmp_path: Path, model: EfficientDet) -> None:
    save_model(model, tmp_path / "mine.pth")
    metadata = load_model(tmp_path / "mine.pth").metadata
    assert (claim_of(metadata).kind, assumptions(metadata)) == ("config", None)
    assert claim_of(metadata).text == "the settings of the saved model"


def test_assumptions_stay_assumptions(tmp_path: Path, model: EfficientDet) -> None:
    origins = dict.fromkeys(model.config.to_dict(), "assumed")
    save_model(converted(model, config_origins=origins, assumed={"act_type": "swish"}), tmp_path / "mine.pth")
    assert claim_of(load_model(tmp_path / "mine.pth").metadata).kind == "assumed"


def test_what_was_not_recorded_stays_unknown(tmp_path: Path, model: EfficientDet) -> None:
    save_model(converted(model, config_origins={"fusion": "variant default"}), tmp_path / "mine.pth")
    metadata = load_model(tmp_path / "mine.pth").metadata
    assert claim_of(metadata).kind == "not recorded"
    assert str(assumptions(metadata)).startswith("not known")


def test_a_file_with_fewer_settings_is_not_taken_for_another(tmp_path: Path, model: EfficientDet) -> None:
    """One of version 1: its assumptions must not become settings of the saved model."""
    converted(model, assumed={"act_type": "swish"})
    del model.metadata["config"]["label_map"]
    save_model(model, tmp_path / "mine.pth")
    assert load_model(tmp_path / "mine.pth").metadata["assumed"] == {"act_type": "swish"}


def test_a_config_that_was_changed_has_no_evidence(tmp_path: Path, model: EfficientDet) -> None:
    converted(model, config_origins={"image_size": "config.yaml"}, assumed={})
    model.config = replace(model.config, image_size=(256, 384))
    save_model(model, tmp_path / "mine.pth")
    loaded = load_model(tmp_path / "mine.pth")
    assert (loaded.config, claim_of(loaded.metadata).kind) == (model.config, "not recorded")


def test_a_changed_network_is_refused(tmp_path: Path, model: EfficientDet) -> None:
    model.fpn = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"changed since it was built: \d+ tensors do not fit its config .*fpn\."):
        save_model(model, tmp_path / "mine.pth")
    model = EfficientDet(small_config())
    model.config = replace(model.config, num_classes=model.config.num_classes + 1)
    with pytest.raises(UsageError, match="tensors do not fit its config"):
        save_model(model, tmp_path / "mine.pth")
    assert not list(tmp_path.iterdir())


def test_calls_that_are_wrong(tmp_path: Path, model: EfficientDet) -> None:
    with pytest.raises(UsageError, match=r"mine\.bin does not end in \.pth or \.pt or \.safetensors"):
        save_model(model, tmp_path / "mine.bin")
    with pytest.raises(UsageError, match="model is of type OrderedDict; expected an EfficientDet"):
        save_model(model.state_dict(), tmp_path / "mine.pth")  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(model, tmp_path / "nothing" / "mine.pth")


def test_a_failed_save_leaves_an_earlier_file(
    tmp_path: Path, model: EfficientDet, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.safetensors"
    save_model(model, path)
    before = path.read_bytes()
    assert CHECKSUMS_KEY.encode() in before
    monkeypatch.setitem(WRITERS, ".safetensors", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match="No space left"):
        save_model(model, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_the_advice_for_other_files_names_it(tmp_path: Path, model: EfficientDet) -> None:
    for content in (model.state_dict(), {"state_dict": model.state_dict(), "metadata": {}}):
        torch.save(content, tmp_path / "mine.pth")
        with pytest.raises(ModelFileError, match=r"effdet_torch\.save_model saves a model"):
            load_model(tmp_path / "mine.pth")


def test_a_training_keeps_the_evidence_of_what_it_did_not_change(tmp_path: Path, model: EfficientDet) -> None:
    origins = dict.fromkeys(model.config.to_dict(), "config.yaml")
    assumed = {"act_type": "swish", "image_size": "512"}
    converted(model, config_origins=origins, assumed=assumed)
    model.config = replace(model.config, image_size=(256, 384))
    save_model(model, tmp_path / "one.pth", training={"epoch": 1})
    one = load_model(tmp_path / "one.pth")
    assert one.metadata["config_origins"] == {**origins, "image_size": "the saved model"}
    assert (one.metadata["assumed"], one.metadata["training"]) == ({"act_type": "swish"}, {"epoch": 1})
    save_model(one, tmp_path / "two.pth", training={"epoch": 2})
    metadata = load_model(tmp_path / "two.pth").metadata
    assert metadata["training"] == {"epoch": 2}
    assert metadata["parent"] == {**PARENT, "training": {"epoch": 1}}


@EACH
def test_a_model_that_was_never_trained_says_so(tmp_path: Path, suffix: str) -> None:
    fresh = create_model("d0", num_classes=2, image_size=64)
    save_model(fresh, path := tmp_path / f"fresh{suffix}")
    assert untrained(load_model(path).metadata) == (
        "UNTRAINED the whole network: still initial values; train the model before you use it"
    )
    save_model(load_model(path), path)
    assert load_model(path).metadata["untrained"] == ["the whole network"]
    with open_checkpoint(path) as source:
        assert convert_checkpoint(prepare(source), tmp_path / "again.pth")["untrained"] == ["the whole network"]
    train_step(fresh)
    save_model(fresh, path)
    assert "untrained" not in load_model(path).metadata  # negative control


def test_statistics_alone_are_no_training(tmp_path: Path) -> None:
    fresh = create_model("d0", num_classes=2, image_size=64).train()
    with torch.no_grad():
        fresh(torch.randn(2, 3, 64, 64))
    assert fresh.backbone.bn1.running_mean.any()
    save_model(fresh, tmp_path / "one.pth")
    assert load_model(tmp_path / "one.pth").metadata["untrained"] == ["the whole network"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_rounded_head_is_as_untrained_as_before(tmp_path: Path, model: EfficientDet, dtype: torch.dtype) -> None:
    save_model(model, tmp_path / "two.pth")
    five = create_model("d0", pretrained=tmp_path / "two.pth", num_classes=5).to(dtype)
    save_model(five, path := tmp_path / "five.pth")
    assert load_model(path).metadata["untrained"] == [CLASS_PART]
    save_model(load_model(path).float().bfloat16().half(), path)
    assert load_model(path).metadata["untrained"] == [CLASS_PART]
    with torch.no_grad():  # the last digit of one value
        bits = five.class_net.predict.conv_pw.weight.view(-1)[:1].view(torch.uint8)
        bits[0] ^= 1
    save_model(five, path)
    assert "untrained" not in load_model(path).metadata  # negative control


def test_every_head_is_trained_for_itself(tmp_path: Path, model: EfficientDet) -> None:
    save_model(model, tmp_path / "two.pth")
    model = create_model("d0", pretrained=tmp_path / "two.pth", num_classes=5)
    train_step(model, ["box_net"])
    save_model(model, path := tmp_path / "five.pth")
    assert load_model(path).metadata["untrained"] == [CLASS_PART]
    train_step(model, ["class_net"])
    save_model(model, path)
    assert "untrained" not in load_model(path).metadata  # negative control


STATED = "class and box predictions"
BOX_PART = "the last convolution of the box head"


@pytest.mark.parametrize(
    ("stated", "trained", "left"),
    [
        ([STATED], [], [STATED]),
        ([STATED], ["backbone"], [STATED]),
        ([STATED], ["box_net"], [CLASS_PART]),
        ([STATED], ["class_net", "box_net"], []),
        ([CLASS_PART, BOX_PART], ["class_net"], [BOX_PART]),
        (["of another version"], [], ["of another version"]),
        (["of another version"], ["box_net"], []),
        ([7, {"a": [1]}], [], ["7", "{'a': [1]}"]),
        ("text", ["box_net"], []),
        ("text", [], []),
        (["the backbone"], [], []),  # its batch norms say otherwise
        (["the class head"], [], [CLASS_PART]),
    ],
)
def test_what_a_file_states_holds_until_it_is_trained(
    tmp_path: Path, stated: Any, trained: list[str], left: list[str]
) -> None:
    save_model(converted(small_model()), path := tmp_path / "one.pth")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"metadata": {**content["metadata"], "untrained": stated}}, path)
    model = load_model(path)
    train_step(model, trained)
    save_model(model, path)
    assert load_model(path).metadata.get("untrained", []) == left


def test_a_backbone_that_was_filled_is_not_untrained(tmp_path: Path) -> None:
    save_model(create_model("d0", num_classes=2, image_size=64), path := tmp_path / "fresh.pth")
    model = load_model(path)
    train_step(model, ["backbone"])
    save_model(model, path)
    assert load_model(path).metadata["untrained"] == ["the BiFPN", "the class head", "the box head"]


def test_a_part_is_named_once(tmp_path: Path, model: EfficientDet) -> None:
    save_model(model, tmp_path / "2.pth")
    five = create_model("d0", pretrained=tmp_path / "2.pth", num_classes=5)
    save_model(five, tmp_path / "5.pth")
    seven = create_model("d0", pretrained=tmp_path / "5.pth", num_classes=7)
    save_model(seven, tmp_path / "7.pth")
    assert seven.metadata["untrained"] == load_model(tmp_path / "7.pth").metadata["untrained"] == [CLASS_PART]
    save_model(create_model("d0", num_classes=2, image_size=64), tmp_path / "2.pth")
    fresh = create_model("d0", pretrained=tmp_path / "2.pth", num_classes=5)
    assert fresh.metadata["untrained"] == ["the whole network"]


def test_parts_that_were_never_trained_are_named(tmp_path: Path) -> None:
    fresh, model = create_model("d0", num_classes=2, image_size=64), small_model(num_classes=2)
    fresh.backbone.load_state_dict(model.backbone.state_dict())
    save_model(fresh, tmp_path / "one.pth")
    expected = ["the BiFPN", "the class head", "the box head"]
    assert load_model(tmp_path / "one.pth").metadata["untrained"] == expected


@EACH
def test_a_new_class_head_is_untrained_until_it_changes(tmp_path: Path, model: EfficientDet, suffix: str) -> None:
    save_model(converted(model), tmp_path / "two.pth")
    path = tmp_path / f"five{suffix}"
    save_model(create_model("d0", pretrained=tmp_path / "two.pth", num_classes=5), path)
    save_model(loaded := load_model(path), path)
    assert (loaded.metadata["untrained"], loaded.metadata["parent"]) == ([CLASS_PART], PARENT)
    loaded = load_model(path)
    with torch.no_grad():
        loaded.class_net.predict.conv_pw.weight[0] += 1e-3
    save_model(loaded, path)
    metadata = load_model(path).metadata
    assert "untrained" not in metadata
    assert metadata["parent"]["untrained"] == [CLASS_PART]
    save_model(create_model("d0", pretrained=tmp_path / "two.pth", num_classes=5), path, training={"epoch": 1})
    assert "untrained" not in load_model(path).metadata
