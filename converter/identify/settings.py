"""Settle a model's config from its shapes, the hyperparameters of files and options, and the variant's defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from converter.errors import ConversionError
from converter.hparams.fields import METADATA, OPTION, PACKAGE_SETTINGS, Stated, stated_fields
from converter.hparams.given import given_hparams
from converter.hparams.syntax import merged
from converter.identify.architecture import (
    ARCHITECTURE,
    OF_HEADS,
    BackboneArchitecture,
    DetectorArchitecture,
    named_variant,
    same_tensors,
    weights_of,
)
from converter.identify.evidence import (
    ASSUMED,
    FROM_SHAPES,
    assumptions,
    graph_fields,
    known_official,
    origins_of_hidden,
    require_same_network,
    with_graph,
)
from converter.plan.family import Request, Settings
from effdet_torch.config import (
    PACKAGE_VARIANTS,
    VARIANTS,
    BackboneConfig,
    EfficientDetConfig,
    get_config,
    variants_with,
)
from effdet_torch.errors import UsageError
from effdet_torch.file_format import GRAPH

MAX_SHOWN = 60  # letters of a value in a note
# Nothing is assumed about the names of classes, and what only other code than the official one does differently.
NO_SETTINGS = ("name", "redundant_bias", "label_map", "taps", "resize", *PACKAGE_SETTINGS)
DEMO = (
    "mean_rgb and stddev_rgb are assumed; the official demo of segmentation, tf2/segmentation.py, maps pixels to 0..1: "
    "pass --hparams mean_rgb=0,stddev_rgb=255 if it trained this"
)
Hparams = Mapping[str, Any]


def settle_detector(found: DetectorArchitecture, request: Request) -> Settings:
    """Settle the config of a detector.

    Names and shapes decide the architecture. Every other value comes from the last of: TensorFlow's graph, the official
    file that the source is, a `config.yaml` beside it, the source itself (with the origin stated in its metadata),
    `--hparams`. What none of them states is assumed to be the variant's, and listed.

    Args:
        found: what names and shapes show.
        request: the variant is a check, and chooses between variants that share their shapes; so can the source's path.

    Raises:
        ConversionError: The variant or a hyperparameter contradicts the checkpoint.
        ConfigError: A variant or hyperparameter does not exist.
    """
    source = request.source
    given, notes = given_hparams(source, request.hparams)
    official = known_official(source, found)
    if official is not None:
        given = [(f"the official {official.short_name}", official.hparams), *given]
    stated = stated_fields(_merged(given))
    if "min_level" in stated:
        found = found.from_level(stated["min_level"].value)
    variant, more = _choose_variant(found, given, request)
    base = get_config(variant)
    more += _overridden(given, stated)
    graph = source.facts.graph() if source.facts.graph is not None else None
    if graph is not None:
        require_same_network(graph, source)
        levels = range(found.min_level, found.max_level + 1)
        stated, contradictions = with_graph(stated, graph_fields(graph, levels), levels, OPTION)
        more += [*graph.notes, *contradictions]
    values: dict[str, Any] = {**found.fields(), "fusion": found.fusion(base.fusion)}
    for field, statement in stated.items():
        _refuse_contradiction(found, field, statement)
        values[field] = statement.value
    assumed_scales = _assumed_scales(found, base, values)
    if assumed_scales:
        values["num_scales"], note = assumed_scales
        more.append(note)
    config = get_config(variant, **values, redundant_bias=request.redundant_bias)
    if request.variant is not None:
        _refuse_other_model(base, stated)
    _require_graph(found, config)
    otherwise = ASSUMED if official is None else given[0][0]
    origins = _origins(found, given, stated, otherwise, source.facts.origins)
    demo = [DEMO] if not found.detects and origins["mean_rgb"] == ASSUMED else []
    return Settings(config, origins, (*notes, *more, *demo), assumptions(config, origins))


def _overridden(given: Sequence[tuple[str, Hparams]], stated: Mapping[str, Stated]) -> list[str]:
    """Return a note for every value that the user replaces: of a file of settings, or of the checkpoint itself."""
    before = stated_fields(_merged([item for item in given if item[0] not in (ASSUMED, OPTION)]))
    return [
        f"{OPTION} sets {ours.name} to {_cut(ours.value)}, {other.origin} has {_cut(other.value)}"
        for field, ours in stated.items()
        if (other := before.get(field)) and ours.origin == OPTION and other.value not in ((), ours.value)
    ]


def _cut(value: object) -> str:
    """Return a value for a note; of a long one, such as the names of many classes, the beginning."""
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _merged(given: Sequence[tuple[str, Hparams]]) -> dict[str, tuple[str, Any]]:
    """Return {name: (origin, value)}; a later origin replaces an earlier one, groups name by name."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, hparams in given:
        values = merged(values, hparams)
        origins.update(dict.fromkeys(hparams, origin))
    return {name: (origins[name], value) for name, value in values.items()}


def _origins(
    found: DetectorArchitecture,
    given: Sequence[tuple[str, Hparams]],
    stated: Mapping[str, Stated],
    otherwise: str,
    of_metadata: Mapping[str, str],
) -> dict[str, str]:
    """Return {field: origin}; a converted file states the origins of what its metadata hold.

    An earlier version did not read everything: what a file has no origin of is assumed.
    """
    origins = {field: statement.origin for field, statement in stated.items()}
    origins |= {name: origin for origin, hparams in given for name in hparams if name == "backbone_config"}
    origins |= origins_of_hidden(found, origins, otherwise)
    unused = dict.fromkeys((*ARCHITECTURE, *OF_HEADS), FROM_SHAPES)  # by heads that are not there
    recorded = {**unused, **of_metadata}
    origins = {
        field: recorded.get(field, ASSUMED) if origin == METADATA else origin for field, origin in origins.items()
    }
    origins |= {name: FROM_SHAPES for name in found.fields() if found.decides(name)}
    origins = {**unused, **origins}
    known = [field.name for field in fields(EfficientDetConfig) if field.name not in NO_SETTINGS]
    return {name: origins.get(name, otherwise) for name in [*known, "backbone_config"]} | {
        name: origins[name] for name in NO_SETTINGS if origins.get(name, ASSUMED) != ASSUMED
    }


