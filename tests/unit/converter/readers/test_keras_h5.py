"""Keras .h5 files, written by h5py: every value as h5py reads it, names as TF1 has them, and clear errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import AccountingError, CorruptFileError, UnsupportedSourceError, ViewError
from converter.formats import hdf5
from converter.identify.naming import undo_counters
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.copies import select_view
from converter.plan.engine import account
from converter.readers.tensorflow.keras_h5 import KerasH5
from converter.source import VariableInfo
from support.sources import plan_of

h5py = pytest.importorskip("h5py")

Arrays = dict[str, Any]
KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
LAYERS: dict[str, Arrays] = {
    "efficientnet-b0": {"efficientnet-b0/stem/conv2d/kernel:0": KERNEL, "efficientnet-b0/blocks_0/se/conv2d/bias:0": 1},
    "resample_p7": {},
    "fpn_cells": {"fpn_cells/cell_0/fnode0/WSM:0": np.float32(2.5), "fpn_cells/cell_0/fnode0/WSM_1:0": np.float32(3)},
}


def write(path: Path, layers: Mapping[str, Arrays], *, root: str = "/", texts: type = bytes, parts: int = 1) -> Path:
    """Write a file as Keras does: lists of names as bytes or as texts, in one attribute or in several."""
    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        group.attrs["layer_names"] = [name.encode() for name in layers]
        group.attrs["backend"] = b"tensorflow"
        group.attrs["numbers"] = [1, 2]
        for layer, arrays in layers.items():
            inner = group.create_group(layer)
            names = [name.encode() if texts is bytes else name for name in arrays]
            for number, some in enumerate(np.array_split(np.array(names, object), parts) if parts > 1 else [names]):
                inner.attrs[f"weight_names{number}" if parts > 1 else "weight_names"] = list(some)
            for name, value in arrays.items():
                inner.create_dataset(name, data=value)
    return path


def contents(path: Path) -> Arrays:
    with open_checkpoint(path) as source:
        return {name: source.read(name) for name in source.variables}


@pytest.mark.parametrize("texts", [bytes, str])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("root", ["/", "/model_weights"])
def test_reads_what_h5py_reads(tmp_path: Path, texts: type, parts: int, root: str) -> None:
    path = write(tmp_path / "m.h5", LAYERS, texts=texts, parts=parts, root=root)
    found = contents(path)
    wanted = {name.removesuffix(":0"): np.asarray(a) for arrays in LAYERS.values() for name, a in arrays.items()}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "<i8", ">i4", "<u1"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    values = np.arange(5).astype(dtype)
    found = contents(write(tmp_path / "m.h5", {"a": {"a/kernel:0": values}}))["a/kernel"]
    assert found.dtype == values.dtype.newbyteorder("=")
    assert found.tolist() == [0, 1, 2, 3, 4]


def test_empty_and_top_level_weights(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {"a": {"a/kernel:0": np.zeros((0, 3), np.float32)}})
    with h5py.File(path, "a") as file:
        file.create_group("top_level_model_weights").attrs["weight_names"] = [b"scale:0"]
        file["top_level_model_weights"].create_dataset("scale:0", data=np.float32(2))
    found = contents(path)
    assert found["a/kernel"].shape == (0, 3)
    assert found["scale"] == 2


def test_many_layers_in_trees_of_several_levels(tmp_path: Path) -> None:
    layers = {f"layer_{number}": {f"layer_{number}/kernel:0": np.int32(number)} for number in range(700)}
    layers["big"] = {f"big/{'scope/' * 9}{number}/kernel:0": np.int32(number) for number in range(900)}
    path = write(tmp_path / "m.h5", layers, texts=str)
    found = contents(path)
    assert len(found) == 1600
    assert all(int(value) == int(name.split("/")[-2].split("_")[-1]) for name, value in found.items())


def test_describes_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "efficientdet-d0.h5", LAYERS)
    source = open_checkpoint(path)
    assert isinstance(source, KerasH5)
    assert (source.kind, source.path, source.folder, source.files()) == ("Keras .h5 file", path, tmp_path, (path,))
    assert source.variables["fpn_cells/cell_0/fnode0/WSM"] == VariableInfo("float32", ())
    assert source.checksum("fpn_cells/cell_0/fnode0/WSM") is None
    with pytest.raises(KeyError):
        source.read("absent")


# What cannot be read.


def small(path: Path, **options: Any) -> Path:
    """A file whose one array is written with options of h5py."""
    write(path, {"a": {}})
    with h5py.File(path, "a") as file:
        file["a"].attrs["weight_names"] = [b"a/kernel:0"]
        file["a"].create_dataset("a/kernel:0", **options)
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": np.ones(50), "chunks": (10,)}, "in chunks or compressed"),
        ({"data": np.ones(50), "compression": "gzip"}, "in chunks or compressed"),
        ({"data": np.ones(5) > 0}, "HDF5 class 8"),
        ({"data": np.ones(5, complex)}, "HDF5 class 6"),
        ({"shape": (4,), "dtype": "f4"}, "never written"),
        ({"data": "text"}, "HDF5 class 9"),
    ],
)
def test_arrays_of_other_kinds_are_named(tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(UnsupportedSourceError, match=rf"m\.h5: HDF5 file, a/kernel:0: .*{words}"):
        open_checkpoint(small(tmp_path / "m.h5", **options))


def test_listed_and_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", LAYERS)
    with h5py.File(path, "a") as file:
        del file["fpn_cells/fpn_cells/cell_0/fnode0/WSM_1:0"]
    with pytest.raises(CorruptFileError, match=r"'fpn_cells/cell_0/fnode0/WSM_1:0' is listed, but 'WSM_1:0' is not"):
        open_checkpoint(path)


def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", {"a": {"x/kernel:0": 1.0}, "b": {"x/kernel:0": 2.0}})
    with pytest.raises(UnsupportedSourceError, match="two arrays are called 'x/kernel'"):
        open_checkpoint(path)


def test_a_link_instead_of_an_array(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", LAYERS)
    with h5py.File(path, "a") as file:
        file["fpn_cells/elsewhere"] = h5py.SoftLink("/efficientnet-b0")
    with pytest.raises(UnsupportedSourceError, match="symbolic link"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("libver", "groups", "words"),
    [
        ("latest", ["a"], "newer layout"),
        ("earliest", ["images", "labels"], "no Keras weights .* it holds images, labels"),
        ("earliest", ["layers", "vars"], "weights of Keras 3.*tf-keras"),
        ("earliest", [], "it holds nothing"),
    ],
)
def test_other_hdf5_files_are_named(tmp_path: Path, libver: str, groups: list[str], words: str) -> None:
    with h5py.File(tmp_path / "m.h5", "w", libver=libver) as file:
        for name in groups:
            file.create_group(name)
    with pytest.raises(UnsupportedSourceError, match=words):
        open_checkpoint(tmp_path / "m.h5")


def test_cut_off(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.h5", LAYERS).read_bytes()
    for size in (9, 60, 95, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "m.h5").write_bytes(whole[:size])
        with pytest.raises(CorruptFileError, match=r"m\.h5: damaged HDF5 file: .*Download"):
            open_checkpoint(tmp_path / "m.h5")


def test_a_file_that_never_ends_is_given_up(tmp_path: Path) -> None:
    """A tree that is its own child."""
    path = write(tmp_path / "m.h5", LAYERS)
    data = bytearray(path.read_bytes())
    tree = data.index(b"TREE")
    data[tree + 5] = 1  # no leaf: its children are trees
    data[tree + 32 : tree + 40] = tree.to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="without an end"):
        open_checkpoint(path)


# Names of a second model.


def test_counters_of_a_second_model_are_undone() -> None:
    names = {
        "b/stem_3/conv2d_7/kernel": "b/stem/conv2d/kernel",
        "b/stem_3/tpu_batch_normalization/gamma": "b/stem/tpu_batch_normalization/gamma",
        "b/blocks_1/conv2d_4/kernel": "b/blocks_1/conv2d/kernel",
        "b/blocks_1/conv2d_5/kernel": "b/blocks_1/conv2d_1/kernel",
        "b/blocks_2/conv2d/kernel": "b/blocks_2/conv2d/kernel",
        "b/blocks_2/conv2d_1/kernel": "b/blocks_2/conv2d_1/kernel",
        "b/blocks_3/se/conv2d_1/bias": "b/blocks_3/se/conv2d/bias",
    }
    assert undo_counters(names) == {official: given for given, official in names.items()}


@pytest.mark.parametrize(
    "name",
    [
        "fpn_cells/cell_3/fnode0/resample_0_2_6/conv2d/bias",  # numbers of the table's templates
        "b/blocks_7/conv2d/kernel",
        "custom_1/kernel",
        "fpn_cells/cell_0/fnode0/WSM_1",  # no scope, the variable's own name
        "b/stem/conv2d_01/kernel",
        "b/stem/conv2d_0/kernel",
        "b/stem/_1/kernel",
        "b/stem/conv2d_99999999999999999999/kernel",
    ],
)
def test_other_numbers_are_left_alone(name: str) -> None:
    assert undo_counters([name]) == {name: name}


def test_a_lost_variable_is_still_missed() -> None:
    """A block without its expansion looks renumbered; the accounting does not take it for whole."""
    plan = plan_of("d0")
    scope = "efficientnet-b0/blocks_1"
    gone = (f"{scope}/conv2d/", f"{scope}/tpu_batch_normalization/")
    for part in gone:
        names = undo_counters(name for name in plan.variables if not name.startswith(part))
        variables = {name: VariableInfo("float32", plan.variables[given]) for name, given in names.items()}
        with pytest.raises(AccountingError):
            account(variables, plan, select_view(KnownNames(variables), plan)).require_complete("d0")


class KnownNames(KerasH5):
    """Names and shapes, and no file."""

    def __init__(self, variables: dict[str, VariableInfo]) -> None:
        self._variables = variables


@pytest.mark.parametrize(("dialect", "renamed"), [("d0_keras_h5", 0), ("d0_keras_h5_second_model", 5)])
def test_name_lists_are_fully_accounted_for(shared: Path, dialect: str, renamed: int) -> None:
    text = (shared / "reference" / "dialects" / f"{dialect}.keys.txt").read_text()
    rows = [line.split("\t") for line in text.splitlines() if line.count("\t") == 3]
    given = {name.removesuffix(":0"): VariableInfo(dtype, tuple(eval_sizes(shape))) for _, name, dtype, shape in rows}
    names = undo_counters(given)
    assert sum(name != before for name, before in names.items()) == renamed
    plan = plan_of("d0")
    variables = {name: given[before] for name, before in names.items()}
    found = account(variables, plan, select_view(KnownNames(variables), plan))
    assert (found.problems, len(found.consumed), len(given)) == ([], 709, 709)


def eval_sizes(shape: str) -> list[int]:
    return [int(size) for size in shape.strip("[]").split(",") if size.strip()]


# The official file.


def test_official_file_as_h5py_reads_it(shared: Path) -> None:
    path = shared / "trained_d0_256" / "efficientdet-d0_ema.h5"
    with open_checkpoint(path) as source, h5py.File(path) as oracle:
        assert len(source.variables) == 709
        for name in source.variables:
            expected = oracle[f"{name.split('/')[0]}/{name}:0"][()]
            assert source.read(name).tobytes() == expected.tobytes(), name


def test_official_file_is_one_copy_of_unknown_kind(shared: Path) -> None:
    with open_checkpoint(shared / "trained_d0_256" / "efficientdet-d0_ema.h5") as source:
        plan = plan_of("d0")
        view = select_view(source, plan)
        assert view.name == "raw"
        assert "does not say whether it is the averages" in view.reason
        with pytest.raises(ViewError, match=r"no averages \(EMA\)"):
            select_view(source, plan, "ema")
        facts = inspect_source(source)
    assert (facts["kind"], facts["problems"]) == ("Keras .h5 file", [])
    assert "does not say" in facts["notes"][0]


def test_a_fifth_of_the_budget_is_enough_for_the_largest_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers: dict[str, Arrays] = {}
    for name in plan_of("d7x").variables:
        layers.setdefault(name.split("/")[0], {})[f"{name}:0"] = np.float32(0)
    path = write(tmp_path / "d7x.h5", layers, texts=str)
    monkeypatch.setattr(hdf5, "_BUDGET", hdf5._BUDGET // 5)
    assert len(contents(path)) == len(plan_of("d7x").variables)
