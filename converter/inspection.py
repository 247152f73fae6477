"""Describe a checkpoint without converting it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from converter.conversion import describe_files
from converter.errors import ConversionError, MissingFileError
from converter.hparams.fields import PACKAGE_SETTINGS
from converter.identify.families import family_of
from converter.plan.copies import View, ViewName, differing, is_untrained, stored_in, stored_names, unknown_copy
from converter.plan.engine import account
from converter.plan.expand import Plan
from converter.plan.family import Request
from converter.readers.absent_parts import with_initial_values
from converter.source import VariableSource
from effdet_torch.config import MODELS
from effdet_torch.errors import ConfigError
from effdet_torch.file_format import TRAINING

EXPORTED = (
    "the variables of a SavedModel, or of a checkpoint exported from one: the EMA slots are untrained and must not be "
    "used, the raw names hold the averages; use --weights raw"
)


def inspect_source(source: VariableSource) -> dict[str, Any]:
    """Return everything known about a source as plain values.

    A checkpoint that cannot be converted is described as far as possible; "problems" lists what prevents it.
    """
    facts: dict[str, Any] = {
        "path": str(source.path),
        "kind": source.kind,
        "files": describe_files(source.files(), checksums=False),
        "variables": len(source.variables),
        "checksums": source.facts.checksums or None,
        "unrecoverable": list(source.facts.unrecoverable),
        "training": source.facts.provenance.get(TRAINING),
        "dtypes": dict(Counter(info.dtype for info in source.variables.values())),
        "notes": list(source.facts.notes),
        "problems": [],
    }
    if source.facts.raw_reason:
        facts["notes"].append(f"raw values are the default: {source.facts.raw_reason}")
    try:
        family, found = family_of(source)
        facts |= {"architecture": found.describe(), "variants": found.variants(source)}
        settings = family.settle(found, Request(source))
        facts["variants"] = _not_contradicted(facts["variants"], source, settings.config)
    except (ConfigError, ConversionError) as error:
        return facts | {"problems": [str(error)]}
    plan = family.plan(settings.config, source)
    source = with_initial_values(source, plan)
    views = {"raw": _describe_copy(source, plan, "raw"), "ema": _describe_copy(source, plan, "ema")}
    facts["notes"] += settings.notes
    if not source.facts.raw_reason and [view["untrained"] for view in views.values()] == [False, True]:
        facts["notes"].append(EXPORTED)
    return facts | {
        "variant": settings.config.name,
        "config": settings.config.to_dict(),
        "config_origins": dict(settings.origins),
        "assumed": dict(settings.assumed),
        "untrained": list(source.facts.untrained),
        "parameters": plan.parameters,
        "step": _training_step(source, plan),
        "views": views,
        "differing_variables": differing(source, plan),
        **_contents(source, plan),
    }


def _not_contradicted(variants: list[str], source: VariableSource, config: Any) -> list[str]:
    """Return the variants that have what the source states of the settings of the `effdet` package."""
    stated = [name for name in PACKAGE_SETTINGS if any(name in hparams for _, hparams in source.facts.given)]
    return [name for name in variants if all(getattr(MODELS[name], s) == getattr(config, s) for s in stated)]


def _describe_copy(source: VariableSource, plan: Plan, view: ViewName) -> dict[str, Any]:
    stored = source.variables.keys() - source.initial
    present = sum(name in stored for name in stored_in(source, plan, view).values())
    return {"variables": present, "of": len(plan.variables), "untrained": is_untrained(source, plan, view)}


def _contents(source: VariableSource, plan: Plan) -> dict[str, Any]:
    """Describe the purpose of every stored variable."""
    raw, ema = stored_names(plan, "raw"), stored_names(plan, "ema")
    view = View("raw", "", raw, dict.fromkeys(ema.values(), "ema"))
    if not any(name in source.variables for name in raw.values()):
        view = View("ema", "", ema, {})
    accounting = account(source.variables, plan, view)
    unknown = filter(None, [unknown_copy(source, plan)])
    return {"ignored": dict(Counter(accounting.ignored.values())), "problems": [*unknown, *accounting.problems]}


def _training_step(source: VariableSource, plan: Plan) -> int | None:
    name = plan.table.training_step
    try:
        return int(source.read(name)) if name in source.variables else None
    except MissingFileError:
        return None


def tensor_rows(source: VariableSource) -> list[Mapping[str, Any]]:
    """Return name, dtype and shape of every stored variable, sorted by name."""
    return [
        {"name": name, "dtype": info.dtype, "shape": list(info.shape)}
        for name, info in sorted(source.variables.items())
    ]
