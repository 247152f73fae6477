"""An exported file against what it was made from: layer by layer, its outputs, and its detections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converter.conversion import describe_files
from converter.identify.families import DETECTOR
from converter.locate import open_checkpoint
from converter.plan.expand import Plan
from effdet_torch.engines.document import EXPORT_AGAIN
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.engines.table import files_of, open_engine
from effdet_torch.errors import ModelFileError, NonFiniteOutputError, listed
from effdet_torch.inference.predict import Predictor
from effdet_torch.inference.results.image_detections import ImageDetections
from effdet_torch.network.model import inner_name
from effdet_torch.processing.cpu import CpuProcessing
from effdet_torch.processing.profiles import profile_name
from verify.detections.matching import compare_detections, matching_limits
from verify.diagnosis.other_networks import explain_first
from verify.errors import ParityError
from verify.layers.exported import compare_exported, expected_of_model, expected_of_tensorflow, shown_layers
from verify.layers.parity import Match, one_thread
from verify.results.detections import MATCHED_MIN_SCORE, DetectionResult
from verify.results.verification import LayerResult, Verification
from verify.subjects.exported import has_inner_outputs, inner_outputs, seen_pixels
from verify.subjects.images import network_input
from verify.subjects.references import build_reference
from verify.subjects.subject import is_converted, load_converted, prepare_reference
from verify.verification import Settings, versions

if TYPE_CHECKING:
    from effdet_torch.terminal.bar import Progress

HEADS = ("class_net.predict", "box_net.predict")
MASK = "seg_head.predict"
ABOUT_NO_LAYER = ("image_size", "label_map")  # a file may be exported for another size, and with names
Array = NDArray[Any]


@one_thread()
def verify_exported(
    path: Path, reference: str | Path, settings: Settings | None = None, progress: Progress | None = None
) -> Verification:
    """Compare an exported file with its reference, in float64.

    Args:
        path: of the file.
        reference: a converted file, whose model runs in PyTorch, or a TensorFlow checkpoint.
        settings: how to compare: the image, its size, the seed and what is required.
        progress: called after every layer.

    Raises:
        ModelFileError: A file cannot be read, or the runtime refuses it.
        ParityError: The two are different networks; or the file makes detections, and there are none to compare.
        ConversionError: The checkpoint cannot be read.
        ConfigError: The file takes another image size.
    """
    start, settings = time.perf_counter(), settings or Settings()
    shown = f"noise, seed {settings.seed}" if settings.image is None else settings.image.name
    engine = open_engine(path)
    if engine.interface.precision == "int8" and engine.profile is not None:
        raise ParityError(
            f"{path} computes in 8 bits, so single detections differ, and it shows nothing else; compare its AP with "
            f"that of {reference} (effdet-verify {path} --coco ROOT), or its outputs, exported with --nms none"
        )
    size = settings.image_size or engine.interface.image_size
    images = network_input(engine.config, settings.image, size, settings.seed)
    pixels = seen_pixels(engine, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    engine.require_size(*pixels.shape[2:])
    with ExitStack() as stack:
        plan, expected, described = _reference(reference, engine, pixels.transpose(0, 2, 3, 1), stack)
        layers, heads = _compare_layers(engine, plan, pixels, expected, progress)
    detection = None
    if engine.config.detects and engine.interface.precision != "int8":  # in 8 bits, single detections differ
        try:
            detection = _compare_detections(engine, pixels, heads, str(described["name"]), shown)
        except NonFiniteOutputError:
            if all(layer.passed for layer in layers):
                raise  # otherwise the layers show where it begins
    return Verification(
        model={**describe_files([path], checksums=True)[0], "path": path.name, "metadata": engine.metadata},
        reference=described,
        settings=_plain(engine, settings, pixels),
        versions=versions(),
        layers=tuple(layers),
        audit=None,
        diagnoses=tuple(explain_first(layers)),
        seconds=time.perf_counter() - start,
        detection=detection,
        required=settings.require,
    )


def _reference(
    reference: str | Path, engine: FileEngine, images: Array, stack: ExitStack
) -> tuple[Plan, Iterator[Match], dict[str, Any]]:
    """Return the plan of the network, what the reference computes for images (1, H, W, 3), and what it is."""
    if is_converted(reference):
        model = load_converted(Path(reference))
        # The network has no names of classes; an exported file has some, be they COCO's.
        own, theirs = (config.to_dict() | dict.fromkeys(ABOUT_NO_LAYER) for config in (engine.config, model.config))
        if different := [f"{name} {own[name]} there, {theirs[name]} here" for name in own if own[name] != theirs[name]]:
            raise ParityError(
                f"{engine.path} was not exported from {reference}: {listed(different, 3)}; give the converted file "
                "that it was exported from"
            )
        plan = DETECTOR.plan(model.config)
        files = describe_files([Path(reference)], checksums=True)
        described = {"name": f"{Path(reference).name} in PyTorch", "source": Path(reference).name, "files": files}
        return plan, expected_of_model(model, plan, images), described
    source = stack.enter_context(open_checkpoint(reference))
    preparation = prepare_reference(engine, source)
    network = build_reference(preparation, "float64")
    described = {"source": source.path.name, "files": describe_files(source.files(), checksums=True)}
    return preparation.plan, expected_of_tensorflow(network, preparation.plan, images), network.describe() | described


def _compare_layers(
    engine: FileEngine, plan: Plan, pixels: Array, expected: Iterator[Match], progress: Progress | None
) -> tuple[list[LayerResult], dict[str, Array]]:
    """Compare all layers that the file shows; return the results, and the reference's class and box outputs by name."""
    layers, shown = shown_layers(plan), dict[str, Array]()
    if engine.interface.outputs == "network":
        levels = range(len(engine.config.levels) if engine.config.detects else 0)
        names = [inner_name(head, call) for head in HEADS for call in levels]
        names += [MASK] if engine.config.segments else []
        shown |= zip(names, engine.run(pixels), strict=True)
    shown |= inner_outputs(engine, pixels, [name for name in layers if name not in shown])
    # Where it has nothing to do, a resampling leaves no trace in a graph.
    missing = [name for name, pair in layers.items() if name not in shown and pair.layer.kind != "resample"]
    if missing and has_inner_outputs(engine):
        raise ModelFileError(
            f"{engine.path} has no inner tensor {missing[0]} ({len(missing)} of {len(layers)} are missing), so its "
            f"layers cannot be compared. {EXPORT_AGAIN}"
        )
    results, heads = list[LayerResult](), dict[str, Array]()
    for name, match, result in compare_exported(expected, shown, engine.interface.precision):
        if result is not None:
            results.append(result)
        if name.startswith(HEADS):
            heads[name] = match.expected.numpy().astype(np.float32)
        if progress is not None:
            progress(match.order + 1, len(layers))
    return results, heads


