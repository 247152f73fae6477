"""The built-in TensorFlow reference against the official code's results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effdet_torch.config import VARIANTS, get_config
from support.golden import GoldenCase, error_over_rms, golden_input, load_golden, seeded_view
from support.reference import built_in
from support.tolerances import FLOAT32_RANDOM_INPUT, FLOAT64
from support.variable_shapes import random_variables, variable_shapes
from verify.errors import InputSizeError, MissingDependencyError, ReferenceModelError
from verify.reference.base import Tap

Variables = dict[str, NDArray[Any]]

TOLERANCE = {"float64": FLOAT64, "float32": FLOAT32_RANDOM_INPUT}
WRONG = 1e-3  # what every mistake exceeds, ten times the loosest tolerance here

QUICK = ("d0_*_512_f64", "d0_*_384x640", "d7x_*_256_f64", "lite0_*_320_f64")
SLOW = ("d1_*_640_f64", "d2_*_768_f64", "d4_*_256_f64", "d6_*_256", "lite2_*_448_f64", "lite4_*_256")
VIEW_AND_INPUT = ("ema_rand", "raw_rand", "ema_img")
CASES = [
    pytest.param(
        pattern.replace("*", inputs),
        marks=[pytest.mark.slow] * (pattern in SLOW or (pattern.startswith("d7x") and inputs != "ema_rand")),
    )
    for pattern in QUICK + SLOW
    for inputs in VIEW_AND_INPUT
]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "reference" / "golden"


@pytest.fixture(scope="module")
def d0_ema(shared: Path, seeded: ModuleType) -> Variables:
    return seeded_view(shared, seeded, "d0", "ema")


@pytest.mark.parametrize("name", CASES)
def test_equals_official_code(name: str, golden: Path, shared: Path, seeded: ModuleType) -> None:
    case = GoldenCase.from_path(golden / f"{name}.npz")
    variables = seeded_view(shared, seeded, case.config.name, case.view)
    outputs = built_in(case.config, variables, case.dtype).outputs(golden_input(shared, seeded, case))
    assert load_golden(case.path).compare_heads(outputs) <= TOLERANCE[case.dtype]


def test_all_official_results_are_compared(golden: Path) -> None:
    names = {path.stem for path in golden.glob("*.npz") if not {"anchors", "input", "taps"} & set(path.stem.split("_"))}
    assert names == {case.values[0] for case in CASES}


def test_layers_equal_official_code(golden: Path, seeded: ModuleType, d0_ema: Variables) -> None:
    expected = load_golden(golden / "d0_taps_ema_rand_512.npz")
    layers = built_in(get_config("d0"), d0_ema).run(seeded.random_input(512, 512))
    assert len(expected.samples) == 73
    errors = {name: expected.compare(name, layers[name, None]) for name in expected.samples}
    assert {name: error for name, error in errors.items() if error > TOLERANCE["float32"]} == {}


@pytest.mark.parametrize("view", ["ema", "raw"])
def test_trained_checkpoint(view: str, shared: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    reader = tensorflow.train.load_checkpoint(str(shared / "trained_d0_256" / "model.ckpt-780"))
    suffix = "/ExponentialMovingAverage"
    names = [name.removesuffix(suffix) for name in reader.get_variable_to_shape_map() if name.endswith(suffix)]
    variables = {name: reader.get_tensor(name + suffix * (view == "ema")) for name in names}
    with np.load(shared / "trained_d0_256" / "ref_000000037777.npz") as expected:
        outputs = built_in(get_config("d0", image_size=256), variables).outputs(expected["input_nhwc"])
        errors = [error_over_rms(array, expected[f"cls_P{level}"]) for level, array in outputs.class_logits.items()]
        errors += [error_over_rms(array, expected[f"box_P{level}"]) for level, array in outputs.box_deltas.items()]
    assert len(errors) == 10
    if view == "ema":
        assert max(errors) <= TOLERANCE["float32"]
    else:  # the stored result is the EMA's
        assert max(errors) > WRONG


def _swap(variables: Variables, first: str, second: str) -> Variables:
    return {**variables, first: variables[second], second: variables[first]}


MISTAKES = {
    "swapped kernels": ("class_net/class-0/pointwise_kernel", "class_net/class-1/pointwise_kernel"),
    "shifted level": ("box_net/box-1-bn-3/beta", "box_net/box-1-bn-4/beta"),
    "batch norm of another position": (
        "efficientnet-b0/blocks_1/tpu_batch_normalization/moving_mean",
        "efficientnet-b0/blocks_1/tpu_batch_normalization_1/moving_mean",
    ),
    "swapped fusion weights": ("fpn_cells/cell_1/fnode3/WSM", "fpn_cells/cell_1/fnode3/WSM_1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_shows(mistake: str, golden: Path, seeded: ModuleType, d0_ema: Variables) -> None:
    variables = _swap(d0_ema, *MISTAKES[mistake])
    outputs = built_in(get_config("d0"), variables).outputs(seeded.random_input(384, 640))
    assert load_golden(golden / "d0_ema_rand_384x640.npz").compare_heads(outputs) > WRONG


def test_other_view_shows(golden: Path, shared: Path, seeded: ModuleType) -> None:
    raw = seeded_view(shared, seeded, "d0", "raw")
    outputs = built_in(get_config("d0"), raw).outputs(seeded.random_input(384, 640))
    assert load_golden(golden / "d0_ema_rand_384x640.npz").compare_heads(outputs) > WRONG


def test_shifted_output_level_shows(golden: Path, shared: Path, seeded: ModuleType) -> None:
    case = GoldenCase.from_path(golden / "lite0_ema_rand_320_f64.npz")
    variables = seeded_view(shared, seeded, "lite0", "ema")
    outputs = built_in(case.config, variables).outputs(golden_input(shared, seeded, case))
    with pytest.raises(AssertionError, match="class_4 has shape"):
        load_golden(case.path).compare("class_4", outputs.class_logits[3])


@pytest.mark.parametrize("variant", ["d0", "d1", "d2", "d4", "d6", "d7x", "lite0", "lite2", "lite4"])
def test_shapes_of_variables(variant: str, shared: Path, seeded: ModuleType) -> None:
    official = seeded.read_shapes(shared / "reference" / "variables" / f"{variant}.tsv")
    official.pop("global_step", None)
    assert variable_shapes(get_config(variant)) == official


class Recorder(dict[str, NDArray[Any]]):
    """Variables that remember which of them were read."""

    def __init__(self, variables: Variables) -> None:
        super().__init__(variables)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_every_variable(variant: str) -> None:
    config = get_config(variant, image_size=64)
    variables = Recorder({name: np.ones(shape, np.float32) for name, shape in variable_shapes(config).items()})
    built_in(config, variables).outputs(np.zeros((1, 64, 64, 3), np.float32))
    assert variables.read == set(variables)


@pytest.mark.parametrize(
    ("variant", "overrides"),
    [
        ("d0", {"max_level": 8, "num_classes": 3, "image_size": (135, 190)}),
        ("d0", {"max_level": 5, "fusion": "attn", "image_size": (96, 160)}),
        ("d0", {"max_level": 6, "fusion": "sum", "image_size": (65, 257)}),
        ("lite0", {"num_scales": 1, "aspect_ratios": (1.0, 3.0), "image_size": (127, 129)}),
        ("lite0", {"image_size": (47, 33)}),
    ],
)
def test_custom_models(variant: str, overrides: dict[str, Any]) -> None:
    config = get_config(variant, **overrides)
    variables = Recorder(random_variables(config))
    height, width = config.image_size
    outputs = built_in(config, variables, "float64").outputs(np.ones((2, height, width, 3), np.float32))
    sizes, anchors = config.feature_sizes(), config.anchors_per_location
    found = {level: array.shape for level, array in outputs.class_logits.items()}
    assert found == {level: (2, *size, anchors * config.num_classes) for level, size in sizes.items()}
    assert {level: array.shape for level, array in outputs.box_deltas.items()} == {
        level: (2, *size, anchors * 4) for level, size in sizes.items()
    }
    assert variables.read == set(variables)


@pytest.fixture(scope="module")
def d0_taps() -> dict[tuple[str, int | None], Tap]:
    config = get_config("d0")
    images = np.random.default_rng(0).normal(size=(1, 80, 96, 3))
    taps = list(built_in(config, random_variables(config), "float64").taps(images))
    found = {tap.key: tap for tap in taps}
    assert len(found) == len(taps), "two layers with one name"
    return found


def test_every_layer_has_a_tap(d0_taps: dict[tuple[str, int | None], Tap]) -> None:
    layers = {name.rsplit("/", 1)[0] for name in variable_shapes(get_config("d0")) if "/WSM" not in name}
    assert layers <= {scope for scope, _ in d0_taps}
    shared_by_levels = {scope: level for scope, level in d0_taps if level is not None}
    assert len(shared_by_levels) == 8
    for scope in shared_by_levels:
        assert [level for other, level in d0_taps if other == scope] == [3, 4, 5, 6, 7]


def test_inputs_are_outputs_of_earlier_layers(d0_taps: dict[tuple[str, int | None], Tap]) -> None:
    free = ("/se/conv2d", "/stem", "/stem/conv2d")  # the mean over the image and the image itself have no tap
    outputs: list[NDArray[Any]] = []
    for tap in d0_taps.values():
        outputs.append(tap.output)
        if not tap.scope.endswith(free):
            assert all(any(np.array_equal(x, output) for output in outputs[:-1]) for x in tap.inputs), tap.scope


def test_redundant_bias_is_in_convolution_and_batch_norm(d0_taps: dict[tuple[str, int | None], Tap]) -> None:
    variables = random_variables(get_config("d0"))
    biased = {tap.scope for tap in d0_taps.values() if tap.redundant_bias is not None}
    assert len([scope for scope in biased if f"{scope}/bias" in variables]) == 1 + 5 + 24 + 6
    assert not [scope for scope in biased if "/se/" in scope or "predict" in scope or "efficientnet" in scope]
    conv = d0_taps["class_net/class-1", 5]
    norm = d0_taps["class_net/class-1-bn-5", None]
    kernels = (variables[f"class_net/class-1/{part}_kernel"] for part in ("depthwise", "pointwise"))
    assert conv.redundant_bias is not None
    assert norm.redundant_bias is not None
    np.testing.assert_array_equal(conv.redundant_bias, variables["class_net/class-1/bias"])
    np.testing.assert_array_equal(norm.redundant_bias, conv.redundant_bias)
    np.testing.assert_array_equal(norm.inputs[0], conv.output)
    assert error_over_rms(conv.output - conv.redundant_bias, _separable(conv.inputs[0], *kernels)) < 1e-13


def _separable(x: NDArray[Any], depthwise: NDArray[Any], pointwise: NDArray[Any]) -> NDArray[Any]:
    """Separable 3x3 convolution of (B, H, W, C) by its definition, with zero padding."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] * depthwise[i, j, :, 0] for i in range(3) for j in range(3)]
    y: NDArray[Any] = np.sum(shifted, axis=0) @ pointwise[0, 0].astype(np.float64)
    return y


