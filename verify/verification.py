"""The whole verification: a converted file against its checkpoint, audited and compared layer by layer."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import metadata as packages
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from converter.conversion import Preparation, describe_files, sha256
from converter.identify.families import BACKBONE
from converter.plan.engine import derive
from converter.source import VariableSource
from effdet_torch import __version__
from effdet_torch.config import EfficientDetConfig
from effdet_torch.inference.images import read_image
from effdet_torch.inference.preprocess import preprocess
from effdet_torch.network.model import EfficientDet
from verify.errors import ParityError
from verify.layers.audit import audit_weights
from verify.layers.parity import MODES, Progress, compare_layers, uncompared
from verify.reference.base import Reference
from verify.reference.meta_graph import GraphReference, find_meta_graph
from verify.reference.network import TensorFlowReference
from verify.results import DType, LayerResult, Mode, Verification
from verify.subjects.subject import load_converted, prepare_reference

MAX_DEFAULT_PIXELS = 512  # side of a square; the weights do not depend on the image size, time and memory do
ReferenceKind = Literal["built-in", "graph"]


@dataclass(frozen=True)
class Settings:
    """How to compare.

    Attributes:
        image: a photograph to run on; None takes normally distributed noise.
        image_size: (height, width) of the network input; None takes the model's if it has no more
            pixels than 512 x 512, else its sides cut to 512.
        seed: of the noise.
        dtypes: float64 proves the mapping, float32 the runtime.
        modes: see `verify.layers.parity`.
        reference: "built-in", or "graph": the checkpoint's own `.meta`.
    """

    image: Path | None = None
    image_size: tuple[int, int] | None = None
    seed: int = 0
    dtypes: tuple[DType, ...] = ("float64", "float32")
    modes: tuple[Mode, ...] = MODES
    reference: ReferenceKind = "built-in"

    @classmethod
    def from_options(cls, dtypes: tuple[DType, ...], modes: tuple[Mode, ...], graph: bool, **others: Any) -> Settings:
        """Build from the command's options; an empty choice means all, and a graph computes in float32 only."""
        return cls(
            dtypes=dtypes or (("float32",) if graph else cls.dtypes),
            modes=modes or MODES,
            reference="graph" if graph else "built-in",
            **others,
        )


