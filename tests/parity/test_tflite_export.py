"""Our `.tflite` files against the official ones: structure, constants, outputs and size."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from converter.locate import open_checkpoint
from converter.readers.tflite.content.schema import read_model
from effdet_torch.export.tflite.float16 import with_half_constants
from effdet_torch.export.tflite.graph import Graph
from effdet_torch.export.tflite.serialize import serialize
from effdet_torch.untrusted.files import map_file
from support.golden import GoldenCase, golden_input, load_golden
from support.tflite_exports import graph_of, model_of, seeded_model
from support.tflite_files import read_listing
from support.tflite_samples import LISTINGS, sources
from verify.reference.base import HeadOutputs

FLOAT = 1e-4  # of rms: what is asked of a float file; measured 2e-6


def run(graph: Graph, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return {name in the signature: output}."""
    interpreter = Interpreter(model_content=serialize(graph), num_threads=1)
    (signature,) = interpreter.get_signature_list()
    return dict(interpreter.get_signature_runner(signature)(images=images))


@pytest.mark.parametrize("name", LISTINGS)
def test_structure(shared: Path, seeded: ModuleType, name: str) -> None:
    """Every operation with its options, shapes and types; inputs, outputs, their order and the signature."""
    listing = read_listing(sources(shared) / f"{name}.txt")
    graph = graph_of(model_of(shared, seeded, name), name.endswith("_tflite_none"))
    ours = Counter(
        (op.kind, *options_of(op.options), *((x.shape, x.dtype.name.upper()) for x in op.inputs))
        for op in graph.operations
    )
    theirs = Counter(
        (
            row.name,
            *options_of(row.options),
            *((listing.tensors[x].shape, listing.tensors[x].dtype) for x in row.inputs),
        )
        for row in listing.operations
    )
    assert ours - theirs == theirs - ours == Counter()
    assert graph.signature == listing.signature
    assert [x.name for x in graph.outputs] == [listing.tensors[index].name for index in listing.outputs]
    assert [x.name for x in graph.inputs.values()] == [listing.tensors[index].name for index in listing.inputs]
    named = dict(zip(graph.output_names, (x.name for x in graph.outputs), strict=True))
    assert named == {key: listing.tensors[index].name for key, index in listing.named_outputs}
    constants = [x for x in graph.tensors() if x.value is not None and x.dtype == np.float32]
    assert len(constants) == sum(1 for row in listing.tensors if row.size_bytes and row.dtype == "FLOAT32")


def options_of(options: Any) -> tuple[tuple[str, Any], ...]:
    """Return options in one order; those of MEAN are not in listings."""
    return tuple(sorted((key, value) for key, value in (options or {}).items() if key != "keepDims"))


def test_structure_of_half_precision(shared: Path, seeded: ModuleType) -> None:
    graph = with_half_constants(graph_of(model_of(shared, seeded, "lite0_tflite_none"), detects=True))
    official = read_model(map_file(sources(shared) / "lite0_tflite_fp16.tflite")).graphs[0]
    kinds = Counter(operation.kind for operation in official.operations)
    assert Counter(operation.kind for operation in graph.operations) == kinds
    assert kinds["DEQUANTIZE"] == 254
    ours = Counter((x.shape, x.dtype.name) for x in graph.tensors() if x.value is not None)
    assert ours == Counter((x.shape, x.dtype) for x in official.tensors if len(x.data))


def test_files_are_not_larger(shared: Path, seeded: ModuleType) -> None:
    for name in LISTINGS:
        first_line = (sources(shared) / f"{name}.txt").read_text().partition("\n")[0]
        official = int(first_line.split(" bytes ")[1].split()[0])
        graph = graph_of(model_of(shared, seeded, name), name.endswith("_tflite_none"))
        assert 0.9 * official < len(serialize(graph)) <= official
    graph = with_half_constants(graph_of(model_of(shared, seeded, "lite0_tflite_none"), detects=True))
    assert len(serialize(graph)) <= (sources(shared) / "lite0_tflite_fp16.tflite").stat().st_size


def test_half_constants_are_the_official_ones(shared: Path, seeded: ModuleType, tmp_path: Path) -> None:
    """Equal but for the last bit of a few: TensorFlow folds batch norms in float32."""
    graph = with_half_constants(graph_of(model_of(shared, seeded, "lite0_tflite_none"), detects=True))
    (tmp_path / "ours.tflite").write_bytes(serialize(graph))
    official = sources(shared) / "lite0_tflite_fp16.tflite"
    with open_checkpoint(tmp_path / "ours.tflite") as ours, open_checkpoint(official) as theirs:
        assert ours.variables == theirs.variables
        assert len(ours.variables) == 588
        unequal = 0
        for name in ours.variables:
            found, wanted = ours.read(name), theirs.read(name)
            np.testing.assert_allclose(found, wanted, rtol=2**-9.9, atol=1e-7, err_msg=name)
            unequal += int((found != wanted).sum())
    assert unequal < 500


def test_outputs_are_the_official_ones(shared: Path, seeded: ModuleType) -> None:
    name = "lite0_predict_none"
    model, images = model_of(shared, seeded, name), np.load(sources(shared) / "lite0_input.npz")["image"]
    golden = load_golden(sources(shared) / f"{name}_golden.npz")
    assert golden.compare_heads(heads(run(graph_of(model, detects=False), images))) < FLOAT
    changed = copy.deepcopy(model)  # negative control
    changed.get_parameter("box_net.conv_rep.1.conv_pw.weight").data[0] *= 1.01
    assert golden.compare_heads(heads(run(graph_of(changed, detects=False), images))) > 10 * FLOAT


def heads(found: Mapping[str, NDArray[Any]], levels: range = range(3, 8)) -> HeadOutputs:
    ordered, half = [found[f"output_{number}"] for number in range(len(found))], len(levels)
    return HeadOutputs(*(dict(zip(levels, part, strict=True)) for part in (ordered[:half], ordered[half:])))


@pytest.mark.parametrize(("name", "limit"), [("none", 1e-5), ("fp16", 1e-4)])
def test_detections_are_the_official_ones(shared: Path, seeded: ModuleType, name: str, limit: float) -> None:
    model, images = model_of(shared, seeded, "lite0_tflite_none"), np.load(sources(shared) / "lite0_input.npz")["image"]
    graph = graph_of(model, detects=True)
    found = run(graph if name == "none" else with_half_constants(graph), images)
    golden = np.load(sources(shared) / f"lite0_tflite_{name}_golden.npz")
    count, scores, classes, boxes = (golden[f"out|StatefulPartitionedCall_1:{number}"] for number in range(4))
    assert found["output_0"] == count == 100
    assert np.abs(found["output_1"] - scores).max() < limit
    assert (found["output_2"] == classes).all()
    assert np.abs(found["output_3"] - boxes).max() < limit
    assert np.abs(np.diff(scores[0])).max() > 100 * limit  # other detections would not pass


GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "reference" / "golden"
PATHS = [path for path in sorted(GOLDEN.glob("*_ema_rand_*.npz")) if "_taps_" not in path.name]
CASES = [GoldenCase.from_path(path) for path in PATHS]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.path.stem for case in CASES])
def test_other_variants(shared: Path, seeded: ModuleType, case: GoldenCase) -> None:
    """In float32, against the official code, in float64 for most; sides of 384 x 640 among them."""
    graph = graph_of(seeded_model(shared, seeded, case.config), detects=False)
    found = run(graph, golden_input(shared, seeded, case))
    error = load_golden(case.path).compare_heads(heads(found, case.config.levels))
    print(f"{case.path.stem}: {error:.1e}")
    assert error < FLOAT