@pytest.mark.parametrize("fusion", ["fastattn", "attn", "sum"])
def test_fusion_follows_the_paper(fusion: str) -> None:
    config = get_config("d0", fusion=fusion)
    variables = random_variables(config)
    scope = "fpn_cells/cell_0/fnode4"
    if fusion != "sum":
        variables[f"{scope}/WSM_1"] = np.float32(-0.7) * np.ones((), np.float32)
    taps = built_in(config, variables, "float64").taps(np.ones((1, 64, 64, 3)))
    fuse = next(tap for tap in taps if tap.scope == f"{scope}/fuse")
    weights = np.ones(3)
    if fusion != "sum":
        weights = np.array([variables[f"{scope}/WSM{suffix}"] for suffix in ("", "_1", "_2")], np.float64)
    if fusion == "fastattn":
        weights = np.maximum(weights, 0) / (np.maximum(weights, 0).sum() + 1e-4)
    elif fusion == "attn":
        weights = np.exp(weights) / np.exp(weights).sum()
    expected = np.tensordot(weights, np.stack(fuse.inputs), 1)
    assert error_over_rms(fuse.output, expected) < 1e-13


def test_taps_stream() -> None:
    config = get_config("lite0")
    taps = built_in(config, random_variables(config)).taps(np.zeros((1, 64, 64, 3), np.float32))
    assert isinstance(taps, Iterator)
    first = next(taps)
    assert first.scope == "efficientnet-lite0/stem/conv2d"
    assert not first.output.flags.writeable  # the memory is TensorFlow's


