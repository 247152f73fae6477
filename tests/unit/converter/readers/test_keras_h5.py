"""Keras .h5 files in every layout of h5py: values as h5py reads them, names as TF1 has them, and clear errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from converter.errors import AccountingError, CorruptFileError, UnsupportedSourceError, ViewError
from converter.identify.naming import undo_counters
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.copies import select_view
from converter.plan.engine import account
from converter.readers.tensorflow.keras_h5 import KerasH5
from converter.source import OPTIMIZER_STATE, OTHER_COPY, STEP_COUNT, SourceFacts, VariableInfo, VariableSource
from support.sources import plan_of

Arrays = dict[str, Any]
KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
STEM = "efficientnet-b0/stem/conv2d/kernel:0"
LAYERS: dict[str, Arrays] = {
    "efficientnet-b0": {STEM: KERNEL, "efficientnet-b0/blocks_0/se/conv2d/bias:0": np.arange(5.0)},
    "resample_p7": {},
    "fpn_cells": {"fpn_cells/cell_0/fnode0/WSM:0": np.float32(2.5), "fpn_cells/cell_0/fnode0/WSM_1:0": np.float32(3)},
}


def write(
    path: Path,
    layers: Mapping[str, Arrays] = LAYERS,
    *,
    root: str = "/",
    dtype: Any = "S",
    parts: int = 1,
    arrays: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write {layer: {weight: values}} as Keras does, with lists of names of a dtype, split over several attributes."""
    with h5py.File(path, "w", **options) as file:
        file.attrs["model_config"] = "{}" * 100_000  # longer than an object header, as that of any real network
        group = file.require_group(root)
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, weights in layers.items():
            inner = group.create_group(layer)
            for number, some in enumerate(np.array_split(np.array([*weights], dtype), parts)):
                inner.attrs[f"weight_names{number}" if parts > 1 else "weight_names"] = some
            for name, value in weights.items():
                inner.create_dataset(name, data=value, **(arrays or {} if np.ndim(value) else {}))
    return path


def contents(path: Path) -> Arrays:
    with open_checkpoint(path) as source:
        return {name: source.read(name) for name in source.variables}


LATEST, CHUNKS, VARYING = {"libver": "latest"}, {"chunks": True}, h5py.string_dtype()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": VARYING},
        {"parts": 2},
        {"root": "/model_weights", "parts": 2, "dtype": VARYING},
        LATEST,
        {"libver": ("earliest", "v108")},
        {"track_order": True},
        {**LATEST, "track_order": True, "dtype": VARYING},
        {"userblock_size": 512},
        {"userblock_size": 1 << 16, **LATEST},
        {"arrays": CHUNKS},
        {"arrays": {**CHUNKS, "compression": "gzip", "shuffle": True, "fletcher32": True}},
        {"arrays": {**CHUNKS, "compression": "lzf"}, **LATEST},
        {
            "arrays": {"maxshape": (None,) * 4, "chunks": (2, 2, 3, 1)},
            "layers": {"a": {"a/kernel:0": KERNEL}},
            **LATEST,
        },
        *({"arrays": {"dtype": dtype}} for dtype in ("<f2", ">f4", "<f8", "<i8", ">i4", "<u1")),
        {"arrays": {"dtype": ">f4", "compression": "gzip"}},
    ],
    ids=str,
)
def test_every_layout_is_read_as_by_h5py(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write(tmp_path / "m.h5", **options)
    found, layers = contents(path), options.get("layers", LAYERS)
    with h5py.File(path) as file:
        root = file[options.get("root", "/")]
        expected = {name.removesuffix(":0"): root[layer][name][()] for layer in layers for name in layers[layer]}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], value)
        assert found[name].flags.aligned


def test_a_process_with_several_threads_reads_the_same(tmp_path: Path) -> None:
    """It starts a new interpreter instead of a fork."""
    path, results = write(tmp_path / "m.h5", arrays=CHUNKS), []
    thread = threading.Thread(target=lambda: results.append(contents(path)))
    thread.start()
    thread.join()
    assert str(results[0]) == str(contents(path))


