"""All sections of a report for people, in their order: terminal, Markdown and HTML only render them."""

from __future__ import annotations

from collections.abc import Iterator

from verify.report.content.detections.checks import evaluation
from verify.report.content.detections.comparison import other_model
from verify.report.content.detections.details import model_details
from verify.report.content.layer_sections import (
    all_layers,
    diagnoses,
    failed_layers,
    file_audit,
    outputs_per_level,
    own_graph,
    runs_and_plot,
)
from verify.report.content.section import Section
from verify.report.content.verdict import verdict_section
from verify.results.verification import Verification


def sections(verification: Verification) -> list[Section]:
    """Return the verdict, followed by the sections that have something to show."""
    builders = (
        verdict_section,
        diagnoses,
        failed_layers,
        runs_and_plot,
        outputs_per_level,
        own_graph,
        evaluation,
        model_details,
        other_model,
        file_audit,
        all_layers,
        _provenance,
    )
    return [section for build in builders for section in build(verification)]


def _provenance(verification: Verification) -> Iterator[Section]:
    """Yield where model and reference come from, the settings and the versions."""
    detection = verification.detection
    comparison = None if detection is None else detection.comparison
    facts = {
        "Converted model": verification.model,
        "Other model": {} if comparison is None else comparison.model,
        "Reference": verification.reference,
        "Settings": verification.settings,
        "Versions": verification.versions,
        "Checksums of the source files": {} if verification.audit is None else verification.audit.checksums,
    }
    yield Section("Provenance", facts={title: values for title, values in facts.items() if values}, detailed=True)
