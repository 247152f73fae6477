"""What names and shapes do not show of a network, and on what its values rest: evidence, or an assumption."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from converter.errors import ConversionError
from converter.hparams.fields import MEANINGS, REPLACES_METHOD, Stated, hparams_of, stated_fields
from converter.identify.architecture import UNWEIGHTED, DetectorArchitecture
from converter.identify.official import PREFIX, OfficialFile, find_official
from converter.source import AVERAGE, GraphEvidence, VariableSource
from effdet_torch.architecture.pyramid import CELLS
from effdet_torch.config import BackboneConfig, EfficientDetConfig
from effdet_torch.errors import ConfigError

FROM_SHAPES = "names and shapes"
ASSUMED = "assumed"
FREE = ("image_size", "num_scales", "aspect_ratios", "anchor_scale")  # the weights work with others, too
ASSUMED_BEFORE = "variant default"  # the same, in files of earlier versions
# Kinds of files that were never published, and how the names of the others end.
UNPUBLISHED = ("TF2 object checkpoint", "TF2 SavedModel", "PyTorch file", "TensorFlow Lite model")
ENDINGS = (".tar.gz", ".tgz", ".h5", ".pb", ".index", ".meta")


class Hidden(NamedTuple):
    """Something that names and shapes do not show.

    Attributes:
        name: the official hyperparameter.
        fields: of the config; who states one of them states all.
        matters: whether it makes a difference for a network.
    """

    name: str
    fields: tuple[str, ...]
    matters: Callable[[DetectorArchitecture], bool] = lambda _: True


def _detects(found: DetectorArchitecture) -> bool:
    return found.detects


# Those that users change most often come first.
HIDDEN: tuple[Hidden, ...] = (
    Hidden("num_classes", ("num_classes",), lambda found: found.detects and found.num_classes is None),
    Hidden("image_size", ("image_size",)),
    Hidden("num_scales", ("num_scales",), _detects),
    Hidden("aspect_ratios", ("aspect_ratios",), _detects),
    Hidden("anchor_scale", ("anchor_scale",), _detects),
    Hidden("mean_rgb", ("mean_rgb",)),
    Hidden("stddev_rgb", ("std_rgb",)),
    Hidden("scale_range", ("normalization",)),
    Hidden("act_type", ("activation",)),
    Hidden("fpn_weight_method", ("fusion",), lambda found: found.fusion_weights != UNWEIGHTED),
    Hidden("fpn_config", ("fpn_config", "fpn_name")),
    Hidden("survival_prob", ("survival_prob",), lambda found: (found.head_repeats or 0) > 1),
    Hidden("conv_after_downsample", ("conv_after_downsample",)),
    Hidden("backbone_config", ("backbone_config",)),
    Hidden("nms_configs", ("nms_configs",), _detects),
    Hidden("min_level", ("min_level", "max_level"), lambda found: not found.detects),
)


def known_official(source: VariableSource, found: DetectorArchitecture) -> OfficialFile | None:
    """Return the official file that a source is: by the name of the file or folder, its shapes and its content.

    A training checkpoint holds slots of its optimizer, named after its variables; an official one holds averages only.
    """
    names = source.variables
    slots = (name.rpartition("/") for name in names)
    if source.kind in UNPUBLISHED or any(last != AVERAGE and scope in names for scope, _, last in slots):
        return None
    path = source.path.absolute()
    stem = next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name)
    folder = "" if source.kind == "Keras .h5 file" else path.parent.name
    downloaded = str(source.facts.provenance.get("official", ""))
    # AdvProp's files have the names of others, in another folder.
    for name in (downloaded, f"{stem}-{folder}", stem, folder):
        with suppress(ConfigError):
            official = find_official(name) if name.lower().startswith(PREFIX) else None
            if official is not None and _has_shapes_of(official.config, found):
                return official
    return None


def _has_shapes_of(config: EfficientDetConfig | BackboneConfig, found: DetectorArchitecture) -> bool:
    if isinstance(config, BackboneConfig):
        return False
    heads = config.heads, config.num_classes, config.anchors_per_location
    return heads == (found.heads, found.num_classes, found.anchors_per_location) and found.matches(config)


def require_same_network(graph: GraphEvidence, source: VariableSource) -> None:
    """Check that a graph declares the variables of a source with their shapes.

    Raises:
        ConversionError: It is the graph of another network.
    """
    for name in graph.shapes.keys() & source.variables.keys():
        if graph.shapes[name] != (found := source.variables[name].shape):
            raise ConversionError(
                f"the {graph.origin} is that of another network: {name} has the shape {graph.shapes[name]} in it, and "
                f"{found} in {source.path}; move the graph's file away"
            )


def graph_fields(graph: GraphEvidence, levels: range) -> dict[str, Stated]:
    """Return the config fields that a graph shows.

    A graph shows that heads are residual, not their `survival_prob`: it is then 1, which drops nothing in training.

    Raises:
        ConfigError: The network of the graph is not supported.
    """
    hparams = dict(graph.hparams)
    if "survival_prob" in hparams:
        hparams["survival_prob"] = float(hparams["survival_prob"])
    shown = stated_fields({name: (graph.origin, value) for name, value in hparams.items()})
    known = {cell(levels): name for name, cell in CELLS.items()}
    if "fpn_config" in shown and (name := known.get(shown["fpn_config"].value)):
        shown |= {field: shown["fpn_config"]._replace(value=value) for field, value in _named(name).items()}
    return shown


def _named(name: str) -> dict[str, Any]:
    return {"fpn_name": name, "fpn_config": ()}


def with_graph(
    stated: Mapping[str, Stated], shown: Mapping[str, Stated], levels: range, option: str
) -> tuple[dict[str, Stated], list[str]]:
    """Return all fields that are stated or shown by a graph, and notes.

    Args:
        stated: what files and the user state.
        shown: see `graph_fields`; it counts for what nobody states, and confirms the rest.
        levels: of the pyramid.
        option: the origin of what the user states, who may choose other sizes and anchors than the graph has.

    Raises:
        ConversionError: The graph contradicts a statement.
    """
    stated, shown = _with_cell(stated), _with_cell(shown)
    result, notes = {**shown, **stated}, list[str]()
    for field in [field for field in shown if field in stated]:
        ours, graphs = stated[field], shown[field]
        if _comparable(field, stated, levels) == _comparable(field, shown, levels):
            result[field] = ours._replace(origin=graphs.origin)
            continue
        contradiction = (
            f"{ours.origin} sets {ours.name} to {ours.value!r}, but the {graphs.origin} has {graphs.value!r}"
        )
        if field not in FREE or ours.origin != option:
            raise ConversionError(f"{contradiction}; fix {ours.origin}")
        notes.append(f"{contradiction}: the former is used")
    return result, notes


def _with_cell(fields: Mapping[str, Stated]) -> dict[str, Stated]:
    """Return the fields with both halves of a pyramid's graph, if there is one of them."""
    for field, default in (("fpn_name", "bifpn"), ("fpn_config", ())):
        other = "fpn_config" if field == "fpn_name" else "fpn_name"
        if other in fields and field not in fields:
            return {**fields, field: fields[other]._replace(value=default)}
    return dict(fields)


