"""Our int8 files against the official one: structure, every scale and zero point, every code, outputs and size.

The official file was calibrated on the first six photographs of `coco50`: with these, the ranges are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from converter.readers.tflite.content.schema import Subgraph, read_model
from converter.readers.tflite.content.schema import Tensor as OfficialTensor
from effdet_torch.export.tflite.calibrate import calibrate
from effdet_torch.export.tflite.graph import Graph, Operation, Tensor
from effdet_torch.export.tflite.quantize import quantize
from effdet_torch.export.tflite.scales import Range, of_pixels, of_range
from effdet_torch.export.tflite.serialize import serialize
from effdet_torch.inference.calibration import CalibrationImages
from effdet_torch.untrusted.files import map_file
from support.tflite_exports import graph_of, model_of
from support.tflite_samples import sources

CALIBRATED_ON = 6
EQUAL = 1e-6  # relative: TensorFlow computes scales in float32
DETECTION = "TFLite_Detection_PostProcess"
Pair = tuple[Tensor, OfficialTensor]


@cache
def calibrated(shared: Path, seeded: ModuleType, count: int) -> tuple[Graph, dict[Tensor, Range], Graph]:
    """Return the float graph of the seeded lite0, its ranges on the first photographs, and the int8 graph."""
    model = model_of(shared, seeded, "lite0_tflite_none")
    paths = sorted((shared / "coco50" / "val2017").glob("*.jpg"))[:count]
    graph = graph_of(model, detects=True)
    images = CalibrationImages([str(path) for path in paths], model.config)
    ranges = calibrate(graph, (pixels.transpose(0, 2, 3, 1) for pixels in images))
    return graph, ranges, quantize(graph, ranges, of_pixels(model.config))


@cache
def official_file(shared: Path) -> Subgraph:
    return read_model(map_file(sources(shared) / "lite0_tflite_int8.tflite")).graphs[0]


def pairs(ours: Graph, official: Subgraph) -> list[Pair]:
    """Return the same tensor of both, for all tensors that the detections are made of."""
    writers = {x: operation for operation in ours.operations for x in operation.outputs}
    official_writers = {x: operation for operation in official.operations for x in operation.outputs}
    first = next(operation for operation in ours.operations if operation.kind == DETECTION)
    other = next(operation for operation in official.operations if operation.kind == DETECTION)
    found, left = dict[Tensor, int](), [*zip(first.inputs, other.inputs, strict=True)]
    while left:
        tensor, index = left.pop()
        if tensor not in found and tensor in writers:
            assert writers[tensor].kind == official_writers[index].kind
            left += zip(writers[tensor].inputs, official_writers[index].inputs, strict=True)
        assert found.setdefault(tensor, index) == index, tensor.name
    return [(tensor, official.tensors[index]) for tensor, index in found.items()]


def is_equal(ours: Tensor, official: OfficialTensor) -> bool:
    """Whether scales and zero points are the same."""
    assert ours.quantization is not None
    found = ours.quantization
    return (
        found.scales.shape == official.scales.shape
        and bool((np.abs(found.scales / official.scales - 1) < EQUAL).all())
        and np.array_equal(found.zero_points, official.zero_points)
        and (len(found.scales) == 1 or found.axis == official.axis)
    )


def activations(ours: Graph, official: Subgraph) -> list[Pair]:
    return [pair for pair in pairs(ours, official) if pair[0].value is None and pair[0].dtype in (np.int8, np.uint8)]


def test_structure(shared: Path, seeded: ModuleType) -> None:
    """Operations with shapes and types of what they read and write; inputs and outputs in their order."""
    (_, _, ours), official = calibrated(shared, seeded, CALIBRATED_ON), official_file(shared)
    tensors = official.tensors
    found = Counter(
        (op.kind, *((x.shape, x.dtype.name, x.quantization is None) for x in op.inputs)) for op in ours.operations
    )
    wanted = Counter(
        (op.kind, *((tensors[x].shape, tensors[x].dtype, not len(tensors[x].scales)) for x in op.inputs))
        for op in official.operations
    )
    assert found == wanted
    assert [(x.shape, x.dtype.name) for x in ours.inputs.values()] == [((1, 320, 320, 3), "uint8")]
    assert [x.name for x in ours.outputs] == [tensors[index].name for index in official.outputs]


def test_kernels_and_biases(shared: Path, seeded: ModuleType) -> None:
    (_, _, ours), official = calibrated(shared, seeded, CALIBRATED_ON), official_file(shared)
    for dtype, count, differing in ((np.int8, 142, 10), (np.int32, 182, 10_000)):
        found = [
            (a, b) for a, b in pairs(ours, official) if a.value is not None and a.dtype == dtype and a.quantization
        ]
        assert len(found) == count
        scaled_alike = [pair for pair in found if is_equal(*pair)]
        # The official input of some layers has another scale, see `test_every_other_scale_is_explained`.
        assert len(scaled_alike) == count
        unequal = 0
        for ours_, theirs in found:
            assert ours_.value is not None
            difference = np.abs(ours_.value.astype(np.int64) - np.frombuffer(theirs.data, dtype).reshape(ours_.shape))
            assert difference.max() <= 1, ours_.name
            unequal += int((difference > 0).sum())
        assert unequal <= differing


def test_every_scale_is_the_official_one_or_explained(shared: Path, seeded: ModuleType) -> None:
    """TensorFlow gives the first input of a sum the range of both: `findings/tflite_calibration_sum.sh`."""
    (graph, ranges, ours), official = calibrated(shared, seeded, CALIBRATED_ON), official_file(shared)
    found = activations(ours, official)
    differing = [pair for pair in found if not is_equal(*pair)]
    assert (len(found), len(differing)) == (265, 17)
    sums = {operation.inputs[0].name: operation for operation in graph.operations if operation.kind == "ADD"}
    for tensor, theirs in differing:
        total: Operation = sums[tensor.name]
        (least, largest), (total_least, total_largest) = ranges[total.inputs[0]], ranges[total.outputs[0]]
        explained = of_range(min(least, total_least), max(largest, total_largest))
        assert is_equal(Tensor(tensor.name, tensor.shape, tensor.dtype, None, explained), theirs), tensor.name


def test_other_photographs_give_other_scales(shared: Path, seeded: ModuleType) -> None:
    """Negative control."""
    _, _, ours = calibrated(shared, seeded, CALIBRATED_ON - 1)
    assert sum(not is_equal(*pair) for pair in activations(ours, official_file(shared))) > 50


def test_the_file_is_not_larger(shared: Path, seeded: ModuleType) -> None:
    _, _, ours = calibrated(shared, seeded, CALIBRATED_ON)
    assert len(serialize(ours)) <= (sources(shared) / "lite0_tflite_int8.tflite").stat().st_size


def test_the_outputs_are_as_close_to_the_float_ones(shared: Path, seeded: ModuleType) -> None:
    graph, _, ours = calibrated(shared, seeded, CALIBRATED_ON)
    model = model_of(shared, seeded, "lite0_tflite_none")
    paths = sorted((shared / "coco50" / "val2017").glob("*.jpg"))[CALIBRATED_ON : CALIBRATED_ON + 3]  # others
    images = [pixels.transpose(0, 2, 3, 1) for pixels in CalibrationImages([str(path) for path in paths], model.config)]
    codes = [np.clip(np.round(image * 128 + 127), 0, 255).astype(np.uint8) for image in images]
    exact = scores_and_deltas(serialize(graph), images)
    found = scores_and_deltas(serialize(ours), codes)
    official = scores_and_deltas((sources(shared) / "lite0_tflite_int8.tflite").read_bytes(), codes)
    for name, ours_, theirs, wanted in zip(("deltas", "scores"), found, official, exact, strict=True):
        assert 0 < rms(ours_ - wanted) <= 1.1 * rms(theirs - wanted), name
        assert rms(ours_ - wanted) < 0.15 * rms(wanted), name


def scores_and_deltas(content: bytes, images: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return what goes into the detection operation of a file: deltas and scores of all images."""
    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    graph, found = read_model(memoryview(content)).graphs[0], []
    first = next(operation for operation in graph.operations if operation.kind == DETECTION)
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        found.append([interpreter.get_tensor(index).astype(np.float64) for index in first.inputs[:2]])
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]


def rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
