"""What kind of EfficientDet a set of variables is: read from names and shapes by the table's recognition rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converter.errors import UnsupportedSourceError
from converter.plan.expand import Plan, expand
from converter.plan.ops import Shape
from converter.plan.table import Table
from converter.plan.yaml_nodes import Size
from converter.source import VariableInfo
from effdet_torch.architecture import BACKBONES, MIN_LEVEL
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config, variants_with

ARCHITECTURE = ("backbone", "fpn_channels", "fpn_cells", "head_repeats", "max_level")


@dataclass(frozen=True)
class Architecture:
    """What names and shapes tell. Values that they cannot tell (image size, anchors) come from elsewhere."""

    backbone: str
    fpn_channels: int
    fpn_cells: int
    head_repeats: int
    max_level: int
    weighted: bool
    num_classes: int
    anchors_per_location: int

    def matches(self, config: EfficientDetConfig) -> bool:
        """Whether a variant has this architecture, class count aside."""
        same = all(getattr(self, name) == getattr(config, name) for name in ARCHITECTURE)
        return same and self.weighted == (config.fusion != "sum")

    def variants(self) -> list[str]:
        """Return the variants with this architecture: none for one of the user's own, two for d6 / d7."""
        return [name for name, config in VARIANTS.items() if self.matches(config)]

    def config(self) -> EfficientDetConfig:
        """Return a config with just these variables; its anchors have the right number, and no more."""
        return get_config(
            variants_with(self.backbone)[0],
            **{name: getattr(self, name) for name in (*ARCHITECTURE, "num_classes")},
            fusion="fastattn" if self.weighted else "sum",
            num_scales=self.anchors_per_location,
            aspect_ratios=(1.0,),
        )

    def describe(self) -> str:
        """Return the architecture in words."""
        fusion = "weighted fusion" if self.weighted else "unweighted fusion"
        return (
            f"{self.backbone}, BiFPN {self.fpn_cells} x {self.fpn_channels} channels, {fusion}, "
            f"heads x {self.head_repeats}, levels {MIN_LEVEL}-{self.max_level}"
        )


def recognize_architecture(variables: Mapping[str, VariableInfo], table: Table) -> Architecture:
    """Tell the architecture of a set of variables.

    Raises:
        UnsupportedSourceError: The variables are not those of an EfficientDet, or its heads are of another shape.
    """
    probe = _Probe(variables, tuple(table.views.values()))
    return _architecture(probe.answer_all(table.recognition, "these are not the variables of an EfficientDet"))


def recognize_backbone(variables: Mapping[str, VariableInfo], table: Table) -> str | None:
    """Return the name of the backbone if the variables are those of a backbone without a detector, else None.

    Args:
        variables: of a source.
        table: of the detector.
    """
    probe = _Probe(variables, tuple(table.views.values()))
    answers = {name: probe.answer(rule) for name, rule in table.recognition.items()}
    backbone: str | None = answers.pop("backbone")
    return None if any(answers.values()) else backbone


def recognize_state_dict(shapes: Mapping[str, Shape], table: Table) -> Architecture:
    """Tell the architecture of a state_dict, by its keys without a prefix and the shapes of its tensors.

    Raises:
        UnsupportedSourceError: The tensors are not those of an EfficientDet.
    """
    variables = {name: VariableInfo("", shape) for name, shape in shapes.items()}
    probe = _Probe(variables, ("{variable}",), separator=".")
    found = probe.answer_all(table.state_dict, "this is not the state_dict of an EfficientDet")
    # The backbone does not depend on what is built on it, and files may claim any number of cells.
    small = {**found, "fpn_cells": 1, "head_repeats": 1}
    fits = {
        name: _fit(shapes, expand(table, _architecture({**small, "backbone": name}).config())) for name in BACKBONES
    }
    backbone = max(fits, key=lambda name: fits[name])
    if fits[backbone] <= 0:
        raise UnsupportedSourceError(
            "the tensors of this state_dict's backbone are those of no EfficientNet: expected the backbones of D0 to "
            "D7x and Lite, with timm's names"
        )
    return _architecture({**found, "backbone": backbone})


def _fit(shapes: Mapping[str, Shape], plan: Plan) -> int:
    """Return how well a state_dict fits the backbone of a plan: tensors that it has, less those that it lacks.

    Not whether it has all: every tensor of b0 is one of b1, too, and what is missing is for the accounting to name.
    """
    backbone = [(key, entry) for key, entry in plan.within(plan.config.backbone).targets.items() if entry.sources]
    fitting = sum(shapes.get(key) == entry.target_shape for key, entry in backbone)
    return 2 * fitting - len(backbone)


def _architecture(found: Mapping[str, Any]) -> Architecture:
    anchors, rest = divmod(found["box_channels"], 4)
    if rest or not anchors or found["class_channels"] % anchors:
        raise UnsupportedSourceError(
            f"a custom head: the box prediction has {found['box_channels']} channels (expected anchors x 4) and the "
            f"class prediction {found['class_channels']} (expected anchors x classes)"
        )
    return Architecture(
        backbone=found["backbone"],
        fpn_channels=found["fpn_channels"],
        fpn_cells=found["fpn_cells"],
        head_repeats=found["head_repeats"],
        max_level=MIN_LEVEL + found["num_levels"] - 1,
        weighted=found["weighted"],
        num_classes=found["class_channels"] // anchors,
        anchors_per_location=anchors,
    )


class _Probe:
    """Answers one recognition row at a time."""

    def __init__(self, variables: Mapping[str, VariableInfo], views: tuple[str, ...], separator: str = "/") -> None:
        self.variables, self.views = variables, views
        names = [name.split(separator) for name in variables]
        self.scopes = {separator.join(parts[: end + 1]) for parts in names for end in range(len(parts))}

    def answer_all(self, rules: Mapping[str, Mapping[str, Size]], refusal: str) -> dict[str, Any]:
        """Return the answers to all questions.

        Raises:
            UnsupportedSourceError: What a rule looks for is not there.
        """
        found = {name: self.answer(rule) for name, rule in rules.items()}
        if absent := [name for name, value in found.items() if value is None]:
            rule = next(str(value) for value in rules[absent[0]].values())
            example = f"; it begins with {min(self.variables)}" if self.variables else ""
            raise UnsupportedSourceError(
                f"{refusal}: {absent[0]} is read from {rule}, which is not there ({len(self.variables)} names{example})"
            )
        return found

    def answer(self, rule: Mapping[str, Size]) -> Any:
        """Return the answer; None if what the row looks for is not there."""
        if "which" in rule:
            template = str(rule["which"])
            return next((name for name in BACKBONES if template.format(backbone=name) in self.scopes), None)
        if "count" in rule:
            first, template = int(rule["first"]), str(rule["count"])
            numbers = itertools.takewhile(lambda n: template.format(n=n) in self.scopes, itertools.count(first))
            return sum(1 for _ in numbers) or None
        if "size_of" in rule:
            stored = (template.format(variable=rule["size_of"]) for template in self.views)  # any copy will do
            info = next((self.variables[name] for name in stored if name in self.variables), None)
            axis = int(rule["axis"])
            return info.shape[axis] if info is not None and axis < len(info.shape) else None
        return str(rule["exists"]) in self.scopes
