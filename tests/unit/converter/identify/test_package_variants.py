"""Official variants and the models that only the `effdet` package has: what decides, and what is said about it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConversionError
from converter.identify import families
from converter.identify.architecture import DetectorArchitecture, named_variant
from converter.identify.families import DETECTOR, recognize_state_dict
from converter.identify.settings import settle_detector
from converter.plan.family import Family, Request, Settings
from converter.source import SourceFacts
from effdet_torch.config import MODELS, PACKAGE_VARIANTS, BackboneConfig, EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError
from support.sources import MemorySource

BOTH = ["d0", "efficientdet_d0"]


def source_of(path: str, kind: str = "PyTorch file", **facts: Any) -> MemorySource:
    source = MemorySource({}, path)
    return source.with_facts(SourceFacts(kind, Path(path), Path(path).parent, **facts))


def found_in(config: EfficientDetConfig) -> DetectorArchitecture:
    plan = DETECTOR.plan(config)
    return recognize_state_dict({key: entry.target_shape for key, entry in plan.targets.items()})


def settled(path: str, variant: str | None = None, *, hparams: Any = None, **facts: Any) -> Settings:
    return settle_detector(found_in(get_config("d0")), Request(source_of(path, **facts), variant, hparams))


@pytest.mark.parametrize(("variant", "tried"), [("d0", ["b0"]), ("d1", ["b0", "b1"])])  # b0's tensors are b1's, too
def test_the_search_ends_at_the_backbone_that_explains_every_tensor(
    monkeypatch: pytest.MonkeyPatch, variant: str, tried: list[str]
) -> None:
    plans: list[str] = []

    def planned(name: str) -> BackboneConfig:
        plans.append(name)
        return BackboneConfig(name)

    monkeypatch.setattr(families, "BackboneConfig", planned)
    assert found_in(get_config(variant)).backbone == f"efficientnet-{tried[-1]}"
    assert plans == [f"efficientnet-{name}" for name in tried]


def test_a_table_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(Family, "_check", lambda _, table: checked.append(table.name))
    table = DETECTOR.table
    family = replace(DETECTOR, load=lambda: table)
    assert family.table is family.table
    assert checked == ["efficientdet"]
    another = replace(family, load=lambda: replace(table))  # another table every time is checked every time
    assert another.table is not another.table
    assert len(checked) == 3


@pytest.mark.parametrize(
    ("path", "name", "by_name"),
    [
        ("a/efficientdet_d0-f3276ba8.pth", "efficientdet_d0", True),
        ("efficientdet_d0/model.pth", "efficientdet_d0", True),
        ("a/tf_efficientdet_d0_34-f153e0cf.pth", "d0", True),
        ("a/efficientdet-d0.pth", "d0", True),
        ("efficientdet_d0/tf_efficientdet_d0.pth", "d0", True),
        ("a/model.pth", "d0", False),
        ("a/efficientdet_d1.pth", "d0", False),
    ],
)
def test_the_name_of_a_file_decides_and_is_said_to(path: str, name: str, by_name: bool) -> None:
    result = settled(path, is_folded=True)
    assert result.config == get_config(name)
    (other,) = set(BOTH) - {name}
    by = " by the name of the file or its folder" if by_name else ""
    why = f"{name} is assumed{by}; if that is wrong, pass --variant {other}"
    assert [note for note in result.notes if note.endswith(why)]


@pytest.mark.parametrize("name", BOTH)
def test_what_is_stated_needs_no_note(name: str) -> None:
    given = (("the training", {"name": name if name in PACKAGE_VARIANTS else f"efficientdet-{name}"}),)
    for result in (
        settled("a/model.pth", name, is_folded=True),
        settled("efficientdet_d0/model.pth", is_folded=True, given=given),
    ):
        assert result.config == get_config(name)
        assert not any("compute different outputs" in note for note in result.notes)


@pytest.mark.parametrize("facts", [{"is_folded": False}, {"is_folded": False, "kind": "TF1 checkpoint"}])
def test_biases_and_tensorflow_leave_the_official_variant_alone(facts: dict[str, Any]) -> None:
    result = settled("efficientdet_d0/model.pth", **facts)
    assert (result.config, result.notes) == (get_config("d0"), ())
    with pytest.raises(ConversionError, match=r"not efficientdet_d0: its tensors fit, .*try --variant d0"):
        settled("a/model", "efficientdet_d0", **facts)


def test_an_own_architecture_has_what_the_user_states() -> None:
    hparams = "padding=symmetric,backbone_style=pytorch,resampling=bilinear"
    result = settled("a/model.pth", hparams=hparams, is_folded=True)
    assert result.config == get_config("d0", padding="symmetric", backbone_style="pytorch", resampling="bilinear")
    with pytest.raises(ConfigError, match="padding is 'full'; expected one of same, symmetric"):
        settled("a/model.pth", hparams="padding=full", is_folded=True)


def test_a_variant_that_contradicts_the_file_is_refused() -> None:
    given = (("the training", {"name": "efficientdet-d0", "padding": "symmetric"}),)
    with pytest.raises(ConversionError, match="not d0: the training says padding symmetric, and d0 has same"):
        settled("a/model.pth", "d0", is_folded=True, given=given)
    assert settled("a/model.pth", is_folded=True, given=given).config.padding == "symmetric"


@pytest.mark.parametrize("name", PACKAGE_VARIANTS)
def test_every_model_is_recognised_by_its_tensors(name: str) -> None:
    config = PACKAGE_VARIANTS[name]
    source = source_of("a/model.pth", is_folded=not config.redundant_bias)
    found = found_in(config)
    assert name in found.variants(source)
    assert {MODELS[other].backbone for other in found.variants(source)} == {config.backbone}
    assert name not in found.variants(source_of("a/model", "TF1 checkpoint"))
    official = [other for other in found.variants(source) if other not in PACKAGE_VARIANTS]
    assert official == ([name.removeprefix("efficientdet_")] if re.fullmatch(r"efficientdet_d\d", name) else [])


def test_names_in_texts() -> None:
    assert named_variant("My_EfficientDet_D0-v2", BOTH) == "efficientdet_d0"
    assert named_variant("efficientdetv2_dt_agc", ["efficientdetv2_dt"]) == "efficientdetv2_dt"
    assert named_variant("tf_efficientdet_d0_ap", BOTH) == "d0"
    assert named_variant("efficientdet_d0", ["d0"]) == "d0"
    assert named_variant("photo", BOTH) is None
