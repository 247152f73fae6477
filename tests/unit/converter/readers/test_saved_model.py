"""SavedModels of TF1 and TF2: their names, their copies, and what an index alone tells of untrained slots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter.conversion import prepare
from converter.errors import ViewError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.copies import View, differing, is_untrained, select_view, stored_names
from converter.plan.engine import account
from converter.readers.tensorflow.object_graph import read_names
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle
from converter.source import VariableInfo
from converter.writers.specs import TensorSpec
from converter.writers.tensorbundle import write_tensorbundle
from support.sources import Array, averages, initial, plan_of, seeded, small_config
from support.tiny_protos import ObjectGraph

PLAN = plan_of(small_config())
HEAD = {
    "_conv_head/kernel": "conv2d/kernel",
    "_fc/bias": "dense/bias",
    "_fc/kernel": "dense/kernel",
    "_bn/beta": "tpu_batch_normalization/beta",
    "_bn/gamma": "tpu_batch_normalization/gamma",
    "_bn/moving_mean": "tpu_batch_normalization/moving_mean",
    "_bn/moving_variance": "tpu_batch_normalization/moving_variance",
}


def write(prefix: Path, arrays: dict[str, Array]) -> Path:
    """Write a bundle of numbers; return the prefix."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    specs = {name: TensorSpec(array.dtype, array.shape) for name, array in arrays.items()}
    write_tensorbundle(prefix, specs, arrays.items())
    return prefix


def export(folder: Path, variables: dict[str, Array]) -> Path:
    """Write a SavedModel of TF1."""
    write(folder / "variables" / "variables", variables)
    (folder / "variables" / "checkpoint").unlink()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    return folder


@pytest.fixture
def exported() -> dict[str, Array]:
    """The variables of a TF1 SavedModel."""
    step = {"global_step": np.array(7, np.int64)}
    return {**seeded(PLAN), **averages(initial(PLAN)), **step}


def test_tf1_takes_the_raw_names(tmp_path: Path, exported: dict[str, Array]) -> None:
    with open_checkpoint(export(tmp_path / "export", exported)) as source:
        assert (source.kind, source.folder) == ("TF1 SavedModel", tmp_path / "export")
        view = select_view(source, PLAN)
        assert view.name == "raw"
        assert "holds the averages under the raw names" in view.reason
        with pytest.raises(ViewError, match=r"EMA slots hold initial values .*--weights raw"):
            select_view(source, PLAN, "ema")
        facts = inspect_source(source)
    assert (facts["problems"], facts["step"]) == ([], 7)
    assert facts["views"]["ema"]["untrained"] is True
    assert facts["notes"][0].startswith("raw unless asked otherwise: a TF1 SavedModel holds the averages")


def test_tf1_settings_lie_beside_the_saved_model(tmp_path: Path, exported: dict[str, Array]) -> None:
    folder = export(tmp_path / "export", exported)
    (folder / "config.yaml").write_text("image_size: 384\n")
    with open_checkpoint(folder / "variables") as source:
        assert prepare(source).settings.config.image_size == (384, 384)


def test_tf2_names_lie_in_the_bundle(tmp_path: Path) -> None:
    graph = ObjectGraph()
    for place, (name, value) in enumerate(seeded(PLAN).items()):
        graph.add(f"model/variables/{place}", name, value)
    for path, name in HEAD.items():
        graph.add(f"model/backbone/_head/{path}", f"head/{name}", 1.0)
    folder = tmp_path / "export"
    graph.write(folder / "variables" / "variables")
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    with open_checkpoint(folder) as source:
        assert (source.kind, source.folder) == ("TF2 SavedModel", folder)
        facts = inspect_source(source)
        assert facts["problems"] == []
        assert sorted(facts["ignored"].values()) == [1, 7]
        view = select_view(source, PLAN)
        assert (view.name, "does not say whether it is the averages" in view.reason) == ("raw", True)
        for name, value in seeded(PLAN).items():
            assert source.read(name).tobytes() == value.tobytes()


# Untrained slots are known by checksums, without the data file.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("with_data", [True, False])
def test_an_index_alone_tells_untrained_slots(tmp_path: Path, dtype: str, with_data: bool) -> None:
    arrays = {name: value.astype(dtype) for name, value in {**seeded(PLAN), **averages(initial(PLAN))}.items()}
    prefix = write(tmp_path / "model", arrays)
    if not with_data:
        Path(f"{prefix}.data-00000-of-00001").unlink()
    with TensorBundle(prefix) as source:
        assert is_untrained(source, PLAN, "ema") is True
        assert is_untrained(source, PLAN, "raw") is False
        assert differing(source, PLAN) == len(PLAN.variables)
        for wanted in (None, "ema"):
            with pytest.raises(ViewError, match=r"as in a SavedModel .*: use --weights raw"):
                select_view(source, PLAN, wanted)


