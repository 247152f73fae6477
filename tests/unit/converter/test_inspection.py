"""What is told of a checkpoint that nobody asked to convert, whole or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converter.inspection import inspect_source, tensor_rows
from support.sources import (
    EMA,
    Array,
    MemorySource,
    averages,
    initial,
    placeholders,
    plan_of,
    seeded,
    small_config,
    training_checkpoint,
)


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Array]:
    return training_checkpoint(plan_of(small_config()))


def test_tells_everything_of_a_training_checkpoint(checkpoint: dict[str, Array]) -> None:
    facts = inspect_source(MemorySource(checkpoint))
    count = len(plan_of(small_config()).variables)
    assert facts["kind"] == "memory"
    assert facts["path"] == str(Path("folder/model"))
    assert facts["variables"] == 3 * count + 1
    assert facts["dtypes"] == {"float32": 3 * count, "int64": 1}
    assert facts["variants"] == []
    assert facts["variant"] == "d0"
    assert facts["config"] == small_config().to_dict()
    assert facts["config_origins"]["fpn_channels"] == "names and shapes"
    assert facts["step"] == 780
    assert facts["views"] == {v: {"variables": count, "of": count, "untrained": False} for v in ("raw", "ema")}
    assert facts["differing_variables"] == count
    assert facts["ignored"] == {"optimizer slot: momentum": count, "training step counter": 1}
    assert facts["problems"] == []
    assert facts["parameters"] == sum(a.size for name, a in checkpoint.items() if name.endswith(EMA))
    assert len(facts["notes"]) == 1
    assert json.loads(json.dumps(facts)) == facts


def test_an_index_alone_is_described_as_far_as_it_goes(checkpoint: dict[str, Array]) -> None:
    facts = inspect_source(MemorySource(checkpoint, data=False))
    assert facts["step"] is None
    assert facts["differing_variables"] is None
    assert [view["untrained"] for view in facts["views"].values()] == [None, None]
    assert facts["problems"] == []


def test_files_are_listed_with_their_sizes(tmp_path: Path, checkpoint: dict[str, Array]) -> None:
    (tmp_path / "model.index").write_bytes(b"12345")
    source = MemorySource(checkpoint)
    source.on_disk = (tmp_path / "model.index",)
    assert inspect_source(source)["files"] == [{"name": "model.index", "size_bytes": 5}]


def test_a_checkpoint_without_averages_or_step() -> None:
    plan = plan_of(small_config())
    facts = inspect_source(MemorySource(seeded(plan)))
    assert facts["views"]["ema"] == {"variables": 0, "of": len(plan.variables), "untrained": None}
    assert facts["differing_variables"] is None
    assert facts["step"] is None
    assert facts["problems"] == []


def test_averages_alone_are_no_problem() -> None:
    facts = inspect_source(MemorySource(averages(seeded(plan_of(small_config())))))
    assert facts["problems"] == []
    assert facts["views"]["raw"]["variables"] == 0


def test_untrained_averages_are_told() -> None:
    plan = plan_of(small_config())
    facts = inspect_source(MemorySource({**seeded(plan), **averages(initial(plan))}))
    assert facts["views"]["ema"]["untrained"] is True
    assert facts["views"]["raw"]["untrained"] is False


def test_the_variants_of_ambiguous_shapes_are_all_told() -> None:
    facts = inspect_source(MemorySource(placeholders(plan_of("d7")), data=False))
    assert facts["variants"] == ["d6", "d7"]
    assert facts["variant"] == "d6"
    assert "pass --variant" in facts["notes"][0]


def test_what_is_missing_is_told_and_the_rest_described(checkpoint: dict[str, Array]) -> None:
    name = "box_net/box-0/bias"
    arrays = {key: array for key, array in checkpoint.items() if key != name} | {"stranger": np.zeros(1, np.float32)}
    facts = inspect_source(MemorySource(arrays))
    assert facts["problems"] == [f"missing: {name}", "unexpected: stranger"]
    assert facts["variant"] == "d0"


@pytest.mark.parametrize("arrays", [{}, {"resnet/kernel": np.zeros((1, 2), np.float32)}])
def test_another_network_is_described_by_its_problem(arrays: dict[str, Array]) -> None:
    facts = inspect_source(MemorySource(arrays))
    assert facts["variables"] == len(arrays)
    assert len(facts["problems"]) == 1
    assert "which is not supported. Supported are" in facts["problems"][0]
    assert "architecture" not in facts
    assert "config" not in facts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_classes: 20", "sets num_classes to 20"),
        ("a: [", "is not plain YAML"),
        ("separable_conv: false", "which is unsupported"),
    ],
)
def test_a_config_that_does_not_fit_is_a_problem_not_the_end(
    tmp_path: Path, checkpoint: dict[str, Array], text: str, words: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    facts = inspect_source(MemorySource(checkpoint, str(tmp_path / "model")))
    assert words in facts["problems"][0]
    assert facts["architecture"].startswith("efficientnet-b0, BiFPN 1 x 8 channels")
    assert "config" not in facts


def test_tensor_rows_are_sorted_by_name() -> None:
    arrays: dict[str, Array] = {
        "b": np.zeros((1, 2), np.float32),
        "a": np.array(1, np.int64),
        "c": np.array(b"text", object),
    }
    assert tensor_rows(MemorySource(arrays)) == [
        {"name": "a", "dtype": "int64", "shape": []},
        {"name": "b", "dtype": "float32", "shape": [1, 2]},
        {"name": "c", "dtype": "string", "shape": []},
    ]