def test_missing_variable_is_named() -> None:
    config = get_config("lite0")
    variables = random_variables(config)
    del variables["fpn_cells/cell_2/fnode7/op_after_combine12/bn/beta"]
    with pytest.raises(
        ReferenceModelError, match="cell_2/fnode7/op_after_combine12/bn/beta is missing; lite0 needs it"
    ):
        built_in(config, variables).outputs(np.zeros((1, 64, 64, 3), np.float32))


def test_wrong_number_of_classes() -> None:
    variables = random_variables(get_config("lite0"))
    with pytest.raises(
        ReferenceModelError, match=r"class-predict/bias has shape \(810,\).*20 channels each need \(180,\)"
    ):
        built_in(get_config("lite0", num_classes=20), variables).run(np.zeros((1, 64, 64, 3), np.float32))


def test_missing_block() -> None:
    config = get_config("lite0")
    variables = {name: value for name, value in random_variables(config).items() if "blocks_15/" not in name}
    with pytest.raises(ReferenceModelError, match="15 blocks that do not form 7 stages"):
        built_in(config, variables).run(np.zeros((1, 64, 64, 3), np.float32))


def test_wrong_shape_of_variable() -> None:
    config = get_config("lite0")
    variables = random_variables(config)
    name = "efficientnet-lite0/blocks_3/conv2d/kernel"
    variables[name] = variables[name][:, :, :-1]
    with pytest.raises(ReferenceModelError, match="do not fit the variant"):
        built_in(config, variables).run(np.zeros((1, 64, 64, 3), np.float32))