def test_one_element_of_one_slot_makes_the_difference(tmp_path: Path) -> None:
    """Negative control."""
    arrays = averages(initial(PLAN))
    name = "class_net/class-0-bn-3/moving_mean/ExponentialMovingAverage"
    arrays[name] = arrays[name].copy()
    arrays[name][0] = np.nextafter(np.float32(0), np.float32(1))
    prefix = write(tmp_path / "model", arrays)
    Path(f"{prefix}.data-00000-of-00001").unlink()
    with TensorBundle(prefix) as source:
        assert is_untrained(source, PLAN, "ema") is False


@pytest.mark.parametrize(
    ("name", "untrained", "count"),
    [
        ("efficientdet-d0", False, 298),
        ("efficientdet-d1", False, 381),
        ("efficientdet-d2", False, 402),
        ("efficientdet-d0.savedmodel", True, 709),
    ],
)
def test_official_indexes(shared: Path, name: str, untrained: bool, count: int) -> None:
    plan = plan_of(name[13:15])
    with open_checkpoint(shared / "reference" / "official_indexes" / f"{name}.index") as source:
        assert not any(path.suffix.startswith(".data") for path in source.files())
        assert is_untrained(source, plan, "ema") is untrained
        assert is_untrained(source, plan, "raw") is False
        assert differing(source, plan) == count
        notes = inspect_source(source)["notes"]
        assert any("SavedModel" in note and "must not be used" in note for note in notes) is untrained
        if untrained:
            with pytest.raises(ViewError, match=r"as in a SavedModel .*: use --weights raw"):
                select_view(source, plan)
            assert select_view(source, plan, "raw").name == "raw"
        else:
            assert select_view(source, plan).name == "ema"


def test_the_saved_model_holds_the_averages_of_the_checkpoint(shared: Path) -> None:
    """By checksums: every raw name of the official SavedModel equals the checkpoint's average, not its raw value."""
    folder, names = shared / "reference" / "official_indexes", plan_of("d0").variables
    with (
        TensorBundle(folder / "efficientdet-d0") as checkpoint,
        TensorBundle(folder / "efficientdet-d0.savedmodel") as b,
    ):
        saved = {name: b.checksum(name) for name in names}
        assert saved == {name: checkpoint.checksum(f"{name}/ExponentialMovingAverage") for name in names}
        assert saved != {name: checkpoint.checksum(name) for name in names}


# The official key lists.


def sizes(shape: str) -> tuple[int, ...]:
    return tuple(int(size) for size in shape.strip("[]").split(",") if size.strip())


def test_tf2_key_list_is_fully_accounted_for(shared: Path) -> None:
    folder = shared / "reference" / "dialects"
    keys: dict[str, VariableInfo] = {}
    for line in (folder / "d0_tf2_savedmodel.keys.txt").read_text().splitlines():
        key, dtype, shape = line.split("\t")
        keys[key] = VariableInfo(dtype, sizes(shape))
    pairs = (line.split("\t") for line in (folder / "d0_tf2_savedmodel.map.txt").read_text().splitlines())
    names = {key: name for name, key in pairs}
    head = {f"model/backbone/_head/{path}/.ATTRIBUTES/VARIABLE_VALUE": f"head/{name}" for path, name in HEAD.items()}
    graph = ObjectGraph()
    for key, name in (names | head).items():
        graph.add(key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"), name)
    assert set(graph.values) == set(keys) - {OBJECT_GRAPH}
    found = read_names(graph.data(), keys)
    variables = {name: keys[key] for name, key in {**found.model, **found.others}.items()}
    plan = plan_of("d0")
    accounting = account(variables, plan, View("raw", "", stored_names(plan, "raw"), {}))
    assert accounting.problems == []
    assert (len(variables), len(accounting.consumed), len(accounting.ignored)) == (717, 709, 8)
    assert len({reason for name, reason in accounting.ignored.items() if name.startswith("head/")}) == 1


def test_a_scope_is_ignored_with_everything_in_it_and_nothing_else() -> None:
    stored, info = stored_names(PLAN, "raw"), VariableInfo("float32", (1,))
    variables = {name: VariableInfo("float32", shape) for name, shape in PLAN.variables.items()}
    known = ("head/conv2d/kernel", "head/dense_4/bias", "optimizer/learning_rate", "object_graph", "object_graph/x/y")
    strange = ("header/kernel", "class_net/head/kernel", "optimizers", "object_graphs/x")
    found = account(variables | dict.fromkeys([*known, *strange], info), PLAN, View("raw", "", stored, {}))
    assert set(found.ignored) == set(known)
    assert set(found.unexpected) == set(strange)