class StoredVariables(Mapping[str, NDArray[Any]]):
    """The variables of one view by their TensorFlow names, read when asked for."""

    def __init__(self, preparation: Preparation) -> None:
        self._source, self._stored = preparation.source, preparation.view.stored

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._source.read(self._stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def verify_model(
    path: Path, source: VariableSource, settings: Settings | None = None, progress: Progress | None = None
) -> Verification:
    """Verify a converted file against an open checkpoint.

    Raises:
        ModelFileError: The file is not a converted model.
        ConversionError: The checkpoint is not an EfficientDet, or lacks the copy that the file was made from.
        ParityError: The two are different networks.
        VerificationError: The reference cannot run.
    """
    start, settings = time.perf_counter(), settings or Settings()
    model = load_converted(path)
    preparation = prepare_reference(model, source)
    images = network_input(model.config, settings)
    audit = audit_weights(
        _compared_tensors(model, preparation), preparation.plan, source, preparation.view, model.metadata
    )
    layers, described = _compare(model, preparation, images, settings, progress)
    result = Verification(
        model={
            "path": path.name,
            "size_bytes": path.stat().st_size,
            "sha256": sha256(path),
            "metadata": model.metadata,
        },
        reference={**described, "source": source.path.name, "files": describe_files(source.files(), checksums=True)},
        settings=_plain(settings, images),
        versions=versions(),
        layers=layers,
        audit=audit,
    )
    if not result.passed:
        from verify.diagnosis.diagnosis import diagnose

        result = replace(result, diagnoses=tuple(diagnose(result, model, preparation, images)))
    return replace(result, seconds=time.perf_counter() - start)


def _compared_tensors(model: EfficientDet, preparation: Preparation) -> dict[str, NDArray[Any]]:
    """Return the tensors to audit: all of a detector; of the detector that carries a backbone, the backbone's."""
    tensors = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    if preparation.family is not BACKBONE:
        return tensors
    return {key: tensor for key, tensor in tensors.items() if key in preparation.plan.targets}


def _compare(
    model: EfficientDet,
    preparation: Preparation,
    images: NDArray[Any],
    settings: Settings,
    progress: Progress | None,
) -> tuple[tuple[LayerResult, ...], dict[str, str]]:
    """Compare all layers in all dtypes; return the results, and what the reference says of itself."""
    layers: list[LayerResult] = []
    described: dict[str, str] = {}
    for number, dtype in enumerate(settings.dtypes):
        reference = build_reference(preparation, settings.reference, dtype)
        described = reference.describe()
        compared = in_dtype(model, preparation, dtype)
        step = _share(progress, number, len(settings.dtypes))
        results = compare_layers(reference, compared, preparation.plan, images, dtype, settings.modes, step)
        _require_all(results, preparation, settings)
        layers += results
    return tuple(layers), described


def in_dtype(model: EfficientDet, preparation: Preparation, dtype: DType) -> EfficientDet:
    """Return a copy of a model in a dtype, fit for the proof.

    In float64, a folded mean that is the exact float32 rounding of its derivation is replaced by that derivation in
    float64: the one rounding of the fold would otherwise hide what float64 can show. Any other tensor stays as it is.
    """
    copy = deepcopy(model)  # and not a new one: what its layers compute must be the model's, too
    state_dict = dict(model.state_dict())
    if dtype == "float64":
        for key, entry in preparation.plan.targets.items():
            if entry.folds is not None:
                exact = derive(entry, preparation.source, preparation.view, np.dtype(np.float64))
                rounded = derive(entry, preparation.source, preparation.view, np.dtype(np.float32))
                if np.array_equal(state_dict[key].numpy(), rounded):
                    state_dict[key] = torch.from_numpy(exact)
    copy.to(getattr(torch, dtype)).load_state_dict(state_dict)
    return copy.eval()


def build_reference(preparation: Preparation, kind: ReferenceKind, dtype: DType) -> Reference:
    """Build a TensorFlow reference on the variables of a preparation.

    Raises:
        ParityError: The graph is asked for, and there is none, or not in this dtype.
    """
    variables, config = StoredVariables(preparation), preparation.settings.config
    if kind == "built-in":
        return TensorFlowReference(config, variables, dtype, preparation.family is BACKBONE)
    prefix = getattr(preparation.source, "prefix", None)
    meta = find_meta_graph(prefix) if prefix is not None else None
    if meta is None:
        raise ParityError(f"{preparation.source.path} has no .meta beside it: use the built-in reference")
    if dtype != "float32":
        raise ParityError(f"{meta.name} computes in float32: add --dtype float32")
    return GraphReference(meta, config, variables)


def network_input(config: EfficientDetConfig, settings: Settings) -> NDArray[Any]:
    """Return the images (1, H, W, 3), float32, normalised, that both networks run on."""
    height, width = settings.image_size or _default_size(config.image_size)
    config = replace(config, image_size=(height, width))
    if settings.image is None:
        return np.random.default_rng(settings.seed).standard_normal((1, height, width, 3), np.float32)
    batch, _ = preprocess([read_image(settings.image)], config)
    return batch.permute(0, 2, 3, 1).contiguous().numpy()


def _default_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return a model's image size where it is not too large."""
    height, width = size
    if height * width <= MAX_DEFAULT_PIXELS**2:
        return size
    return min(height, MAX_DEFAULT_PIXELS), min(width, MAX_DEFAULT_PIXELS)


def _require_all(results: list[LayerResult], preparation: Preparation, settings: Settings) -> None:
    """Refuse a comparison that left layers out; a graph shows only some of them, the built-in reference all."""
    if settings.reference == "built-in" and (left_out := uncompared(preparation.plan, results)):
        raise ParityError(
            f"{len(left_out)} layers were not compared, the first is {left_out[0]}: the proof is incomplete"
        )


def _share(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Return the progress of one of several equal parts."""
    return None if progress is None else lambda done, total: progress(number * total + done, count * total)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("numpy", "torch", "timm")
    return {"effdet-convert": __version__, "python": platform.python_version()} | {
        n: packages.version(n) for n in names
    }


def _plain(settings: Settings, images: NDArray[Any]) -> dict[str, Any]:
    return {
        "input": "noise" if settings.image is None else settings.image.name,
        "seed": settings.seed,
        "image_size": list(images.shape[1:3]),
        "dtypes": list(settings.dtypes),
        "modes": list(settings.modes),
        "reference": settings.reference,
    }