def _comparable(field: str, fields: Mapping[str, Stated], levels: range) -> Any:
    """Return a field's value in a form that is the same for the same network."""
    value = fields[field].value
    if field in ("fpn_config", "fpn_name"):
        nodes, name = (fields[key].value if key in fields else None for key in ("fpn_config", "fpn_name"))
        return nodes or CELLS[name or "bifpn"](levels)
    return value > 0 if field == "survival_prob" else value


def origins_of_hidden(found: DetectorArchitecture, stated: Mapping[str, str], otherwise: str) -> dict[str, str]:
    """Return {field: origin} of everything that names and shapes do not show.

    Args:
        found: what they show.
        stated: {field: who states it}; `backbone_config` counts as one.
        otherwise: the origin of what nobody states.
    """
    origins = {}
    for hidden in HIDDEN:
        origin = next((stated[field] for field in hidden.fields if field in stated), otherwise)
        origins.update(dict.fromkeys(hidden.fields, origin if hidden.matters(found) else FROM_SHAPES))
    return origins


def assumptions(config: EfficientDetConfig, origins: Mapping[str, str]) -> dict[str, Any]:
    """Return {hyperparameter: value} of everything that is only assumed."""
    values: dict[str, Any] = hparams_of(config)
    hidden = [h for h in HIDDEN if any(origins.get(field) in (ASSUMED, ASSUMED_BEFORE) for field in h.fields)]
    return {h.name: values.get(h.name) for h in hidden}


def stated_only(hparams: Mapping[str, Any], assumed: Collection[str]) -> dict[str, Any]:
    """Return hyperparameters without those that are only assumed: read again, they would look like evidence."""
    fields = {field for hidden in HIDDEN if hidden.name in assumed for field in (*hidden.fields, hidden.name)}
    setting = [meaning for meaning in MEANINGS if meaning is not REPLACES_METHOD]
    unstated = {meaning.name for meaning in setting if (meaning.field or meaning.name) in fields}
    return {name: value for name, value in hparams.items() if name not in unstated}
