"""Damaged .h5, .pb and TF2 files: one clear error or a readable result; never a hang, a crash or gigabytes.

Every format is attacked in a process of its own, with a limit on memory and time: whatever a reader does, the test goes
on. HDF5 and GraphDef have no checksums over values, so damage there cannot be told; names and places are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from converter.errors import CorruptFileError
from converter.formats import apart
from converter.locate import open_checkpoint
from converter.readers.tensorflow.keras_h5 import KerasH5
from effdet_torch.errors import EffdetError
from support.damage import MANY, QUICK, SECONDS_PER_FILE, attack, main, run_apart
from support.quick import mostly_slow
from support.tiny_protos import ObjectGraph, graph_def, node


def write_h5(folder: Path, **options: Any) -> str:
    with h5py.File(folder / "m.h5", "w", libver="latest" if options else "earliest") as file:
        file.attrs["layer_names"] = [b"class_net", b"box_net"]
        for layer in ("class_net", "box_net"):
            group = file.create_group(layer)
            names = [f"{layer}/bn-{number}/{leaf}:0" for number in range(12) for leaf in ("gamma", "beta")]
            group.attrs["weight_names"] = names if layer == "box_net" else np.array(names, "S")
            for name in names:
                group.create_dataset(name, data=np.arange(3, dtype=np.float32), **options)
    return "m.h5"


def write_pb(folder: Path) -> str:
    constants: dict[str, Any] = {f"x/bn-{number}/gamma": np.full(4, number, np.float32) for number in range(20)}
    graph = graph_def({**constants, "x/WSM": np.float32(1)}, node("x/FusedBatchNormV3", "FusedBatchNormV3"))
    (folder / "m.pb").write_bytes(graph)
    return "m.pb"


def tf2(folder: Path) -> None:
    graph = ObjectGraph()
    for number in range(20):
        variable = graph.add(f"model/{number}", f"x/bn-{number}/gamma", float(number))
        graph.add_slot(variable, "average", f"model/{number}", 1.5)
    graph.write(folder / "m")


def write_tf2_index(folder: Path) -> str:
    tf2(folder)
    return "m.index"


def write_tf2_data(folder: Path) -> str:
    tf2(folder)
    return "m.data-00000-of-00001"


FORMATS: dict[str, Callable[[Path], str]] = {
    "h5": write_h5,
    "h5 in its newest layout": lambda folder: write_h5(folder, compression="gzip", chunks=(2,)),
    "pb": write_pb,
    "tf2 index": write_tf2_index,
    "tf2 data": write_tf2_data,
}


def attempt(target: Path) -> str:
    """Open a file and read everything; return what came of it."""
    try:
        with open_checkpoint(target) as source:
            for variable in source.variables:
                source.read(variable)
    except EffdetError as error:
        return type(error).__name__ if str(target) in str(error) else f"no file named: {error}"
    return "read"


def work(target: str, count: str) -> dict[str, Any]:
    apart.LIMIT_SECONDS = 1  # libhdf5 hangs on 1 of 200 damaged files
    return attack(Path(target), int(count), attempt)


def check(tmp_path: Path, kind: str, count: int) -> None:
    report = run_apart(__file__, tmp_path / FORMATS[kind](tmp_path), count, seconds=60 + count * 0.1)
    results = report["results"]
    assert sum(results.values()) == count
    assert set(results) <= {"read", "CorruptFileError", "UnsupportedSourceError", "MissingFileError"}
    assert report["slowest"] < SECONDS_PER_FILE
    assert results["CorruptFileError"] > count // 10  # the damage does arrive
    if kind.startswith(("h5", "pb")):
        assert results["read"] > count // 20  # as does what is left of the file


@pytest.mark.parametrize("kind", mostly_slow(FORMATS, [kind for kind in FORMATS if "newest" not in kind]))
def test_some_damage(tmp_path: Path, kind: str) -> None:
    check(tmp_path, kind, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", FORMATS)
def test_much_damage(tmp_path: Path, kind: str) -> None:
    check(tmp_path, kind, MANY)


@pytest.mark.slow
def test_every_truncation_of_an_h5_file(tmp_path: Path) -> None:
    """The superblock says where the file ends."""
    path = tmp_path / write_h5(tmp_path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 389):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFileError):
            KerasH5(path)
    path.write_bytes(whole)
    assert len(KerasH5(path).variables) == 48


if __name__ == "__main__":
    main(work)
