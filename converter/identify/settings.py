"""Settle a model's config from its shapes, the hyperparameters of files and options, and the variant's defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from converter.errors import ConversionError
from converter.identify.architecture import ARCHITECTURE, BackboneArchitecture, DetectorArchitecture
from converter.identify.hparams import METADATA, OPTION, config_fields, given_hparams, misspelled
from converter.identify.official import find_official
from converter.plan.family import Request, Settings
from effdet_torch.config import BackboneConfig, EfficientDetConfig, get_config, variants_with
from effdet_torch.errors import ConfigError, UsageError

OFFICIAL_NAME = re.compile(r"^.*efficientdet[-_]")
FROM_SHAPES = "names and shapes"
FROM_VARIANT = "variant default"
PREPARATION = ("image_size", "normalization")  # these differ between official files of the same variant
DECIDED_BY_SHAPES = (*ARCHITECTURE, "num_classes")


def settle_detector(found: DetectorArchitecture, request: Request) -> Settings:
    """Settle the config of a detector.

    Names and shapes decide the architecture. Every other value comes from the last of: the variant's default, a
    `config.yaml` beside the source, the source itself (with the origin stated in its metadata), `--hparams`.

    Args:
        found: what names and shapes show.
        request: the variant is a check, and chooses between variants that share their shapes; so can the source's path.

    Raises:
        ConversionError: The variant or a hyperparameter contradicts the checkpoint.
        ConfigError: A variant or hyperparameter does not exist.
    """
    source = request.source
    given = given_hparams(source, request.hparams)
    variant, notes = _choose_variant(found, given, request)
    base = get_config(variant)
    values: dict[str, Any] = {name: getattr(found, name) for name in DECIDED_BY_SHAPES}
    if found.weighted != (base.fusion != "sum"):
        values["fusion"] = "fastattn" if found.weighted else "sum"
    origins = dict.fromkeys(values, FROM_SHAPES)
    for origin, hparams in given:
        for name, value in config_fields(hparams).items():
            _refuse_contradiction(found, name, value, origin)
            values[name] = value
            if name not in DECIDED_BY_SHAPES:
                origins[name] = source.facts.origins.get(name, origin) if origin == METADATA else origin
        notes += misspelled(hparams) if origin == OPTION else []
    if assumed := _assumed_scales(found, base, values):
        values["num_scales"], note = assumed
        origins["num_scales"] = FROM_SHAPES
        notes.append(note)
    config = get_config(variant, **values, redundant_bias=request.redundant_bias)
    notes += _official_name_notes(source.path, config)
    names = [field.name for field in fields(config) if field.name not in ("name", "redundant_bias")]
    return Settings(config, {name: origins.get(name, FROM_VARIANT) for name in names}, tuple(notes))


def settle_backbone(found: BackboneArchitecture, request: Request) -> Settings:
    """Settle what is known about a backbone without a detector: its name.

    Raises:
        UsageError: An option concerns a detector.
    """
    for option, given in (("--variant", request.variant), (OPTION, request.hparams)):
        if given:
            raise UsageError(
                f"{option} {given}: the checkpoint holds {found.backbone} alone, without a detector; omit {option}"
            )
    return Settings(BackboneConfig(found.backbone), {"backbone": FROM_SHAPES})


def _official_name_notes(path: Path, config: EfficientDetConfig) -> list[str]:
    """Return a note if an official name implies settings that the config lacks: the file itself does not hold them."""
    stem, folder = path.name.partition(".")[0], path.absolute().parent.name
    for name in (f"{stem}-{folder}", stem):  # AdvProp's files have the names of others, in another folder
        with suppress(ConfigError):
            official = find_official(name)
            if official is not None and official.variant == config.name:
                changes = {key: value for key, value in official.hparams.items() if key != "name"}
                if changes and any(getattr(official.config, field) != getattr(config, field) for field in PREPARATION):
                    hparams = ",".join(f"{key}={value}" for key, value in changes.items())
                    return [
                        f"looks like the official {official.short_name} by its name; if so, pass --hparams {hparams}"
                    ]
    return []


def _choose_variant(
    found: DetectorArchitecture, given: Sequence[tuple[str, Mapping[str, Any]]], request: Request
) -> tuple[str, list[str]]:
    """Return the variant whose defaults apply, and notes about the choice."""
    candidates = found.variants()
    if request.variant is not None:
        wanted = get_config(request.variant)
        if not found.matches(wanted):
            raise ConversionError(_not_this_variant(found, wanted, candidates))
        return wanted.name, []
    alike = candidates or variants_with(found.backbone)
    # Weakest first: how the user named folders and files, then `name` in the hyperparameters.
    path = request.source.path.absolute()
    hints = [path.parent.name, path.name.split(".")[0], *(str(hparams.get("name", "")) for _, hparams in given)]
    names = [OFFICIAL_NAME.sub("", hint.lower()).partition("_")[0].partition("-")[0] for hint in hints]
    hinted = [name for name in names if name in alike]
    variant = hinted[-1] if hinted else alike[0]
    if not candidates:
        own = f"a custom architecture, not one of the official variants: {found.describe()}"
        return variant, [f"{own}; unspecified settings default to {variant}'s"]
    if hinted or len(candidates) == 1:
        return variant, []
    same = " and ".join(candidates)
    return variant, [f"{same} have the same variables: {variant} is assumed; pass --variant if that is wrong"]


def _not_this_variant(found: DetectorArchitecture, wanted: EfficientDetConfig, candidates: list[str]) -> str:
    differences = [
        f"{name} {getattr(found, name)} (expected {getattr(wanted, name)})"
        for name in ARCHITECTURE
        if getattr(found, name) != getattr(wanted, name)
    ]
    if found.weighted != (wanted.fusion != "sum"):
        differences.append(f"{'weighted' if found.weighted else 'unweighted'} fusion (expected {wanted.fusion})")
    what_next = "no official variant has this architecture: omit --variant"
    if candidates:
        what_next = f"the checkpoint looks like {candidates[0]}: try --variant {candidates[0]}"
    return f"not {wanted.name}: {', '.join(differences)}; {what_next}"


def _refuse_contradiction(found: DetectorArchitecture, name: str, value: Any, origin: str) -> None:
    if name in DECIDED_BY_SHAPES and value != getattr(found, name):
        raise ConversionError(
            f"{origin} sets {name} to {value}, but the checkpoint's shapes show {getattr(found, name)}; {_fix(origin)}"
        )
    if name == "fusion" and (value != "sum") != found.weighted:
        has = "has" if found.weighted else "has no"
        raise ConversionError(
            f"{origin} sets fusion to {value!r}, but the checkpoint {has} fusion weights; {_fix(origin)}"
        )


def _fix(origin: str) -> str:
    return "convert the original checkpoint again" if origin == METADATA else f"fix {origin}"


def _assumed_scales(
    found: DetectorArchitecture, base: EfficientDetConfig, values: Mapping[str, Any]
) -> tuple[int, str] | None:
    """Return the number of scales that fits the heads, and a note; None if scales x ratios fit already."""
    ratios = len(values.get("aspect_ratios", base.aspect_ratios))
    scales = values.get("num_scales", base.num_scales)
    if scales * ratios == found.anchors_per_location:
        return None
    counts = f"{scales} scales x {ratios} aspect ratios, but the heads have {found.anchors_per_location} anchors"
    assumed, rest = divmod(found.anchors_per_location, ratios)
    if "num_scales" in values or rest:
        raise ConversionError(f"{counts} per location; pass both: --hparams num_scales=...,aspect_ratios=1.0*2.0*0.5")
    return assumed, f"{counts} per location; {assumed} scales are assumed; pass --hparams if that is wrong"
