"""What is reported about checkpoints that cannot be converted; test_report.py checks the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter.inspection import inspect_source
from support.sources import MemorySource, plan_of, seeded, small_config

CHECKPOINT = seeded(plan_of(small_config()))


def test_missing_and_unexpected_variables_are_problems() -> None:
    name = "box_net/box-0/bias"
    arrays = {key: array for key, array in CHECKPOINT.items() if key != name} | {"stranger": np.zeros(1, np.float32)}
    facts = inspect_source(MemorySource(arrays))
    assert facts["problems"] == [f"missing: {name}", "unexpected: stranger"]
    assert facts["variant"] == "d0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_classes: 20", "sets num_classes to 20"),
        ("a: [", "is not plain YAML"),
        ("separable_conv: false", "which is unsupported"),
    ],
)
def test_a_config_that_does_not_fit_is_a_problem(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    facts = inspect_source(MemorySource(CHECKPOINT, str(tmp_path / "model")))
    assert words in facts["problems"][0]
    assert facts["architecture"].startswith("efficientnet-b0, BiFPN 1 x 8 channels")
    assert "config" not in facts
