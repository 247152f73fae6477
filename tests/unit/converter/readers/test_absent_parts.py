"""A detector without predictions: what they start from, what is said of them, and what is damage instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.errors import AccountingError, UnsupportedSourceError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.readers.absent_parts import with_initial_values
from converter.report import conversion_report, conversion_text, inspection_text
from effdet_torch import load_model, save_model
from effdet_torch.file_format import UNTRAINED, untrained
from effdet_torch.network.model import EfficientDet
from support.sources import EMA, MemorySource, averages, placeholders, plan_of, seeded, small_config, state_dict

PART = "class and box predictions"
VALUES = seeded(plan_of(small_config()))
BODY = {name: array for name, array in VALUES.items() if "-predict/" not in name}
ABSENT = sorted(VALUES.keys() - BODY.keys())


@pytest.mark.parametrize("is_separable", [True, False])
def test_a_network_without_predictions_gets_those_of_a_new_model(is_separable: bool) -> None:
    config = small_config(fpn_channels=64, separable_conv=is_separable)
    values = seeded(plan_of(config))
    body = {name: array for name, array in values.items() if "-predict/" not in name}
    found, whole = state_dict(MemorySource(body)), state_dict(MemorySource(values))
    torch.manual_seed(0)
    new = EfficientDet(replace(config, num_classes=90)).state_dict()
    assert {key: array.shape for key, array in found.items()} == {key: tuple(t.shape) for key, t in new.items()}
    predictions = {key for key in whole if ".predict." in key}
    assert len(predictions) == (6 if is_separable else 4)
    assert all(found[key].tobytes() == whole[key].tobytes() for key in whole.keys() - predictions)
    for key in predictions:
        drawn, expected = found[key], new[key].numpy()
        if key.endswith(".bias"):  # -log((1 - 0.01) / 0.01) for classes, 0 for boxes
            assert np.array_equal(drawn, expected)
            assert drawn[0] == pytest.approx(-4.59512 if key.startswith("class") else 0)
        else:  # of the same distribution, but not the same values
            assert np.abs(drawn).max() == pytest.approx(np.abs(expected).max(), rel=0.05)
            assert drawn.std() == pytest.approx(expected.std(), rel=0.2)
            assert abs(drawn.mean()) < 0.1 * drawn.std()
    again = state_dict(MemorySource(body))
    assert all(np.array_equal(again[key], found[key]) for key in predictions)  # the same on every run


@pytest.mark.parametrize("arrays", [BODY, averages(BODY), {**BODY, **averages(BODY)}], ids=["raw", "ema", "both"])
def test_every_copy_that_is_stored_is_completed(arrays: Mapping[str, Any]) -> None:
    source = MemorySource(arrays)
    prepared = prepare(source)
    copies = len(arrays) // len(BODY)
    assert len(prepared.source.initial) == copies * len(ABSENT)
    assert prepared.view.name == ("raw" if arrays is BODY else "ema")
    assert source.facts.untrained == ()
    assert prepared.source.facts.untrained == (PART,)
    assert state_dict(MemorySource(arrays))["class_net.predict.conv_pw.bias"].shape == (810,)


def test_a_whole_network_is_left_alone() -> None:
    """Negative control."""
    source, plan = MemorySource(VALUES), plan_of(small_config())
    assert with_initial_values(source, plan) is source
    report = conversion_report(prepare(source), None, None)
    assert UNTRAINED not in report
    assert "UNTRAINED" not in conversion_text(report)
    assert report["accounting"]["initial"] == []
    assert inspect_source(source)["untrained"] == []


@pytest.mark.parametrize("lost", ABSENT)
def test_predictions_of_which_a_part_is_stored_are_damaged(lost: str) -> None:
    damaged = {name: array for name, array in VALUES.items() if name != lost}
    with pytest.raises((AccountingError, UnsupportedSourceError), match=f"missing: {lost}|the variable {lost}"):
        prepare(MemorySource(damaged))


@pytest.mark.parametrize("kept", ["kernel", "bias"])
def test_predictions_without_biases_or_without_kernels_are_damaged(kept: str) -> None:
    damaged = {name: array for name, array in VALUES.items() if name in BODY or name.endswith(kept)}
    with pytest.raises(AccountingError, match=r"missing: class_net/class-predict/"):
        prepare(MemorySource(damaged), hparams="num_classes=2")


def test_one_head_without_predictions_is_damaged() -> None:
    damaged = {name: array for name, array in VALUES.items() if not name.startswith("box_net/box-predict/")}
    with pytest.raises(UnsupportedSourceError, match=r"expected the variable box_net/box-predict/bias"):
        prepare(MemorySource(damaged))


@pytest.mark.parametrize("variant", ["lite0", "lite1", "lite2", "lite3", "lite4"])
def test_every_variant_on_tf_hub_is_recognised_by_its_names_alone(variant: str) -> None:
    shapes = placeholders(plan_of(variant))
    body = {name: array for name, array in shapes.items() if "-predict/" not in name}
    prepared = prepare(MemorySource(body, data=False))
    assert (prepared.settings.config.name, len(prepared.source.initial)) == (variant, 6)


def test_classes_and_anchors_are_the_users_choice() -> None:
    prepared = prepare(MemorySource(BODY), hparams="num_classes=7,num_scales=2")
    config = prepared.settings.config
    assert (config.num_classes, config.anchors_per_location) == (7, 6)
    assert prepared.settings.origins["num_classes"] == "--hparams"
    assert "num_classes" not in prepared.settings.assumed
    assumed = prepare(MemorySource(BODY)).settings
    assert (assumed.config.num_classes, assumed.assumed["num_classes"]) == (90, 90)
    assert "num_classes" not in prepare(MemorySource(VALUES)).settings.assumed  # negative control


def test_it_is_said_everywhere(tmp_path: Path) -> None:
    prepared, out = prepare(MemorySource(BODY)), tmp_path / "body.pth"
    metadata = convert_checkpoint(prepared, out)
    assert metadata[UNTRAINED] == [PART]
    report = conversion_report(prepared, None, None)
    assert f"note         UNTRAINED {PART}: still initial values" in conversion_text(report)
    assert f"{len(BODY)} converted" in conversion_text(report)
    assert f"{len(ABSENT)} not stored, with initial values" in conversion_text(report)
    accounting = report["accounting"]
    assert (accounting["variables"], sorted(accounting["initial"])) == (len(BODY), ABSENT)
    assert json.loads(json.dumps(report)) == report
    with open_checkpoint(out) as source:  # converted once more
        facts = inspect_source(source)
        assert facts["untrained"] == [PART]
        assert f"untrained    UNTRAINED {PART}" in inspection_text(facts)
        assert convert_checkpoint(prepare(source), tmp_path / "again.safetensors")[UNTRAINED] == [PART]
    facts = inspect_source(MemorySource(BODY))
    assert facts["views"]["raw"] == {"variables": len(BODY), "of": len(VALUES), "untrained": False}
    assert "without predictions" in facts["architecture"]


def test_a_model_that_was_saved_says_that_it_began_untrained(tmp_path: Path) -> None:
    """And that it still is, as long as its predictions are what they were."""
    convert_checkpoint(prepare(MemorySource(BODY)), tmp_path / "body.pth")
    model = load_model(tmp_path / "body.pth")
    assert untrained(model.metadata)
    save_model(model, tmp_path / "saved.pth")
    assert load_model(tmp_path / "saved.pth").metadata[UNTRAINED] == [PART]
    model.class_net.predict.conv_pw.bias.data += 1  # type: ignore[union-attr, operator]
    save_model(model, tmp_path / "saved.pth")
    assert load_model(tmp_path / "saved.pth").metadata[UNTRAINED] == ["the last convolution of the box head"]
    model.box_net.predict.conv_pw.bias.data += 1  # type: ignore[union-attr, operator]
    save_model(model, tmp_path / "saved.pth")
    metadata = load_model(tmp_path / "saved.pth").metadata
    assert untrained(metadata) is None
    assert metadata["parent"][UNTRAINED] == [PART]


@pytest.mark.parametrize("stated", [None, [], "text", 7, {"a": 1}])
def test_metadata_of_strangers_say_nothing(stated: Any) -> None:
    assert untrained({UNTRAINED: stated}) is None


def test_the_raw_values_and_their_averages_start_alike() -> None:
    prepared = prepare(MemorySource({**BODY, **averages(BODY)}))
    for name in ABSENT:
        raw, average = prepared.source.read(name), prepared.source.read(f"{name}/{EMA}")
        assert torch.equal(torch.from_numpy(raw), torch.from_numpy(average))
