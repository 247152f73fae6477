"""What a PyTorch file says of its network besides the tensors: the settings of its training, for `SourceFacts.given`.

A training checkpoint of the `effdet` package has the model's name beside the state_dict (`arch`). A pickled model has
its whole config, and so has one of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converter.errors import UnsupportedSourceError
from converter.formats.pickled import Call
from converter.hparams.fields import hparams_of
from converter.readers.pytorch.effdet_settings import settings_of_name, training_hparams
from converter.readers.pytorch.find_network import SAVE, WRAPPERS, Network
from converter.readers.pytorch.pickled_model import (
    MAX_NESTING,
    MODULES,
    attributes_of,
    class_of,
    is_model,
    plain_settings,
)
from effdet_torch.config import MODELS, EfficientDetConfig
from effdet_torch.errors import ConfigError

NAME, ARGUMENTS, CONFIG = "arch", "args", "config"  # where timm's saver and the models keep them
SCRIPT_OPTIONS = ("mean", "std")  # of effdet's train.py: they replace the model's, if given
OWN_CONFIG = "effdet_torch.config.EfficientDetConfig"
FUSION = "fpn_weight_method"
MAX_VALUES = 10_000
MAX_NOTE = 1000  # characters
_OF_ANOTHER_TYPE = (AttributeError, ConfigError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Training:
    """What is known about the training of a network.

    Attributes:
        origin: where it is from, in words.
        hparams: official hyperparameters; {} if nothing is known.
        is_whole: whether the settings are those of a named model, so that nothing else of it is unknown.
    """

    origin: str = ""
    hparams: Mapping[str, Any] = field(default_factory=dict)
    is_whole: bool = False

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        values = ", ".join(f"{name} {value}" for name, value in self.hparams.items() if name != "name")
        return [f"{self.origin}: {values}"[:MAX_NOTE]] if values else []


def training_of(path: Path, network: Network) -> Training:
    """Return what is known about the training of a network.

    Args:
        path: for error texts.
        network: with the dictionaries around it.

    Raises:
        UnsupportedSourceError: It is a model of the `effdet` package that is not supported, or one that computes
            something else than a supported network with the same tensors.
    """
    try:
        return _of_model(network) or _of_checkpoint(network.held.around) or Training()
    except UnsupportedSourceError as error:
        raise UnsupportedSourceError(f"{path}: {error}.") from error
    except _OF_ANOTHER_TYPE as error:
        problem = f"the settings of its model are not valid ({type(error).__name__})"
        raise UnsupportedSourceError(f"{path}: {problem}. {SAVE}") from error


def fitted(path: Path, training: Training, config: EfficientDetConfig) -> Training:
    """Return what of a training fits a network.

    Args:
        path: for error texts.
        training: what is known about it.
        config: what the tensors of the network show.

    Raises:
        UnsupportedSourceError: The name of its model is that of another backbone.
    """
    named = MODELS.get(str(training.hparams.get("name", "")).removeprefix("efficientdet-"))
    if named is not None and named.backbone != config.backbone:
        raise UnsupportedSourceError(
            f"{path}: {training.origin} belongs to a model with {named.backbone}, but the tensors are those of "
            f"{config.backbone}. {SAVE}"
        )
    method = training.hparams.get(FUSION)
    if method is None or (method != "sum") == (config.fusion != "sum"):
        return training
    hparams = {name: value for name, value in training.hparams.items() if name != FUSION}
    return replace(training, hparams=hparams)


def _of_model(network: Network) -> Training | None:
    """Read the config of a pickled model: of the innermost module around the network that has one."""
    module, configs = network.held.model, list[Call]()
    outer = network.prefix.split(".")[:-1]
    for _ in range(MAX_NESTING):
        if not is_model(module):
            break
        held = attributes_of(module)
        if isinstance(config := held.get(CONFIG), Call):
            configs.append(config)
        wrapped = [name[:-1] for name in WRAPPERS if name[:-1] in held[MODULES]]  # whose names are not in the prefix
        names = wrapped or outer[:1]
        outer = outer if wrapped else outer[1:]
        module = held[MODULES].get(names[0]) if names else None
    if not configs:
        return None
    settings = plain_settings(configs[-1], iter(range(MAX_VALUES)))
    if class_of(configs[-1]) == OWN_CONFIG:
        return Training("the config of the pickled model", hparams_of(EfficientDetConfig.from_dict(settings)), True)
    if settings and ("backbone_name" in settings or "aspect_ratios" in settings):
        return Training("the config of the pickled effdet model", training_hparams(settings), True)
    return None


def _of_checkpoint(around: Mapping[Any, Any]) -> Training | None:
    """Read the name of the model, and the options of the training script, beside a state_dict."""
    name = around.get(NAME)
    if not isinstance(name, str) or not (settings := settings_of_name(name)):
        return None
    if isinstance(arguments := around.get(ARGUMENTS), Call):
        for option in SCRIPT_OPTIONS:
            given = plain_settings(arguments.attributes.get(option), iter(range(MAX_VALUES)))
            if isinstance(given, list) and len(given) in (1, 3):
                settings[option] = given * (3 // len(given))
    origin = f"the training of effdet ({NAME} {name!r})"
    return Training(origin, training_hparams(settings), is_whole="name" in settings)
