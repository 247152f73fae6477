"""The weights audit: every tensor of a converted file against the checkpoint, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.plan.expand import VARIANCE
from converter.source import VariableSource
from effdet_torch.file_format import sha256
from effdet_torch.values import ValueCheck
from verify.results.verification import AuditResult, TensorFinding, UnusableValues
from verify.subjects.weights import Weights


def audit_weights(weights: Weights, metadata: Mapping[str, Any]) -> AuditResult:
    """Compare every tensor with what the checkpoint gives.

    Args:
        weights: of the converted file.
        metadata: of the converted file; its recorded checksums are compared with the checkpoint's files.
    """
    found, targets = weights.found, weights.targets
    check = ValueCheck()
    for key, tensor in found.items():
        check.look(key, tensor, is_variance=key.endswith(VARIANCE))
    findings: list[TensorFinding] = [UnusableValues(*fault) for fault in check.found().items()]
    findings += [TensorFinding(key, "missing in the file") for key in targets if key not in found]
    findings += [TensorFinding(key, "not a tensor of this model") for key in found if key not in targets]
    for key in targets:
        if key in found:
            findings += [TensorFinding(key, text) for text in _audit_tensor(weights, key)]
    checksums = _compare_checksums(weights.preparation.source, metadata)
    return AuditResult(len(targets) - len(weights.counters), tuple(findings), checksums, len(weights.counters))


def _audit_tensor(weights: Weights, key: str) -> Iterator[str]:
    """Yield what is wrong with one tensor, in words."""
    entry, found = weights.targets[key], weights.found[key]
    if found.shape != entry.target_shape:
        yield f"shape {found.shape}; expected {entry.target_shape}"
        return
    if key.endswith(VARIANCE) and (found == 0).any():
        yield f"variance is zero at channel {int((found == 0).argmax())}"
    if different := weights.wrong.get(key):
        yield f"{different} of {found.size} values differ from {weights.stored(entry) or 'the constant of the table'}"


def _compare_checksums(source: VariableSource, metadata: Mapping[str, Any]) -> dict[str, str]:
    recorded = {file["name"]: file.get("sha256") for file in metadata.get("source", {}).get("files", ())}

    def verdict(path: Path) -> str:
        if recorded.get(path.name) is None:
            return "not recorded"
        return "equal" if recorded[path.name] == sha256(path) else "different"

    return {path.name: verdict(path) for path in source.files()}
