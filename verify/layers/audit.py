"""The weights audit: every tensor of a converted file against the checkpoint, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.conversion import sha256
from converter.plan.copies import View
from converter.plan.engine import derive
from converter.plan.expand import Entry, Plan
from converter.plan.ops import Array
from converter.source import VariableSource
from verify.results import AuditResult, TensorFinding


def audit_weights(
    state_dict: Mapping[str, Array], plan: Plan, source: VariableSource, view: View, metadata: Mapping[str, Any]
) -> AuditResult:
    """Derive every tensor again and compare.

    Where the table's operation has an exact inverse, the tensor is turned back and compared with the stored variable; a
    folded mean, whose inverse is not unique, is derived once more in float32.

    Args:
        state_dict: tensors of the converted file.
        plan: how they were made.
        source: the checkpoint.
        view: which copy they were made from.
        metadata: of the converted file; its recorded checksums are compared with the checkpoint's files.
    """
    findings = [TensorFinding(key, "missing in the file") for key in plan.targets if key not in state_dict]
    findings += [TensorFinding(key, "not a tensor of this model") for key in state_dict if key not in plan.targets]
    for key, entry in plan.targets.items():
        if key in state_dict:
            findings += [TensorFinding(key, text) for text in audit_tensor(entry, state_dict[key], source, view)]
    return AuditResult(len(plan.targets), tuple(findings), _compare_checksums(source, metadata))


def audit_tensor(entry: Entry, found: Array, source: VariableSource, view: View) -> Iterator[str]:
    """Yield what is wrong with one tensor of a converted file, in words."""
    if found.shape != entry.target_shape:
        yield f"shape {found.shape}; expected {entry.target_shape}"
        return
    if not np.isfinite(found).all():
        yield f"{int(np.sum(~np.isfinite(found)))} of {found.size} values are not finite"
    if entry.target is not None and entry.target.endswith("running_var") and (found <= 0).any():
        yield f"variance is not positive: {float(found.min())} at channel {int(found.argmin())}"
    if not entry.sources:
        return  # a constant: no variable to compare with
    if entry.folds is not None:
        expected = [derive(entry, source, view)]
        pairs = zip([found], expected, strict=True)
    else:
        stored = [source.read(view.stored[name]).astype(np.float32, copy=False) for name in entry.sources]
        pairs = zip(entry.op.revert(found, [entry.shape] * len(entry.sources)), stored, strict=True)
    different = sum(_different_values(one, other) for one, other in pairs)
    if different:
        yield f"{different} of {found.size} values differ from {', '.join(view.stored[name] for name in entry.inputs)}"


def _different_values(found: Array, expected: Array) -> int:
    """Return how many values differ in their bits, so that 0.0 is not -0.0 and NaN can be equal."""
    if found.dtype != expected.dtype:
        return int(expected.size)
    bits = f"u{expected.dtype.itemsize}"
    one, other = (np.ascontiguousarray(array).reshape(-1).view(bits) for array in (found, expected))
    return int(np.count_nonzero(one != other))


def _compare_checksums(source: VariableSource, metadata: Mapping[str, Any]) -> dict[str, str]:
    recorded = {file["name"]: file.get("sha256") for file in metadata.get("source", {}).get("files", ())}

    def verdict(path: Path) -> str:
        if recorded.get(path.name) is None:
            return "not recorded"
        return "equal" if recorded[path.name] == sha256(path) else "different"

    return {path.name: verdict(path) for path in source.files()}
