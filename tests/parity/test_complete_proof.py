"""The proof cannot lose layers: a changed table or model ends in an error or in compared layers, never in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.plan.grammar import load_table
from effdet_torch.config import EfficientDetConfig
from effdet_torch.network import checkpoint
from effdet_torch.network.model import EfficientDet
from support.sources import small_config
from support.tables import edit_tables, rename_kind
from verify.errors import ParityError
from verify.reference.base import Tap
from verify.reference.network import Forward
from verify.results.verification import Verification
from verify.seeded import write_seeded_checkpoint
from verify.verification import Settings, verify_model

pytest.importorskip("tensorflow")

P3 = "fpn_cells/cell_0/fnode1"  # the last node on level 3 of the small model
MASK = "mask_net/conv"
Edit = Callable[[str], str]


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Edit], None]]:
    """Return a function that edits the mapping tables for one test."""
    yield lambda change: edit_tables(monkeypatch, tmp_path / "mappings", change)
    load_table.cache_clear()


def verified(folder: Path, damage: Callable[[dict[str, Tensor]], None] | None = None) -> Verification:
    """Write a seeded checkpoint, convert and verify it: every end is real and uses the tables of the test."""
    with open_checkpoint(write_seeded_checkpoint(small_config(), folder / "training")) as source:
        convert_checkpoint(prepare(source), path := folder / "model.pth")
        if damage is not None:
            content = torch.load(path, weights_only=True)
            damage(content["state_dict"])
            torch.save(content, path)
        return verify_model(path, source, Settings(image_size=(64, 64)))


@pytest.mark.parametrize("kind", ["conv_before_bn", "separable_bias", "fusion", "resample"])
def test_a_renamed_kind(kind: str, edit: Callable[[Edit], None], tmp_path: Path) -> None:
    edit(rename_kind(kind))
    with pytest.raises(ParityError, match=f"no comparison covers the kind 'renamed_{kind}'"):
        verified(tmp_path)


class Masked(EfficientDet):
    """A detector with a made-up head: one convolution on P3."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__(config)
        self.mask_net = nn.ModuleDict({"conv": nn.Conv2d(config.fpn_channels, config.fpn_channels, 1)})

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = self.fpn(self.backbone(images))
        self.mask_net["conv"](features[0])
        return self.class_net(features), self.box_net(features)


class MaskedOnEveryLevel(Masked):
    """The same head on all levels, which the table does not say."""

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = self.fpn(self.backbone(images))
        for feature in features:
            self.mask_net["conv"](feature)
        return self.class_net(features), self.box_net(features)


def add_head(kind: str) -> Edit:
    """Return an edit that adds the head's group, and its kind if there is none."""
    group = f"""
- name: made-up head
  tf: mask_net
  torch: mask_net
  rows:
  - [conv, conv, {kind}, {{k: 1, in: fpn_channels, out: fpn_channels}}]

"""
    define = f"kinds:\n  {kind}:\n    weight: {{from: kernel, op: conv, shape: [k, k, in, out]}}\n"
    define += "    bias: {from: bias, op: keep, shape: [out]}\n"

    def change(text: str) -> str:
        if "# The backbone: everything in" not in text:  # not the detector's table
            return text
        text = text if kind == "conv_bias" else text.replace("kinds:\n", define, 1)
        return text.replace("\nignored:\n", f"{group}ignored:\n", 1)

    return change


def show_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the TensorFlow reference compute the head."""
    forward = Forward.__call__

    def with_mask(self: Any, images: Any) -> Iterator[Tap]:
        for tap in forward(self, images):
            yield tap
            if tap.scope == P3:
                yield from self._conv(MASK, tap.output, bias=True)

    monkeypatch.setattr(Forward, "__call__", with_mask)


@pytest.mark.parametrize(
    ("kind", "model", "in_tensorflow", "words"),
    [
        ("mask_conv", Masked, True, r"efficientdet.yaml, line \d+: no comparison covers the kind 'mask_conv'"),
        ("conv_bias", EfficientDet, True, "mask_net"),  # the model does not have it
        (
            "conv_bias",
            Masked,
            False,
            rf"not compared \(cumulative\): {MASK}; the model or the TensorFlow reference does not",
        ),
        ("conv_bias", MaskedOnEveryLevel, True, "mask_net.conv runs 3 times, and the plan compares 1 of them"),
    ],
)
def test_an_added_head_that_one_side_lacks(
    kind: str,
    model: type[EfficientDet],
    in_tensorflow: bool,
    words: str,
    edit: Callable[[Edit], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    edit(add_head(kind))
    monkeypatch.setattr(checkpoint, "EfficientDet", model)
    if in_tensorflow:
        show_mask(monkeypatch)
    with pytest.raises(Exception, match=words) as caught:
        verified(tmp_path)
    assert type(caught.value).__module__ in ("verify.errors", "effdet_torch.errors")


def test_an_added_head_is_compared(
    edit: Callable[[Edit], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edit(add_head("conv_bias"))
    monkeypatch.setattr(checkpoint, "EfficientDet", Masked)
    show_mask(monkeypatch)
    result = verified(tmp_path)
    assert result.passed
    assert [layer.tf for layer in result.layers].count(MASK) == 4

    def negate(state_dict: dict[str, Tensor]) -> None:
        state_dict["mask_net.conv.bias"].neg_()

    result = verified(tmp_path, negate)
    assert {layer.tf for layer in result.failures} == {MASK}
    assert [(found.tensor, found.mistake) for found in result.diagnoses] == [("mask_net.conv.bias", "sign flipped")]
