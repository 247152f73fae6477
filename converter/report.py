"""Reports of the conversion and of the inspection: plain values for machines, text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.conversion import UNUSABLE, Preparation, Written, build_metadata
from converter.hparams.fields import PACKAGE_SETTINGS
from converter.plan.copies import is_untrained
from converter.writers.targets import TARGETS, Target
from effdet_torch.checks import DETECTION, SEGMENTATION
from effdet_torch.config import MODELS, BackboneConfig
from effdet_torch.errors import listed
from effdet_torch.file_format import UNTRAINED, assumptions, assumptions_briefly, trained, untrained
from effdet_torch.untrusted.text import printable
from effdet_torch.values import described

if TYPE_CHECKING:
    from converter.identify.official import OfficialFile
    from converter.plan.expand import Plan

Facts = Mapping[str, Any]
UNTRAINED_NETWORK = "UNTRAINED: every batch norm holds its initial values"
USUAL_SCALING = "as for ImageNet"  # in a list, whose lines have 80 columns
HANGING = 13  # columns before the text of a line
SCALINGS: Mapping[str, str] = {
    "mean_std": "",
    "scale_range": ", input ((x - mean) / std) * 2 / 255 - 1",
    "advprop": ", input x * 2 / 255 - 1 (AdvProp)",
}
RESIZED: Mapping[str, str] = {"half_pixel": "", "legacy": ", resized as in TensorFlow 1"}
# What the tensors of a PyTorch file are made for: one of TensorFlow's variables, several, none.
ORIGINS: Mapping[str, str] = {
    "single": "{tensors} for one variable each",
    "stacked": "{tensors} for {variables} stacked variables",
    "added": "{tensors} counters of batch norms, which TensorFlow does not have",
}


def conversion_report(
    preparation: Preparation,
    written: Written | None,
    out: Path | None,
    target: Target | None = None,
    bare: bool = False,
) -> dict[str, Any]:
    """Return what was done, or what would be done in a dry run (nothing `written`).

    `accounting` lists every stored name under what happens to it; its counts add up to the variables of the source.
    `initial` are the names beside them that nothing stores.
    `origins` counts the tensors of a PyTorch file by the variables that they are made for: the counts add up to
    `tensors`, and with the folded biases to all variables of the network. It is empty for TensorFlow's formats.
    """
    target, metadata = target or TARGETS["pth"], None if written is None else written.metadata
    preparation = preparation.for_target(target)
    accounting, plan, initial = preparation.accounting, preparation.plan, preparation.source.initial
    folded = [name for entry in plan.entries if entry.target is None for name in entry.sources]
    return {
        "ok": True,
        "dry_run": written is None,
        "to": target.name,
        "out": None if out is None or written is None else {"path": str(out), "size_bytes": written.size_bytes},
        **(metadata or build_metadata(preparation, checksums=False)),
        "notes": [*_notes(preparation, target, bare), *_accepted(metadata or {})],
        "tensors": len(target.specs(plan)),
        "origins": {} if target.is_tensorflow else _origins(plan),
        "parameters": preparation.parameters,
        "accounting": {
            "variables": len(preparation.source.variables) - len(initial),
            "consumed": [name for name in accounting.consumed if name not in initial],
            "initial": list(initial),
            "other_view": [name for name in accounting.other_view if name not in initial],
            "ignored": dict(accounting.ignored),
            "folded": [] if preparation.source.facts.is_folded else folded,
        },
    }


def _origins(plan: Plan) -> dict[str, dict[str, int]]:
    found = {origin: {"tensors": 0, "variables": 0} for origin in ORIGINS}
    for entry in plan.targets.values():
        counts = found[{0: "added", 1: "single"}.get(len(entry.sources), "stacked")]
        counts["tensors"] += 1
        counts["variables"] += len(entry.sources)
    return found


def _notes(preparation: Preparation, target: Target, bare: bool) -> Iterator[str]:
    """Yield what the user should know about the source, the settings and the output."""
    source, settings = preparation.source, preparation.settings
    if is_untrained(source, preparation.plan, preparation.view.name):
        yield UNTRAINED_NETWORK
    elif text := untrained({UNTRAINED: list(source.facts.untrained)}):
        yield text
    yield from source.facts.notes
    yield from settings.notes
    if source.facts.is_folded and settings.config.redundant_bias:
        yield "the biases in front of batch norms were folded in the source already: they are written as zeros"
    if target.name == "tf1" and preparation.view.name == "raw":
        yield "raw values are also written under the names of the averages, which official evaluation reads"
    if bare:
        yield from preparation.family.package_notes(settings.config)


def _accepted(metadata: Facts) -> Iterator[str]:
    if faults := metadata.get(UNUSABLE):
        yield f"accepted by --allow-nonfinite: {described(faults)}"


def conversion_text(report: Facts) -> str:
    """Return a conversion report as lines for a terminal."""
    source, accounting = report["source"], report["accounting"]
    folded = f" ({len(accounting['folded'])} biases folded into batch norms)" if accounting["folded"] else ""
    variables = [
        f"{accounting['variables']}: {len(accounting['consumed'])} converted{folded}",
        *([f"{len(accounting['initial'])} not stored, with initial values"] if accounting["initial"] else []),
        f"{len(accounting['other_view'])} other copies",
        *(f"{count} ignored ({reason})" for reason, count in Counter(accounting["ignored"].values()).items()),
    ]
    lines = [("source", f"{source['name']} ({source['kind']})")]
    if "url" in source:
        lines.append(("download", " ".join(filter(None, (source.get("official"), source["url"])))))
    lines += [
        ("model", _model_text(report["variant"], report["config"], report["parameters"])),
        ("weights", f"{report['view']['name']}: {report['view']['reason']}"),
        ("variables", ", ".join(variables)),
    ]
    if origins := report["origins"]:
        parts = [ORIGINS[origin].format_map(counts) for origin, counts in origins.items() if counts["tensors"]]
        lines.append(("tensors", f"{report['tensors']}: {', '.join(parts)}"))
    lines += [*_assumed(report, assumptions_briefly), *(("note", note) for note in report["notes"])]
    written = f"{report['tensors']} {'variables' if TARGETS[report['to']].is_tensorflow else 'tensors'}"
    if report["dry_run"]:
        lines.append(("result", f"complete: {written} would be written (dry run)"))
    else:
        lines.append(("result", f"{report['out']['path']}: {written}, {report['out']['size_bytes'] / 1e6:.1f} MB"))
    return _table(lines)


def inspection_text(facts: Facts) -> str:
    """Return an inspection as lines for a terminal."""
    lines = [
        ("source", f"{facts['path']} ({facts['kind']})"),
        ("files", ", ".join(f"{file['name']} ({file['size_bytes'] / 1e6:.1f} MB)" for file in facts["files"])),
        ("variables", f"{facts['variables']} ({', '.join(f'{n} {dtype}' for dtype, n in facts['dtypes'].items())})"),
    ]
    lines.append(("checksums", facts["checksums"] or "none: damaged values cannot be noticed"))
    if training := trained(facts["training"]):
        lines.append(("training", training))
    if "architecture" in facts:
        lines.append(("network", facts["architecture"]))
    if "architecture" in facts and facts["variants"] != [facts.get("variant")]:
        lines.append(("variants", " or ".join(facts["variants"]) or "none of the official detectors"))
    if "config" in facts:
        lines.append(("model", _model_text(facts["variant"], facts["config"], facts["parameters"])))
        if names := [name for _, name in facts["config"].get("label_map", ())]:
            lines.append(("classes", f"{len(names)} with a name: {listed(names)}"))
        lines += _copies(facts)
        lines += [("step", str(facts["step"]))] if facts["step"] is not None else []
        lines += [("ignored", f"{count} x {reason}") for reason, count in facts["ignored"].items()]
    if lost := facts["unrecoverable"]:
        lines.append(("lost", f"cannot be recovered: {', '.join(lost)}"))
    if text := untrained(facts):
        lines.append(("untrained", text))
    lines += [*_assumed(facts, assumptions), *(("note", note) for note in facts["notes"])]
    lines += [("problem", problem) for problem in facts["problems"]]
    return _table(lines)


def tensors_text(rows: Iterable[Facts]) -> str:
    """Return one line per stored variable: name, dtype, shape, separated by tabs."""
    return "\n".join(f"{printable(row['name'])}\t{row['dtype']}\t{tuple(row['shape'])}" for row in rows)


def official_text(files: Iterable[OfficialFile]) -> str:
    """Return one line per official file: name, image size, published AP, input scaling; and what that of most means.

    A classifier, of which the backbone is converted, has its name alone.
    """
    files = list(files)
    usual = Counter(file.input_scaling for file in files if file.input_scaling).most_common(1)[0][0]
    rows = [
        (
            file.short_name,
            "backbone" if isinstance(file.config, BackboneConfig) else "{1} x {0}".format(*file.config.image_size),
            "" if file.ap is None else f"{file.ap:.1f}",
            USUAL_SCALING if file.input_scaling == usual else file.input_scaling,
        )
        for file in files
    ]
    rows.insert(0, ("name", "image (px)", "AP val2017", "input"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join((*lines, f"{USUAL_SCALING}: {usual}"))


def _assumed(facts: Facts, in_words: Callable[[Facts], str | None]) -> list[tuple[str, str]]:
    text = in_words(facts) if "assumed" in facts else None
    return [] if text is None else [("assumed", text)]


def _model_text(variant: str, config: Facts, parameters: int) -> str:
    if "image_size" not in config:
        return f"{variant}, a backbone without a detector, {parameters / 1e6:.2f} M parameters"
    height, width = config["image_size"]
    anchors = config["num_scales"] * len(config["aspect_ratios"])
    of_heads = {
        DETECTION: f"{config['num_classes']} classes, {anchors} anchors per location",
        SEGMENTATION: f"{config['seg_num_classes']} classes of pixels",
    }
    classes = ", ".join(of_heads[head] for head in config["heads"])
    scaling = SCALINGS[config["normalization"]]
    taps = " ".join(f"{stage}.{block}" for stage, block in config["taps"])
    fed = f", the BiFPN fed by the blocks {taps}" if taps else ""
    own = [name for name in PACKAGE_SETTINGS if config[name] != getattr(MODELS[variant], name)]
    parts = [
        f"{variant}, {classes}, {width} x {height} pixels{scaling}{RESIZED[config['resize']]}{fed}",
        *(f"{name} {config[name]}" for name in own),
        f"{parameters / 1e6:.2f} M parameters",
    ]
    return ", ".join(parts)


def _copies(facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield which copies there are, and whether two differ."""
    stored = {name: view for name, view in facts["views"].items() if view["variables"]}
    for name, view in stored.items():
        yield name, _view_text(view) + ("" if len(stored) > 1 else ", the only copy")
    if len(stored) > 1:
        yield "raw and ema", _difference_text(facts)


def _view_text(view: Facts) -> str:
    if view["variables"] != view["of"]:
        return f"{view['variables']} of {view['of']} variables"
    state = {True: f", {UNTRAINED_NETWORK}", False: "", None: ", data not available"}
    return "complete" + state[view["untrained"]]


def _difference_text(facts: Facts) -> str:
    views, count = facts["views"].values(), facts["differing_variables"]
    if any(view["variables"] != view["of"] for view in views):
        return "not compared, one copy is incomplete"
    return (
        "not compared, data not available" if count is None else f"differ in {count} of {facts['views']['raw']['of']}"
    )


def _table(lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<{HANGING - 1}} {printable(text)}" for name, text in lines)
