"""SavedModels of TF1 and TF2: their names, their copies, and untrained slots that an index alone reveals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter.conversion import prepare
from converter.errors import CorruptFileError, ViewError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.copies import differing, is_untrained, select_view
from converter.readers.tensorflow.tensorbundle import TensorBundle
from support.sources import EMA, averages, initial, plan_of, seeded, small_config, write_checkpoint
from support.tiny_protos import ObjectGraph

PLAN = plan_of(small_config())
VALUES = seeded(PLAN)
UNTRAINED = {**VALUES, **averages(initial(PLAN))}


def saved_model(folder: Path) -> Path:
    """Make a SavedModel of a folder in which the bundle is still to be written; return the prefix."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    return folder / "variables" / "variables"


def without_data(prefix: Path) -> Path:
    Path(f"{prefix}.data-00000-of-00001").unlink()
    return prefix


def test_tf1_uses_the_raw_names(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    prefix = write_checkpoint(saved_model(folder), {**UNTRAINED, "global_step": np.array(7, np.int64)})
    (prefix.parent / "checkpoint").unlink()
    (folder / "config.yaml").write_text("image_size: 384\n")
    with open_checkpoint(prefix.parent) as source:
        assert (source.kind, source.facts.folder) == ("TF1 SavedModel", folder)
        prepared = prepare(source)
        assert prepared.view.name == "raw"
        assert "holds the averages under the raw names" in prepared.view.reason
        assert prepared.settings.config.image_size == (384, 384)
        with pytest.raises(ViewError, match=r"EMA slots hold initial values .*--weights raw"):
            select_view(source, PLAN, "ema")
        facts = inspect_source(source)
    assert (facts["problems"], facts["step"]) == ([], 7)
    assert facts["unrecoverable"] == ["the raw values", "the optimizer's state"]
    assert facts["views"]["ema"]["untrained"] is True
    assert facts["notes"][0].startswith("raw values are the default: a TF1 SavedModel holds the averages")


def test_tf2_names_are_in_the_bundle(tmp_path: Path) -> None:
    graph = ObjectGraph()
    for place, (name, value) in enumerate(VALUES.items()):
        graph.add(f"model/variables/{place}", name, value)
    graph.add("model/backbone/_head/_fc/bias", "head/dense/bias", 1.0)
    graph.write(saved_model(tmp_path / "export"))
    with open_checkpoint(tmp_path / "export") as source:
        assert (source.kind, source.facts.folder) == ("TF2 SavedModel", tmp_path / "export")
        prepared = prepare(source)
        assert set(prepared.accounting.ignored) == {"head/dense/bias", "object_graph"}
        assert prepared.view.name == "raw"
        assert "does not say whether it is the averages" in prepared.view.reason
        assert all(source.read(name).tobytes() == value.tobytes() for name, value in VALUES.items())


def test_a_detection_module_whose_index_is_compressed(tmp_path: Path) -> None:
    """As TF Hub has `efficientdet/lite0/detection`: variables in lists, blocks that Google's TensorFlow compressed."""
    raw = pytest.importorskip("cramjam", reason="no other implementation of snappy here").snappy
    lite = {name.replace("efficientnet-b0", "efficientnet-lite0"): value for name, value in VALUES.items()}
    values = {name: value for name, value in lite.items() if "/se/" not in name and "/WSM" not in name}
    graph = ObjectGraph()
    for place, (name, value) in enumerate(values.items()):
        graph.add(f"model/trainable_variables/{place}", name, value)
    prefix = saved_model(tmp_path / "lite0")
    graph.write(prefix, compression=1, compress=lambda content: bytes(raw.compress_raw(content)))
    index = Path(f"{prefix}.index")
    assert index.stat().st_size < len(graph.values) * 60
    with open_checkpoint(tmp_path / "lite0") as source:
        config = prepare(source).settings.config
        assert (config.name, config.backbone, config.num_classes) == ("lite0", "efficientnet-lite0", 2)
        assert all(source.read(name).tobytes() == value.tobytes() for name, value in values.items())
    content = bytearray(index.read_bytes())
    content[100] ^= 1
    index.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"variables\.index: the block at byte 0"):
        open_checkpoint(tmp_path / "lite0")


# Untrained slots are recognised by checksums, without the data file.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("with_data", [True, False])
def test_an_index_alone_reveals_untrained_slots(tmp_path: Path, dtype: str, with_data: bool) -> None:
    prefix = write_checkpoint(tmp_path / "model", {name: value.astype(dtype) for name, value in UNTRAINED.items()})
    with TensorBundle(prefix if with_data else without_data(prefix)) as source:
        assert is_untrained(source, PLAN, "ema") is True
        assert is_untrained(source, PLAN, "raw") is False
        assert differing(source, PLAN) == len(PLAN.variables)
        for wanted in (None, "ema"):
            with pytest.raises(ViewError, match=r"as in a SavedModel .*: use --weights raw"):
                select_view(source, PLAN, wanted)


def test_one_element_of_one_slot_makes_the_difference(tmp_path: Path) -> None:
    """Negative control."""
    name = f"class_net/class-0-bn-3/moving_mean/{EMA}"
    changed = UNTRAINED[name].copy()
    changed[0] = np.nextafter(np.float32(0), np.float32(1))
    with TensorBundle(without_data(write_checkpoint(tmp_path / "model", {**UNTRAINED, name: changed}))) as source:
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
        assert is_untrained(source, plan, "ema") is untrained
        assert is_untrained(source, plan, "raw") is False
        assert differing(source, plan) == count
        notes = inspect_source(source)["notes"]
        assert any("SavedModel" in note and "must not be used" in note for note in notes) is untrained


def test_the_saved_model_holds_the_averages_of_the_checkpoint(shared: Path) -> None:
    """By checksums: every raw name of the official SavedModel equals the checkpoint's average, not its raw value."""
    folder, names = shared / "reference" / "official_indexes", plan_of("d0").variables
    with TensorBundle(folder / "efficientdet-d0") as a, TensorBundle(folder / "efficientdet-d0.savedmodel") as b:
        saved = {name: b.checksum(name) for name in names}
        assert saved == {name: a.checksum(f"{name}/{EMA}") for name in names}
        assert saved != {name: a.checksum(name) for name in names}
