"""Say what a checkpoint is, without converting it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from converter.errors import ConversionError, MissingFileError
from converter.identify.families import family_of
from converter.plan.copies import View, differing, is_untrained, stored_in, stored_names
from converter.plan.engine import account
from converter.plan.expand import Plan
from converter.plan.family import Request
from converter.source import VariableSource
from effdet_torch.errors import ConfigError

EXPORTED = (
    "the variables of a SavedModel, or of a checkpoint exported from one: the EMA slots are untrained and must not be "
    "used, the raw names hold the averages; use --weights raw"
)


def inspect_source(source: VariableSource) -> dict[str, Any]:
    """Return all that can be told of a source as plain values.

    A checkpoint that cannot be converted is described as far as possible; "problems" says what stands in the way.
    """
    facts: dict[str, Any] = {
        "path": str(source.path),
        "kind": source.kind,
        "files": [{"name": path.name, "size_bytes": path.stat().st_size} for path in source.files()],
        "variables": len(source.variables),
        "dtypes": dict(Counter(info.dtype for info in source.variables.values())),
        "notes": _source_notes(source),
        "problems": [],
    }
    try:
        family, found = family_of(source)
        facts |= {"architecture": found.describe(), "variants": found.variants()}
        settings = family.settle(found, Request(source))
    except (ConfigError, ConversionError) as error:
        return facts | {"problems": [str(error)]}
    plan = family.plan(settings.config)
    facts |= {
        "variant": settings.config.name,
        "config": settings.config.to_dict(),
        "config_origins": dict(settings.origins),
        "notes": [*facts["notes"], *settings.notes],
        "parameters": sum(math.prod(shape) for shape in plan.variables.values()),
        "step": _training_step(source, plan),
        **_copies(source, plan),
        **_contents(source, plan),
    }
    if not source.raw_reason and [view["untrained"] for view in facts["views"].values()] == [False, True]:
        facts["notes"].append(EXPORTED)
    return facts


def _source_notes(source: VariableSource) -> list[str]:
    """Say what the kind of the source means for its copies."""
    default = [f"raw unless asked otherwise: {source.raw_reason}"] if source.raw_reason else []
    return [*source.notes, *default]


def _copies(source: VariableSource, plan: Plan) -> dict[str, Any]:
    """Describe the views: how many variables each has, whether it was trained, whether they differ."""
    views = {}
    for name in ("raw", "ema"):
        present = sum(stored in source.variables for stored in stored_in(source, plan, name).values())
        views[name] = {"variables": present, "of": len(plan.variables), "untrained": is_untrained(source, plan, name)}
    return {"views": views, "differing_variables": differing(source, plan)}


def _contents(source: VariableSource, plan: Plan) -> dict[str, Any]:
    """Describe what every stored variable is for."""
    raw, ema = stored_names(plan, "raw"), stored_names(plan, "ema")
    view = View("raw", "", raw, dict.fromkeys(ema.values(), "ema"))
    if not any(name in source.variables for name in raw.values()):
        view = View("ema", "", ema, {})
    accounting = account(source.variables, plan, view)
    return {"ignored": dict(Counter(accounting.ignored.values())), "problems": accounting.problems}


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
