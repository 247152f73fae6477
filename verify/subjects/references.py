"""The TensorFlow side: a reference on the variables of one copy of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.conversion import Preparation
from converter.hparams.fields import OPTION, stated_hparams
from converter.hparams.pipeline import pipeline_paths
from converter.identify.effdet_package import no_tensorflow_original
from converter.identify.families import BACKBONE, OBJECT_DETECTION_API
from converter.source import VariableSource
from effdet_torch.config import EfficientDetConfig
from verify.errors import ReferenceModelError
from verify.reference.network import TensorFlowReference
from verify.reference.object_detection_api.variables import ApiVariables, read_coder, seen_in_api
from verify.reference.official.config_file import CONFIG_FILE, find_config_file, read_config_file
from verify.reference.official.hparams import Hparams, read_hparams
from verify.results.verification import DType
from verify.subjects.seen import seen_hparams

# Origins of settings that the reference finds out by itself, as a file's metadata call them.
OWN_READING = ("names and shapes", "variant default", "assumed")


class StoredVariables(Mapping[str, NDArray[Any]]):
    """The variables of one view by their TensorFlow names, read when asked for."""

    def __init__(self, preparation: Preparation) -> None:
        self._source, self._stored = preparation.source, preparation.view.stored

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._source.read(self._stored[name])

    def __contains__(self, name: object) -> bool:
        return name in self._stored  # the inherited method would read the variable

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def build_reference(preparation: Preparation, dtype: DType) -> TensorFlowReference:
    """Build the TensorFlow reference on the variables of a preparation."""
    stored, config = StoredVariables(preparation), preparation.settings.config
    hparams = official_hparams(preparation, passed_hparams(preparation, config, preparation.settings.origins))
    if preparation.family is not OBJECT_DETECTION_API:
        return TensorFlowReference(hparams, stored, dtype, preparation.family is BACKBONE)
    variables = ApiVariables(stored, hparams.num_scales, read_coder(pipeline_paths(preparation.source.facts.folder)))
    return TensorFlowReference(hparams, variables, dtype, names=variables.names)


def official_hparams(preparation: Preparation, passed: Mapping[str, Any]) -> Hparams:
    """Read the hyperparameters of a checkpoint a second time, independently of the converter.

    The last one counts: the variant's default, names and shapes, a `config.yaml` that belongs to the source, what the
    source itself knows, `passed`.

    Args:
        preparation: says which source, copy and variant.
        passed: hyperparameters in the official syntax that the user passed on conversion.

    Raises:
        ReferenceModelError: One of them cannot be read, or the reference cannot compute it.
    """
    source, stored, config = preparation.source, preparation.view.stored, preparation.settings.config
    if isinstance(config, EfficientDetConfig) and (reason := no_tensorflow_original(config)):
        raise ReferenceModelError(
            f"{config.name} has no TensorFlow original to compare with: {reason}. --mode fused compares the tensors "
            "with the source's, and the network that runs with the model; see also docs/sources/effdet.md"
        )
    see = seen_in_api if preparation.family is OBJECT_DETECTION_API else seen_hparams
    given: list[Mapping[str, Any]] = [see({name: source.variables[stored[name]].shape for name in stored})]
    if (path := _config_file(source)) is not None:
        given.append(read_config_file(path))
    given += [hparams for _, hparams in source.facts.given]
    return read_hparams(*given, passed, variant=config.name)


def passed_hparams(preparation: Preparation, config: EfficientDetConfig, origins: Mapping[str, str]) -> dict[str, Any]:
    """Return the hyperparameters of a config that only its metadata know: options, the table of official files.

    Args:
        preparation: of the checkpoint; a `config.yaml` that belongs to it is read again, one that is gone cannot be.
        config: of a model.
        origins: {field of the config: where its value is from}.
    """
    own = OWN_READING if _config_file(preparation.source) is None else (*OWN_READING, CONFIG_FILE)
    unread = {field: OPTION for field, origin in origins.items() if not origin.startswith(own)}
    return stated_hparams(config, unread)


def _config_file(source: VariableSource) -> Path | None:
    return find_config_file(source.facts.folder) if source.facts.takes_config_file else None
