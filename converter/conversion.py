"""The whole conversion: a checkpoint on disk -> a PyTorch file, with a report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from converter.errors import UnsupportedSourceError
from converter.identify.families import family_of
from converter.plan.copies import View, ViewName, is_untrained, select_view
from converter.plan.engine import Accounting, account
from converter.plan.expand import Plan
from converter.plan.family import Family, Request, Settings
from converter.readers.absent_parts import with_initial_values
from converter.readers.checked_values import CheckedSource
from converter.source import VariableSource
from converter.writers.targets import Target, choose_target, require_bare
from effdet_torch import __version__
from effdet_torch.errors import UsageError
from effdet_torch.file_format import FORMAT_VERSION, UNTRAINED, WHOLE_NETWORK, sha256
from effdet_torch.untrusted.files import MAX_MODEL_BYTES, require_regular

if TYPE_CHECKING:
    from effdet_torch.terminal.bar import Progress

LOG = logging.getLogger("effdet")
UNUSABLE = "unusable_values"  # metadata: {stored name: what is wrong}, where --allow-nonfinite was needed


@dataclass(frozen=True)
class Preparation:
    """Everything that is known before a weight is read; `verify` starts from here as well."""

    source: VariableSource
    family: Family
    settings: Settings
    plan: Plan
    view: View
    accounting: Accounting

    @property
    def parameters(self) -> int:
        """Values that training changes by gradients, redundant biases included."""
        return self.plan.parameters

    def for_target(self, target: Target, bare: bool = False) -> Preparation:
        """Return the preparation for a target.

        TensorFlow's formats store every variable, and so do the models of the `effdet` package that have the official
        weights (tf_efficientdet_d0, ...): nothing is folded for them.

        Raises:
            UsageError: The target cannot hold a network of this family.
        """
        reason = self.family.not_tensorflow(self.settings.config)
        if not target.is_tensorflow:
            return self._keeping_biases() if bare and not reason else self
        if reason:
            name = self.settings.config.name
            raise UsageError(f"{name} cannot be written as {target.name}: {reason}; write a .pth or .safetensors file")
        return self._keeping_biases()

    def _keeping_biases(self) -> Preparation:
        if self.settings.config.redundant_bias:
            return self
        settings = self.settings.keeping_biases()
        return replace(self, settings=settings, plan=self.family.plan(settings.config, self.source))


def prepare(
    source: VariableSource,
    variant: str | None = None,
    weights: ViewName | None = None,
    hparams: str | Mapping[str, Any] | None = None,
    keep_redundant_bias: bool = False,
) -> Preparation:
    """Recognise a source, settle the config, expand the table, choose the view and account for every variable.

    Args:
        source: an open checkpoint.
        variant: check that the checkpoint is this one.
        weights: "ema" or "raw"; None takes EMA where there is one.
        hparams: hyperparameters in the official syntax, or a YAML file of them, or names and values.
        keep_redundant_bias: keep the biases in front of batch norms.

    Raises:
        ConversionError: The source is not a complete network of a known family, or contradicts an option.
        ConfigError: A variant or hyperparameter does not exist.
    """
    family, architecture = family_of(source)
    settings = family.settle(architecture, Request(source, variant, hparams, keep_redundant_bias))
    plan = family.plan(settings.config, source)
    source = with_initial_values(source, plan)
    view = select_view(source, plan, weights)
    accounting = account(source.variables, plan, view)
    accounting.require_complete(f"{source.path} is not a complete {settings.config.name}")
    LOG.info("recognised %s; every variable is accounted for", settings.config.name)
    return Preparation(source, family, settings, plan, view, accounting)


class Written(NamedTuple):
    """What was written: the metadata that went into it, and its size, of all files together."""

    metadata: dict[str, Any]
    size_bytes: int


def convert_checkpoint(
    preparation: Preparation,
    out: Path,
    progress: Progress | None = None,
    target: Target | None = None,
    bare: bool = False,
    allow_nonfinite: bool = False,
) -> dict[str, Any]:
    """Write the converted model, and return the metadata that went into it; see `converting` for the errors."""
    with converting(preparation, out, progress, target, bare, allow_nonfinite) as written:
        return written.metadata


@contextmanager
def converting(
    preparation: Preparation,
    out: Path,
    progress: Progress | None = None,
    target: Target | None = None,
    bare: bool = False,
    allow_nonfinite: bool = False,
) -> Iterator[Written]:
    """Write the converted model, yield what was written, and move it into place if the block succeeds.

    Args:
        preparation: from `prepare`; it is adapted to the target.
        out: a file, or a folder; an existing one is replaced only if everything succeeds.
        progress: called after every tensor.
        target: what to write; None: chosen by the suffix of `out`.
        bare: write the tensors only, without metadata, as the `effdet` package publishes them.
        allow_nonfinite: write values that no network can use as they are; the metadata then list them.

    Raises:
        UsageError: The suffix is unknown, the folder does not exist, or the target cannot hold this network or layout.
        UnusableValuesError: Values are not finite, variances are negative, or all kernels are zero.
        ConversionError: A variable is damaged, or the output cannot be written.
    """
    target = target or choose_target(out)
    if bare:
        require_bare(target)
        tuple(preparation.family.package_notes(preparation.settings.config))  # refuses what the package cannot build
    preparation = preparation.for_target(target, bare)
    metadata = build_metadata(preparation)
    plan, view = preparation.plan, preparation.view
    checked = CheckedSource(preparation.source, plan, view)
    if allow_nonfinite and (faults := checked.faults()):  # before the metadata are written, thus in a pass of its own
        metadata[UNUSABLE] = faults
    stored = None if bare else metadata
    with target.converting(checked, plan, view, out, stored, progress) as size_bytes:
        if not allow_nonfinite:
            checked.require_usable()
        LOG.info("converted %d tensors", len(target.specs(plan)))
        yield Written(metadata, size_bytes)
    LOG.info("wrote %s", out)


def build_metadata(preparation: Preparation, checksums: bool = True) -> dict[str, Any]:
    """Return the metadata of the converted file: plain values, the same on every run with the same input."""
    settings, plan, view = preparation.settings, preparation.plan, preparation.view
    source = preparation.source
    untrained = [WHOLE_NETWORK] if is_untrained(source, plan, view.name) else list(source.facts.untrained)
    return {
        "format_version": FORMAT_VERSION,
        "tool": {"name": "effdet-convert", "version": __version__},
        "table": {"name": plan.table.name, "version": plan.table.version, "sha256": plan.table.sha256},
        "variant": settings.config.name,
        "config": settings.config.to_dict(),
        "config_origins": dict(settings.origins),
        "assumed": dict(settings.assumed),
        "source": {
            "kind": source.kind,
            "name": source.path.absolute().name,
            "files": describe_files(source.files(), checksums),
            **source.facts.provenance,
        },
        "view": {"name": view.name, "reason": view.reason},
        "redundant_bias": "kept" if settings.config.redundant_bias else "folded",
        **({UNTRAINED: untrained} if untrained else {}),
    }


def describe_files(files: Iterable[Path], checksums: bool) -> list[dict[str, Any]]:
    """Return name, size and, if wanted, SHA-256 of files.

    Raises:
        UnsupportedSourceError: A file is larger than any checkpoint; a sparse one takes no space.
    """
    described = list[dict[str, Any]]()
    for path in files:
        try:
            size = require_regular(path, MAX_MODEL_BYTES)
        except OSError as error:
            raise UnsupportedSourceError(f"{path} cannot be read: {error.strerror}. Copy it again.") from error
        described.append({"name": path.name, "size_bytes": size, **({"sha256": sha256(path)} if checksums else {})})
    return described
