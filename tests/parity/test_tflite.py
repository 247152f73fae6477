"""TensorFlow Lite files against the official outputs, and against TensorFlow Lite's own interpreter."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from converter.locate import open_checkpoint
from converter.readers.tflite.content.schema import read_model
from converter.readers.tflite.tflite_file import TfliteFile
from effdet_torch.untrusted.files import map_file
from support.golden import error_over_rms, load_golden, seeded_view
from support.tflite_files import build, node_weights, pack
from support.tflite_samples import converted, outputs, sample, sources

# Listing -> official outputs on the same values, computed in float64.
GOLDEN = {"d0_tflite_none": "d0_ema_rand_512_f64", "lite0_predict_none": "lite0_ema_rand_320_f64"}
FLOAT = 1e-5  # of rms
# Levels share the kernels of a head; a file of half precision rounds each level's copy: only the finest is exact.
HALF = 4e-3


@pytest.fixture(scope="module", params=GOLDEN)
def made(request: pytest.FixtureRequest, shared: Path, seeded: ModuleType, tmp_path_factory: Any) -> tuple[str, Path]:
    """A file of float32, as its listing describes it."""
    name = request.param
    path = tmp_path_factory.mktemp(name) / f"{name}.tflite"
    path.write_bytes(pack(build(*sample(shared, seeded, name))))
    return name, path


def interpreted(path: Path, images: NDArray[Any]) -> tuple[Interpreter, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keeping all tensors takes memory
        interpreter = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], images)
    interpreter.invoke()
    return interpreter, details


def boxes_of(path: Path, images: NDArray[Any]) -> NDArray[Any]:
    """Return the boxes in front of the detection operation, (1, A, 4)."""
    interpreter, _ = interpreted(path, images)
    (operation,) = [op for op in interpreter._get_ops_details() if "Detection" in op["op_name"]]
    return np.asarray(interpreter.get_tensor(operation["inputs"][0]))


def test_float_file_equals_the_official_outputs(
    made: tuple[str, Path], shared: Path, seeded: ModuleType, tmp_path: Path
) -> None:
    name, path = made
    model = converted(path, tmp_path)
    golden = load_golden(shared / "reference" / "golden" / f"{GOLDEN[name]}.npz")
    images = seeded.random_input(*model.config.image_size if name.startswith("lite") else (512, 512))
    found = outputs(model, images)
    assert golden.compare_heads(found) < FLOAT
    weights = model.box_net.conv_rep[1].conv_pw.weight
    weights.data[0] *= 1.01  # negative control
    assert golden.compare_heads(outputs(model, images)) > 100 * FLOAT


def test_float_file_equals_the_interpreter(made: tuple[str, Path], seeded: ModuleType, tmp_path: Path) -> None:
    name, path = made
    model = converted(path, tmp_path)
    images = seeded.random_input(*model.config.image_size)
    found = outputs(model, images)
    if name == "d0_tflite_none":
        ours = np.concatenate([array.reshape(1, -1, 4) for array in found.box_deltas.values()], axis=1)
        assert error_over_rms(ours, boxes_of(path, images)) < FLOAT
        return
    interpreter, _ = interpreted(path, images)
    theirs = {tuple(row["shape"]): interpreter.get_tensor(row["index"]) for row in interpreter.get_output_details()}
    arrays = [*found.class_logits.values(), *found.box_deltas.values()]
    assert len(theirs) == len(arrays)
    assert max(error_over_rms(array, theirs[array.shape]) for array in arrays) < FLOAT


def test_names_do_not_matter(made: tuple[str, Path], shared: Path, seeded: ModuleType, tmp_path: Path) -> None:
    name, path = made
    stripped = tmp_path / "stripped.tflite"
    stripped.write_bytes(pack(build(*sample(shared, seeded, name), rename=lambda index, _: f"t{index}")))
    with open_checkpoint(path) as one, open_checkpoint(stripped) as other:
        assert one.variables == other.variables
        assert all((one.read(variable) == other.read(variable)).all() for variable in one.variables)
        assert any("no name of a layer survived" in note for note in other.facts.notes)


def test_fusion_weights_are_those_of_the_checkpoint(shared: Path, seeded: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "d0.tflite"
    path.write_bytes(pack(build(*sample(shared, seeded, "d0_tflite_none"))))
    variables = seeded_view(shared, seeded, "d0", "ema")
    with open_checkpoint(path) as source:
        nodes = sorted({name.rpartition("/")[0] for name in source.variables if "/WSM" in name})
        for node in nodes:
            found = [
                float(source.read(f"{node}/WSM{f'_{at}' if at else ''}"))
                for at in range(len(node_weights(node, variables)))
            ]
            np.testing.assert_allclose(found, node_weights(node, variables), rtol=2e-5, atol=1e-6, err_msg=node)
    assert len(nodes) == 24
    assert (
        min(min(node_weights(node, variables)) for node in nodes) == 0
    )  # one is negative, and lies before a folded kernel


def test_half_precision(shared: Path, tmp_path: Path) -> None:
    path = sources(shared) / "lite0_tflite_fp16.tflite"
    images = np.load(sources(shared) / "lite0_input.npz")["image"]
    found = outputs(converted(path, tmp_path), images)
    assert load_golden(sources(shared) / "lite0_keras_golden.npz").compare_heads(found) < 1e-2
    theirs, start = boxes_of(path, images), 0
    for level, array in found.box_deltas.items():
        ours = array.reshape(1, -1, 4)
        error = error_over_rms(ours, theirs[:, start : start + ours.shape[1]])
        assert error < (FLOAT if level == 3 else HALF)
        start += ours.shape[1]


def test_codes_are_read_bit_for_bit(shared: Path, tmp_path: Path) -> None:
    path = sources(shared) / "lite0_tflite_int8.tflite"
    codes = np.load(sources(shared) / "lite0_tflite_int8_golden.npz")["input"]
    interpreter, _ = interpreted(path, codes)
    tensors = read_model(map_file(path)).graphs[0].tensors
    constants = [tensor for tensor in tensors if len(tensor.data) and tensor.dtype in ("int8", "int32")]
    assert len(constants) > 300
    for tensor in constants:
        stored = np.frombuffer(tensor.data, tensor.notation).reshape(tensor.shape)
        assert (stored == interpreter.get_tensor(tensor.index)).all(), tensor.name
    images = np.load(sources(shared) / "lite0_input.npz")["image"]
    found = outputs(converted(path, tmp_path), images)
    assert load_golden(sources(shared) / "lite0_keras_golden.npz").compare_heads(found) < 0.2


def test_dequantised_kernels(shared: Path) -> None:
    """Code times scale of the channel, in the official layout: computed here from the interpreter's own details."""
    path = sources(shared) / "lite0_tflite_int8.tflite"
    interpreter = Interpreter(str(path), num_threads=1)
    details = {row["name"]: row for row in interpreter.get_tensor_details()}
    row = details["efficientnet-lite0/stem/conv2d/Conv2D"]
    interpreter.allocate_tensors()
    scales = row["quantization_parameters"]["scales"].reshape(-1, 1, 1, 1)
    expected = (interpreter.get_tensor(row["index"]).astype(np.float64) * scales).astype(np.float32)
    with open_checkpoint(path) as source:
        found = source.read("efficientnet-lite0/stem/conv2d/kernel")
        gains = source.read("class_net/class-1-bn-5/gamma")
    assert (found == expected.transpose(1, 2, 3, 0)).all()
    ratio = [
        details[f"class_net/class-1/separable_conv2d{end}"]["quantization_parameters"]["scales"] for end in ("_2", "")
    ]
    np.testing.assert_allclose(gains, ratio[0] / ratio[1], rtol=2e-7)


def test_both_precisions_hold_one_network(shared: Path) -> None:
    """Both precisions hold one network; a mix-up of levels or heads would show."""
    with (
        TfliteFile(sources(shared) / "lite0_tflite_fp16.tflite") as half,
        TfliteFile(sources(shared) / "lite0_tflite_int8.tflite") as codes,
    ):
        kernels = [name for name in half.variables if name.endswith("kernel")]
        assert len(kernels) == 118
        for name in kernels:
            assert error_over_rms(codes.read(name), half.read(name)) < 0.05, name