def _compare_detections(
    engine: FileEngine, pixels: Array, heads: dict[str, Array], source: str, shown: str
) -> DetectionResult:
    """Compare the detections in network input (1, 3, H, W) with those of the reference's outputs, one to one."""
    predictor = Predictor(engine, image_size=pixels.shape[2:], score_threshold=0)
    scales = np.ones(1, np.float32)
    outputs = engine(pixels)
    (found,) = predictor.detections(outputs[0], outputs[1], scales)
    class_logits, box_deltas = ([array for name, array in heads.items() if name.startswith(head)] for head in HEADS)
    (wanted,) = CpuProcessing(predictor.config).detections(class_logits, box_deltas, scales, predictor.profile)
    expected = ImageDetections(*wanted, names=[""] * len(wanted.scores))
    limits = matching_limits(engine)
    parity = compare_detections(found.to_coco(0), expected.to_coco(0), [0], source, limits=limits)
    if engine.profile is not None and not parity.expected + parity.surplus:
        raise ParityError(
            f"{engine.path} makes detections, and there are none above a score of {MATCHED_MIN_SCORE} in this "
            "input, so nothing would be compared; choose an image with objects: --image photo.jpg"
        )
    return DetectionResult(
        split=f"the network input ({shown})",
        profile=profile_name(predictor.profile),
        images=1,
        detections=len(found),
        metrics={},
        complete=True,
        parity=parity,
    )


def _plain(engine: FileEngine, settings: Settings, pixels: Array) -> dict[str, Any]:
    return {
        **settings.input_of(pixels.shape[2:]),
        "runtime": engine.runtime,
        "files": [path.name for path in files_of(engine.path)],
        "require": settings.require or "nothing",
    }
