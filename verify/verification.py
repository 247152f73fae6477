"""The whole verification: a converted file against its checkpoint, audited and compared layer by layer."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from converter.conversion import Preparation, describe_files
from converter.identify.families import BACKBONE
from converter.plan.expand import Plan
from converter.readers.tflite.tflite_file import TfliteFile
from converter.source import VariableSource
from effdet_torch import __version__
from effdet_torch.errors import ConfigError
from effdet_torch.file_format import sha256
from effdet_torch.network.model import EfficientDet
from effdet_torch.terminal.bar import part_of
from verify.diagnosis.diagnosis import Study, diagnose
from verify.diagnosis.other_networks import explain_first
from verify.errors import GraphError, ParityError
from verify.layers.audit import audit_weights
from verify.layers.fused import compare_fused
from verify.layers.outputs import compare_outputs
from verify.layers.pairs import layer_pairs, uncompared
from verify.layers.parity import TENSORFLOW_MODES, compare_layers, one_thread
from verify.reference.base import Reference
from verify.reference.network import TensorFlowReference
from verify.reference.tflite.interpreter import TfliteReference
from verify.results.claim import Requirement
from verify.results.verification import DType, GraphResult, LayerResult, Mode, Verification
from verify.subjects.graphs import find_graph, graph_reference, made_from
from verify.subjects.images import network_input
from verify.subjects.own_detections import describe_detections
from verify.subjects.references import build_reference
from verify.subjects.subject import load_converted, prepare_reference
from verify.subjects.weights import Weights, in_dtype

if TYPE_CHECKING:
    from effdet_torch.terminal.bar import Progress

LOG = logging.getLogger("effdet")
MODES: tuple[Mode, ...] = ("isolated", "cumulative", "fused")  # that compare a converted file


@dataclass(frozen=True)
class Settings:
    """How to compare.

    Attributes:
        image: a photograph to run on; None takes normally distributed noise.
        image_size: (height, width) of the network input; None takes the model's if it has no more
            pixels than 512 x 512, else its sides cut to 512.
        seed: of the noise.
        dtypes: float64 proves the mapping, float32 the runtime.
        modes: see `verify.layers.parity` and, of "fused", `verify.layers.fused`.
        graph: whether TensorFlow's own graph, if it is at hand, runs as well; None: if it can, True: it must.
        require: the weakest claim that passes, see `verify.results.claim`; None: any.

    Raises:
        ConfigError: The seed is negative.
    """

    image: Path | None = None
    image_size: tuple[int, int] | None = None
    seed: int = 0
    dtypes: tuple[DType, ...] = ("float64", "float32")
    modes: tuple[Mode, ...] = MODES
    graph: bool | None = None
    require: Requirement | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected at least 0")

    @classmethod
    def from_options(
        cls, dtypes: tuple[DType, ...], modes: tuple[Mode, ...], fused: bool | None = None, **others: Any
    ) -> Settings:
        """Build from the command's options; an empty choice means all. `fused` adds that mode to the chosen ones."""
        chosen = (*modes, *(("fused",) if fused else ()))
        return cls(
            dtypes=dtypes or cls.dtypes, modes=tuple(mode for mode in MODES if mode in chosen) or MODES, **others
        )

    def input_of(self, size: Sequence[int]) -> dict[str, Any]:
        """Return what the networks run on, for reports; `size` is (height, width)."""
        source = "noise" if self.image is None else self.image.name
        return {"input": source, "seed": self.seed, "image_size": list(size)}

    @property
    def tensorflow_modes(self) -> tuple[Mode, ...]:
        """The modes that compare with TensorFlow."""
        return tuple(mode for mode in TENSORFLOW_MODES if mode in self.modes)


@one_thread()
def verify_model(
    path: Path, source: VariableSource, settings: Settings | None = None, progress: Progress | None = None
) -> Verification:
    """Verify a converted file against an open checkpoint.

    Raises:
        ModelFileError: The file is not a converted model.
        ConversionError: The checkpoint is not an EfficientDet, or lacks the copy that the file was made from.
        ParityError: The two are different networks, or the mapping has a row that nothing compares.
        VerificationError: The reference cannot run; or TensorFlow's own graph must run, and there is none or it cannot.
    """
    start, settings = time.perf_counter(), settings or Settings()
    model = load_converted(path)
    preparation = prepare_reference(model, source)
    is_other = isinstance(source, TfliteFile) and not made_from(model.metadata, source)
    if is_other:  # the tensors of another file, with other batch norms, say nothing
        settings = replace(settings, modes=tuple(mode for mode in settings.modes if mode == "fused"), graph=True)
    layer_pairs(preparation.plan)  # refuses a plan with rows that nothing compares, before anything is computed
    images = network_input(model.config, settings.image, settings.image_size, settings.seed)
    weights = Weights.of_model(model, preparation)
    result = Verification(
        model={
            "path": path.name,
            "size_bytes": path.stat().st_size,
            "sha256": sha256(path),
            "metadata": model.metadata,
        },
        reference={"source": source.path.name, "files": describe_files(source.files(), checksums=True)},
        settings=_plain(settings, images),
        versions=versions(),
        layers=(),
        audit=None if is_other else audit_weights(weights, model.metadata),
        graph=run_graph(model, preparation, settings),  # first: where it must run and cannot, nothing else is computed
        required=settings.require,
    )
    result = _compare(result, model, weights, images, settings, progress)
    return replace(result, seconds=time.perf_counter() - start)