def test_unusual_arrays(tmp_path: Path) -> None:
    """Values in the header of their array, floats that NumPy lacks, no values, links, weights of the model itself."""
    path = write(tmp_path / "m.h5", {"a": {"a/empty:0": np.zeros((0, 3), np.float32)}, "top_level_model_weights": {}})
    compact, brain = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5t.IEEE_F32LE.copy()
    compact.set_layout(h5py.h5d.COMPACT)
    brain.set_fields(15, 7, 8, 0, 7)  # bfloat16: sign, exponent and mantissa in two bytes
    brain.set_size(2)
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"a"]
        file.move("a", "elsewhere")
        file["a"] = h5py.SoftLink("/elsewhere")
        group = file["top_level_model_weights"]
        group.attrs["weight_names"] = [b"compact:0", b"brain:0", b"link:0"]
        for name, stored, options in [(b"compact:0", h5py.h5t.IEEE_F32LE, compact), (b"brain:0", brain, None)]:
            array = h5py.h5d.create(group.id, name, stored, h5py.h5s.create_simple((3,)), options)
            array.write(h5py.h5s.ALL, h5py.h5s.ALL, np.float32([1, 2, -0.5]))
        group["link:0"] = h5py.SoftLink("/top_level_model_weights/compact:0")
    found = contents(path)
    assert found.pop("a/empty").shape == (0, 3)
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == dict.fromkeys(
        ("compact", "brain", "link"), (np.float32, [1, 2, -0.5])
    )


def test_one_attribute_of_more_than_64_kb(tmp_path: Path) -> None:
    names = [f"big/{'scope/' * 12}{number}/kernel:0" for number in range(900)]
    found = contents(write(tmp_path / "m.h5", {"big": {name: np.int32(0) for name in names}}, libver="latest"))
    assert [f"{name}:0" for name in found] == names


def test_the_layer_goes_before_a_name_that_several_layers_use(tmp_path: Path) -> None:
    """As in two models inside a model."""
    layers = {"one": {"x/kernel:0": 1.0, "y/kernel:0": 2.0}, "two": {"x/kernel:0": 3.0}}
    found = contents(write(tmp_path / "m.h5", layers))
    assert found == {"one/x/kernel": 1.0, "y/kernel": 2.0, "two/x/kernel": 3.0}


def test_describes_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "efficientdet-d0.h5")
    source = open_checkpoint(path)
    assert isinstance(source, KerasH5)
    assert (source.kind, source.path, source.facts.folder, source.files()) == (
        "Keras .h5 file",
        path,
        tmp_path,
        (path,),
    )
    assert source.facts.unrecoverable == (OTHER_COPY, OPTIMIZER_STATE, STEP_COUNT)
    assert source.variables["fpn_cells/cell_0/fnode0/WSM"] == VariableInfo("float32", ())
    assert source.checksum("fpn_cells/cell_0/fnode0/WSM") is None
    with pytest.raises(KeyError):
        source.read("absent")


# What cannot be read.


def array(**options: Any) -> Callable[[Any], None]:
    """Return a change to a file: its only array gets other options of h5py."""

    def change(file: Any) -> None:
        del file["a/a/kernel:0"]
        file["a"].create_dataset("a/kernel:0", **options)

    return change


def view_of_another_file(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[...] = h5py.VirtualSource("other.h5", "x", (4,))
    del file["a/a/kernel:0"]
    file["a"].create_virtual_dataset("a/kernel:0", layout)


def link_to_another_file(file: Any) -> None:
    write(Path(file.filename).with_name("other.h5"), {"a": {"a/kernel:0": 1.0}})
    del file["a"]
    file["a"] = h5py.ExternalLink("other.h5", "a")


def missing_filter(file: Any) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((4,))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())  # Zstandard, which is a plug-in
    space = h5py.h5s.create_simple((4,))
    written = h5py.h5d.create(file["a"].id, b"compressed", h5py.h5t.IEEE_F32LE, space, created)
    written.write_direct_chunk((0,), bytes(16))
    file["a"].attrs["weight_names"] = [b"compressed"]