def _require_graph(found: DetectorArchitecture, config: EfficientDetConfig) -> None:
    if found.num_nodes > len(config.cell):  # too few are missing variables, which the accounting lists
        raise ConversionError(
            f"the cells of the checkpoint's pyramid have {found.num_nodes} nodes, those of {config.fpn_name} "
            f"{len(config.cell)}: another fpn_name or fpn_config; pass --hparams, or put config.yaml beside it"
        )


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


def _choose_variant(
    found: DetectorArchitecture, given: Sequence[tuple[str, Mapping[str, Any]]], request: Request
) -> tuple[str, list[str]]:
    """Return the variant whose defaults apply, and notes about the choice."""
    candidates = found.variants(request.source)
    if request.variant is not None:
        wanted = get_config(request.variant)
        if wanted.name not in candidates:
            raise ConversionError(_not_this_variant(found, wanted, candidates))
        return wanted.name, []
    alike = candidates or variants_with(found.backbone) or list(VARIANTS)
    stated = [name for _, hparams in given if (name := named_variant(str(hparams.get("name", "")), alike))]
    # How the user named folders and files; the file's name is the stronger one.
    path = request.source.path.absolute()
    hinted = [name for text in (path.parent.name, path.name.split(".")[0]) if (name := named_variant(text, alike))]
    variant = [alike[0], *hinted, *stated][-1]
    if not candidates:
        own = f"a custom architecture, not one of the official variants: {found.describe()}"
        return variant, [f"{own}; unspecified settings default to {variant}'s"]
    if stated or len(candidates) == 1:
        return variant, []
    if {name in PACKAGE_VARIANTS for name in candidates} == {False, True}:
        return variant, [same_tensors(variant, candidates, by_name=bool(hinted))]
    if hinted:
        return variant, []
    same = " and ".join(candidates)
    return variant, [f"{same} have the same variables: {variant} is assumed; pass --variant if that is wrong"]


def _refuse_other_model(base: EfficientDetConfig, stated: Mapping[str, Stated]) -> None:
    """Refuse a `--variant` that computes different outputs from the model that the file names."""
    for field in PACKAGE_SETTINGS:
        if field in stated and stated[field].value != getattr(base, field) and stated[field].origin != OPTION:
            raise ConversionError(
                f"not {base.name}: {stated[field].origin} says {field} {stated[field].value}, and {base.name} has "
                f"{getattr(base, field)}; omit --variant"
            )


def _not_this_variant(found: DetectorArchitecture, wanted: EfficientDetConfig, candidates: list[str]) -> str:
    differences = [
        f"{name} {getattr(found, name)} (expected {getattr(wanted, name)})"
        for name in ARCHITECTURE
        if found.decides(name) and getattr(found, name) != getattr(wanted, name)
    ]
    if found.fusion_weights != weights_of(wanted.fusion):
        differences.append(f"{found.fusion_weights} fusion (expected {wanted.fusion})")
    if not differences and found.num_nodes != len(wanted.cell):
        differences.append(f"{found.num_nodes} nodes per cell (expected {len(wanted.cell)})")
    if not differences:
        differences.append(
            "its tensors fit, but a model of the effdet package is in PyTorch files only, "
            f"{'with' if wanted.redundant_bias else 'without'} biases in front of batch norms"
        )
    what_next = "no official variant has this architecture: omit --variant"
    if candidates:
        what_next = f"the checkpoint looks like {candidates[0]}: try --variant {candidates[0]}"
    return f"not {wanted.name}: {', '.join(differences)}; {what_next}"


def _refuse_contradiction(found: DetectorArchitecture, field: str, stated: Stated) -> None:
    value, name, origin = stated
    if found.decides(field) and value != (shown := getattr(found, field)):
        raise ConversionError(
            f"{origin} sets {name} to {value}, but the checkpoint's shapes show {shown}; {_fix(origin)}"
        )
    if field == "fusion" and weights_of(value) != found.fusion_weights:
        raise ConversionError(
            f"{origin} sets {name} to {value!r}, but the checkpoint's fusion is {found.fusion_weights}; {_fix(origin)}"
        )


def _fix(origin: str) -> str:
    if origin.startswith(GRAPH):
        return "move the graph's file away if it belongs to another network"
    return "convert the original checkpoint again" if origin == METADATA else f"fix {origin}"


def _assumed_scales(
    found: DetectorArchitecture, base: EfficientDetConfig, values: Mapping[str, Any]
) -> tuple[int, str] | None:
    """Return the number of scales that fits the heads, and a note; None if scales x ratios fit already."""
    ratios = len(values.get("aspect_ratios", base.aspect_ratios))
    scales = values.get("num_scales", base.num_scales)
    if found.anchors_per_location in (None, scales * ratios):
        return None
    counts = f"{scales} scales x {ratios} aspect ratios, but the heads have {found.anchors_per_location} anchors"
    assumed, rest = divmod(found.anchors_per_location, ratios)
    if "num_scales" in values or rest:
        raise ConversionError(f"{counts} per location; pass both: --hparams num_scales=...,aspect_ratios=...")
    return assumed, f"{counts} per location; {assumed} scales are assumed; pass --hparams if that is wrong"
