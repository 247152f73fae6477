"""The built-in TensorFlow reference of a config, for tests that have no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from numpy.typing import NDArray

from converter.hparams.fields import hparams_of
from effdet_torch.config import EfficientDetConfig
from verify.reference.network import TensorFlowReference
from verify.reference.official.hparams import Hparams, read_hparams


def built_in(
    config: EfficientDetConfig, variables: Mapping[str, NDArray[Any]], dtype: Literal["float32", "float64"] = "float32"
) -> TensorFlowReference:
    """Return the reference of a config on some variables."""
    return TensorFlowReference(config_hparams(config), variables, dtype)


def config_hparams(config: EfficientDetConfig) -> Hparams:
    """Return the hyperparameters of a model that no checkpoint belongs to."""
    return read_hparams(hparams_of(config))