def attribute(group: str, name: str, value: Any) -> Callable[[Any], None]:
    return lambda file: file[group].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (array(data=np.ones(5) > 0), "a/kernel:0: .*type bool; expected float or integer"),
        (array(data=np.ones(5, complex)), "a/kernel:0: .*type complex128"),
        (array(data="text"), "a/kernel:0: .*type text"),
        (array(data=h5py.Empty("f4")), "a/kernel:0: it holds nothing"),
        (array(shape=4, dtype="f4"), "a/kernel:0: its values were never written"),
        (array(shape=4, dtype="f4", chunks=2), "a/kernel:0: only 0 of its 2 chunks were written"),
        (array(shape=4, dtype="f4", external="other"), "a/kernel:0: its values .*are in another file"),
        (view_of_another_file, "a/kernel:0: its values .*are in another file"),
        (link_to_another_file, "a/kernel:0: it is a link into another file"),
        (missing_filter, "compressed: .*HDF5 filter 32015 .*not installed; write it with gzip"),
        (attribute("a", "weight_names", [b"a/gone:0"]), "damaged HDF5 file: a/gone:0: .*doesn't exist"),
        (attribute("a", "weight_names", [1, 2]), "damaged HDF5 file: the attribute 'weight_names' does not hold texts"),
        (attribute("a", "weight_names", np.array([b"a\xff"], "S")), "damaged HDF5 file: .*can't decode byte 0xff"),
        (
            attribute("/", "layer_names", [b"gone"]),
            "damaged HDF5 file: .*'gone' doesn't exist.* Download or copy it again",
        ),
        (attribute("a", "weight_names", [b"a/kernel:0", b"a/kernel:0"]), "two arrays are called 'a/kernel'"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    path = write(tmp_path / "m.h5", {"a": {"a/kernel:0": 1.0}})
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(CorruptFileError if "damaged" in words else UnsupportedSourceError, match=words) as error:
        open_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["images", "labels"], "no Keras weights .* it holds images, labels"),
        (["layers", "vars"], "weights of Keras 3.*tf-keras"),
        ([], "it holds nothing"),
    ],
)
def test_other_hdf5_files_are_named(tmp_path: Path, groups: list[str], words: str) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name in groups:
            file.create_group(name)
    with pytest.raises(UnsupportedSourceError, match=words):
        open_checkpoint(tmp_path / "m.h5")


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
        VariableSource.__init__(self, SourceFacts("Keras .h5 file", Path("names.h5"), Path()), variables)


@pytest.mark.parametrize(("dialect", "renamed"), [("d0_keras_h5", 0), ("d0_keras_h5_second_model", 5)])
def test_name_lists_are_fully_accounted_for(shared: Path, dialect: str, renamed: int) -> None:
    text = (shared / "reference" / "dialects" / f"{dialect}.keys.txt").read_text()
    rows = [line.split("\t") for line in text.splitlines() if line.count("\t") == 3]
    given = {name.removesuffix(":0"): VariableInfo(dtype, tuple(json.loads(shape))) for _, name, dtype, shape in rows}
    names = undo_counters(given)
    assert sum(name != before for name, before in names.items()) == renamed
    plan = plan_of("d0")
    variables = {name: given[before] for name, before in names.items()}
    found = account(variables, plan, select_view(KnownNames(variables), plan))
    assert (found.problems, len(found.consumed), len(given)) == ([], 709, 709)


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


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_this_process_has_open(tmp_path: Path, mode: str) -> None:
    """As in a notebook: a forked reader would share the open file of libhdf5."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["a"]
        file.create_group("a").attrs["weight_names"] = ["a/kernel:0"]
        file["a/a/kernel:0"] = np.arange(3.0, dtype=np.float32)
    with h5py.File(path, mode), KerasH5(path) as source:
        assert source.read("a/kernel").tolist() == [0, 1, 2]