def test_too_small_images() -> None:
    config = get_config("lite0")
    with pytest.raises(InputSizeError, match="halve one side"):
        built_in(config, random_variables(config)).run(np.zeros((1, 33, 128, 3), np.float32))


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 3, 64, 64)])
def test_wrong_shape_of_images(shape: tuple[int, ...]) -> None:
    config = get_config("lite0")
    with pytest.raises(InputSizeError, match="expected \\(batch, height, width, 3\\)"):
        built_in(config, random_variables(config)).run(np.zeros(shape, np.float32))


def test_tensorflow_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[tf\]'"):
        built_in(get_config("d0"), {})


@pytest.mark.parametrize("preload", ["", "tensorflow, "])
def test_importing_the_references_does_not_import_tensorflow(preload: str, tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").touch()  # quick to import, and found first
    modules = "verify.reference.network, verify.reference.graph"
    code = f"import sys, {preload}{modules}; sys.exit('tensorflow' in sys.modules)"
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])
    process = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert process.returncode == bool(preload)


def test_describes_itself() -> None:
    description = built_in(get_config("d0"), {}, "float64").describe()
    assert description["name"] == "built-in TensorFlow reference (tf.nn)"
    assert description["dtype"] == "float64"
    assert description["tensorflow"].startswith("2.")
