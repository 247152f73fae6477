"""Checkpoints with a segmentation head, from the official configurations beside the project."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

from support.official_cases import drawn
from support.sources import write_checkpoint


def write_masks(shared: Path, folder: Path, seeded: ModuleType) -> None:
    """Write a checkpoint that only segments, as the official demo saves it: one copy, and no `config.yaml`."""
    sources = shared / "reference" / "sources"
    folder.mkdir()
    write_checkpoint(
        folder / "model", drawn(sources, seeded, sources / "cases" / "heads_seg_only" / "variables.tsv", "raw")
    )


def write_both(shared: Path, folder: Path, seeded: ModuleType) -> None:
    """Write a checkpoint that detects and segments, with its `config.yaml`."""
    sources = shared / "reference" / "sources"
    case = sources / "cases" / "heads_both"
    folder.mkdir()
    write_checkpoint(folder / "model", drawn(sources, seeded, case / "variables.tsv", "raw"))
    shutil.copy(case / "config.yaml", folder)