def _compare(
    result: Verification,
    model: EfficientDet,
    weights: Weights,
    images: NDArray[Any],
    settings: Settings,
    progress: Progress | None,
) -> Verification:
    """Compare all layers in all modes and dtypes, and explain what failed."""
    if settings.tensorflow_modes:
        result = _compare_with_tensorflow(result, model, weights, images, settings, progress)
    if "fused" in settings.modes:
        plan = weights.preparation.plan
        found = compare_fused(model, plan, images, settings.dtypes, result.layers)
        LOG.info("compared %d outputs of the fused network", len(found))
        described = result.reference if result.layers else {"name": "the same network before it was fused"}
        result = replace(
            result,
            reference={**described, **result.reference},
            layers=(*result.layers, *found),
            diagnoses=(*result.diagnoses, *explain_first(found)),
        )
    return result


def _compare_with_tensorflow(
    result: Verification,
    model: EfficientDet,
    weights: Weights,
    images: NDArray[Any],
    settings: Settings,
    progress: Progress | None,
) -> Verification:
    """Compare all layers with TensorFlow's in all dtypes, and explain what failed."""
    preparation, layers = weights.preparation, list[LayerResult]()
    described: dict[str, str] = {}
    study: Study | None = None
    reference: TensorFlowReference
    for number, dtype in enumerate(settings.dtypes):
        reference = build_reference(preparation, dtype)
        described = reference.describe()
        compared = in_dtype(model, weights, dtype)
        observer = None
        if dtype == "float64":
            study = Study(compared, weights)
            observer = study.observe
        step = part_of(progress, number, len(settings.dtypes))
        LOG.info("TensorFlow's network is ready in %s", dtype)
        found = compare_layers(
            reference, compared, preparation.plan, images, dtype, settings.tensorflow_modes, step, observer
        )
        _require_all(found, preparation.plan, settings.tensorflow_modes)
        layers += found
        LOG.info("compared %d layers in %s", len(found), dtype)
    result = replace(result, reference={**described, **result.reference}, layers=tuple(layers))
    if not result.failures and (result.audit is None or result.audit.passed):
        _require_residuals(model, reference)  # layers that the mapping of this model does not have
        return result
    return replace(result, diagnoses=tuple(diagnose(layers, model, weights, images, study)))


def _require_residuals(model: EfficientDet, reference: TensorFlowReference) -> None:
    """Refuse a model without the additions in the heads that TensorFlow has, where no comparison showed it."""
    if reference.has_residual_heads and not model.config.survival_prob:
        raise ParityError(
            "class_net/class-1-add was not compared: TensorFlow adds the input of a head's repeat (survival_prob), the "
            "model does not; convert it again with the settings of the checkpoint: config.yaml or --hparams"
        )


def run_graph(model: EfficientDet, preparation: Preparation, settings: Settings) -> GraphResult | None:
    """Run TensorFlow's own graph, if there is one, on an image of its own size, and compare its outputs.

    Returns:
        What was compared, or why nothing was; None for a backbone alone, which has no outputs.

    Raises:
        GraphError: It must run, and there is none, or it cannot.
        ParityError: It is the graph of another network.
    """
    if preparation.family is BACKBONE and not settings.graph:
        return None
    path = None if preparation.family is BACKBONE else find_graph(preparation)
    if settings.graph is False:
        return GraphResult("" if path is None else path.name, "left out (--no-graph)")
    if settings.graph is None and not settings.tensorflow_modes:
        return GraphResult("" if path is None else path.name, "left out: nothing else is compared with TensorFlow")
    try:
        if path is None:
            raise GraphError(f"no inference graph belongs to the source {preparation.source.path.name}")
        reference = graph_reference(path, preparation)
        size = reference.image_size
        images = network_input(model.config, settings.image, size, settings.seed)
        if isinstance(reference, TfliteReference):
            reference.compared_with(model.metadata, made_from(model.metadata, preparation.source))
        outputs = compare_outputs(reference, model, images)
        return GraphResult(path.name, "", outputs, size, (*reference.notes, *_detections(reference, model)))
    except GraphError as error:
        if settings.graph:
            raise GraphError(f"{error}; leave --graph out to verify without it") from error
        return GraphResult("" if path is None else path.name, str(error))


def _detections(reference: Reference, model: EfficientDet) -> Iterator[str]:
    """Yield what the reference's own detections are beside ours, if it makes any; it ran before."""
    if isinstance(reference, TfliteReference) and reference.detects:
        yield describe_detections(reference, model.config)


def _require_all(results: Sequence[LayerResult], plan: Plan, modes: Sequence[Mode]) -> None:
    """Refuse a comparison that left layers out."""
    for mode in modes:
        left_out = uncompared(plan, [result for result in results if result.mode == mode])
        if left_out:
            more = f" and {len(left_out) - 1} more" if left_out[1:] else ""
            raise ParityError(
                f"not compared ({mode}): {left_out[0]}{more}; the model or the TensorFlow reference does not have this "
                "part of the mapping, so the proof would be incomplete"
            )


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("numpy", "torch")
    return {"effdet-convert": __version__, "python": platform.python_version()} | {
        n: packages.version(n) for n in names
    }


def _plain(settings: Settings, images: NDArray[Any]) -> dict[str, Any]:
    return {
        **settings.input_of(images.shape[1:3]),
        "dtypes": list(settings.dtypes),
        "modes": list(settings.modes),
        "graph": {None: "if it can run", True: "must run", False: "left out"}[settings.graph],
        "require": settings.require or "nothing",
    }
