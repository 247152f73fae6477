"""Files that TensorFlow's own converter makes of the built-in reference: real folding, real quantisation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.hparams.fields import hparams_of
from converter.locate import open_checkpoint
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.network.model import EfficientDet
from support.golden import error_over_rms
from support.networks import alive
from support.sources import plan_of, reverted, small_config
from support.tflite_samples import converted, outputs
from verify.reference.base import import_tensorflow
from verify.reference.network import Forward
from verify.reference.official.hparams import read_hparams
from verify.reference.tflite.interpreter import TfliteReference
from verify.subjects.graphs import tflite_outline

pytest.importorskip("tensorflow")
SMALL: dict[str, Any] = {"image_size": 128, "num_classes": 3}
CASES: Mapping[str, EfficientDetConfig] = {
    "d0": small_config(**SMALL, max_level=7, fpn_cells=2),
    "lite": get_config("lite0", **SMALL, fpn_channels=16, fpn_cells=1),
    "attn": small_config(**SMALL, fusion="attn"),
    "channel_fastattn": small_config(**SMALL, fusion="channel_fastattn"),
    "mish": small_config(**SMALL, activation="mish"),
    "not separable": small_config(**SMALL, separable_conv=False, head_repeats=2),
    "residual heads": small_config(**SMALL, survival_prob=0.8, head_repeats=3),
    "qufpn": small_config(**SMALL, fpn_name="qufpn", max_level=7, fpn_cells=2),
    "no batch norms": small_config(**SMALL, apply_bn_for_resampling=False),
}
# How far our float32 is from TensorFlow Lite's, of rms: random networks amplify roundings; measured up to 2.0e-4.
FLOAT = 5e-4


def written(config: EfficientDetConfig, folder: Path, prepare: Callable[[Any, Any], None] | None = None) -> Path:
    """Write the file that TensorFlow's converter makes of a random network."""
    tf = import_tensorflow()
    model = alive(EfficientDet(config)).float().eval()
    variables = reverted({key: value.numpy() for key, value in model.state_dict().items()}, plan_of(config))
    forward = Forward(tf, read_hparams(hparams_of(config)), variables, "float32")

    def predict(images: Any) -> dict[str, Any]:
        taps = [tap for tap in forward(images) if tap.level is not None and tap.scope.endswith("-predict")]
        ordered = sorted(taps, key=lambda tap: (tap.scope.startswith("box"), tap.level))
        return {f"output_{number}": tap.output for number, tap in enumerate(ordered)}

    module = tf.Module()
    module.predict = tf.function(predict, input_signature=[tf.TensorSpec((1, *config.image_size, 3), tf.float32)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, str(folder / "saved"), signatures={"predict": module.predict})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"), signature_keys=["predict"])
        if prepare is not None:
            prepare(tf, converter)
        (folder / "m.tflite").write_bytes(converter.convert())
    return folder / "m.tflite"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_interpreter_agrees(case: str, tmp_path: Path) -> None:
    config = CASES[case]
    path = written(config, tmp_path)
    model = converted(path, tmp_path)
    with open_checkpoint(path) as source:
        reference = TfliteReference(path, tflite_outline(source))  # type: ignore[arg-type]
    images = np.random.default_rng(5).uniform(-1, 1, (1, *config.image_size, 3)).astype(np.float32)
    found, wanted = outputs(model, images), reference.outputs(images)
    pairs = [(found.class_logits, wanted.class_logits), (found.box_deltas, wanted.box_deltas)]
    assert max(error_over_rms(ours[level], theirs[level]) for ours, theirs in pairs for level in theirs) < FLOAT
    same = ("activation", "fpn_name", "separable_conv", "levels", "head_repeats")
    assert all(getattr(model.config, name) == getattr(config, name) for name in same)
    assert bool(model.config.survival_prob) == bool(config.survival_prob)


def dynamic(tf: Any, converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def codes(tf: Any, converter: Any) -> None:
    dynamic(tf, converter)
    random = np.random.default_rng(0)
    images: list[NDArray[np.float32]] = [random.uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32) for _ in range(2)]
    converter.representative_dataset = lambda: ([image] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8


@pytest.mark.slow
@pytest.mark.parametrize("quantise", [dynamic, codes])
def test_quantised_kernels_are_those_of_the_float_file(quantise: Callable[[Any, Any], None], tmp_path: Path) -> None:
    """A code stands for its number to half of a step: 1/254 of a channel's largest."""
    (tmp_path / "float").mkdir()
    (tmp_path / "codes").mkdir()
    exact, rounded = written(CASES["d0"], tmp_path / "float"), written(CASES["d0"], tmp_path / "codes", quantise)
    with open_checkpoint(exact) as one, open_checkpoint(rounded) as other:
        kernels = [name for name in one.variables if name.endswith("kernel") and "/resample_" not in name]
        for name in kernels:
            kernel, code = one.read(name), other.read(name)
            axes = (0, 1, 3) if name.endswith("depthwise_kernel") else (0, 1, 2)
            steps = np.abs(kernel).max(axis=axes, keepdims=True) / 127
            assert (np.abs(code - kernel) <= steps * 0.501).all(), name
        assert any((one.read(name) != other.read(name)).any() for name in kernels)
        assert any("8-bit codes" in note for note in other.facts.notes)
