"""Settle a model's config from its shapes, the hyperparameters given by the user or a file, and variant defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
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
PREPARATION = ("image_size", "normalization")  # what official files of the same variant differ in
DECIDED_BY_SHAPES = (*ARCHITECTURE, "num_classes")


def settle_detector(found: DetectorArchitecture, request: Request) -> Settings:
    """Settle the config of a detector, see `settle`; values from the source's metadata keep the origin stated there."""
    given = given_hparams(request.source, request.hparams)
    settings = settle(found, given, request.variant, request.source.path, request.redundant_bias)
    stated = request.source.origins
    origins = {f: stated.get(f, origin) if origin == METADATA else origin for f, origin in settings.origins.items()}
    return replace(settings, origins=origins)


def settle_backbone(found: BackboneArchitecture, request: Request) -> Settings:
    """Settle what is known of a backbone without a detector: its name.

    Raises:
        UsageError: An option concerns a detector.
    """
    for option, given in (("--variant", request.variant), (OPTION, request.hparams)):
        if given:
            raise UsageError(
                f"{option} {given}: the checkpoint holds {found.backbone} alone, without a detector; omit {option}"
            )
    return Settings(BackboneConfig(found.backbone), {"backbone": FROM_SHAPES})


def settle(
    found: DetectorArchitecture,
    given: Sequence[tuple[str, Mapping[str, Any]]],
    wanted_variant: str | None,
    path: Path,
    redundant_bias: bool = False,
) -> Settings:
    """Put a config together: names and shapes decide the architecture, the last of `given` that has it any other value.

    Args:
        found: what names and shapes show.
        given: (origin, official hyperparameters), weakest first.
        wanted_variant: the user's `--variant`: a check, and the choice between variants that share their shapes.
        path: the source; its name can distinguish d7 from d6.
        redundant_bias: whether the result keeps the biases in front of batch norms.

    Raises:
        ConversionError: The variant or a hyperparameter contradicts the checkpoint.
        ConfigError: A variant or hyperparameter does not exist.
    """
    variant, notes = _choose_variant(found, given, wanted_variant, path)
    base = get_config(variant)
    values: dict[str, Any] = {name: getattr(found, name) for name in DECIDED_BY_SHAPES}
    origins = dict.fromkeys(values, FROM_SHAPES)
    if found.weighted != (base.fusion != "sum"):
        values["fusion"], origins["fusion"] = ("fastattn" if found.weighted else "sum"), FROM_SHAPES
    for origin, hparams in given:
        for name, value in config_fields(hparams).items():
            _refuse_contradiction(found, name, value, origin)
            values[name] = value
            origins[name] = FROM_SHAPES if name in DECIDED_BY_SHAPES else origin
        notes.extend(misspelled(hparams) if origin == OPTION else ())
    _fit_anchors(found, base, values, origins, notes)
    config = get_config(variant, **values, redundant_bias=redundant_bias)
    notes += _official_name_notes(path, config)
    names = [field.name for field in fields(config) if field.name not in ("name", "redundant_bias")]
    return Settings(config, {name: origins.get(name, FROM_VARIANT) for name in names}, tuple(notes))


def _official_name_notes(path: Path, config: EfficientDetConfig) -> list[str]:
    """Say what an official name implies that the config lacks: the downloaded file does not contain it."""
    stem, folder = path.name.partition(".")[0], path.absolute().parent.name
    for name in (f"{stem}-{folder}", stem):  # AdvProp's files are called like others, in a folder of another name
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
    found: DetectorArchitecture, given: Sequence[tuple[str, Mapping[str, Any]]], wanted: str | None, path: Path
) -> tuple[str, list[str]]:
    candidates = found.variants()
    if wanted is not None:
        config = get_config(wanted)
        if not found.matches(config):
            raise ConversionError(_not_this_variant(found, config, candidates))
        return config.name, []
    alike = candidates or variants_with(found.backbone)
    # Weakest first: how the user named folders and files, then `name` in the hyperparameters.
    path = path.absolute()
    hints = [path.parent.name, path.name.split(".")[0], *(str(hparams.get("name", "")) for _, hparams in given)]
    names = [OFFICIAL_NAME.sub("", hint.lower()).partition("_")[0].partition("-")[0] for hint in hints]
    hinted = [name for name in names if name in alike]
    if not candidates:
        variant = (hinted or alike[:1])[-1]
        own = f"a custom architecture, not one of the official variants: {found.describe()}"
        return variant, [f"{own}; unspecified settings default to {variant}'s"]
    if len(candidates) == 1 or hinted:
        return (hinted or candidates)[-1], []
    same = " and ".join(candidates)
    return candidates[0], [
        f"{same} have the same variables: {candidates[0]} is assumed; pass --variant if it is another"
    ]


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


def _fit_anchors(
    found: DetectorArchitecture,
    base: EfficientDetConfig,
    values: dict[str, Any],
    origins: dict[str, str],
    notes: list[str],
) -> None:
    """Make scales x ratios the anchors per location that the heads have."""
    ratios = values.get("aspect_ratios", base.aspect_ratios)
    scales = values.get("num_scales", base.num_scales)
    if scales * len(ratios) == found.anchors_per_location:
        return
    counts = f"{scales} scales x {len(ratios)} aspect ratios, but the heads have {found.anchors_per_location} anchors"
    if "num_scales" in values or found.anchors_per_location % len(ratios):
        raise ConversionError(f"{counts} per location; give both: --hparams num_scales=...,aspect_ratios=1.0*2.0*0.5")
    values["num_scales"], origins["num_scales"] = found.anchors_per_location // len(ratios), FROM_SHAPES
    notes.append(f"{counts} per location; {values['num_scales']} scales are assumed; pass --hparams if that is wrong")
