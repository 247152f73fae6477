"""The official checkpoints by name: which exist, where they are, and what their names and shapes cannot tell.

Source: `mappings/official.yaml`, the only list of them; a test checks it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import yaml

from converter.hparams.fields import config_fields
from converter.hparams.syntax import parse_hparams
from effdet_torch.architecture.backbone import BACKBONES
from effdet_torch.architecture.effdet_models import PACKAGE_MODELS, UNSUPPORTED_MODELS
from effdet_torch.architecture.names import did_you_mean, has_prefix, short_name
from effdet_torch.config import BackboneConfig, EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError

MIRROR_VARIABLE = "EFFDET_OFFICIAL_URL"
PREFIX = "efficientdet-"
BACKBONE_PREFIX = "efficientnet-"
LIST = "effdet-convert --list prints those that exist"
# A variant, endings that are in the table or sizes, and a suffix.
_VARIANT = rf"(?:d|lite)\d+[a-z]?|{BACKBONE_PREFIX}(?:[bl]|lite)\d+"


@dataclass(frozen=True)
class OfficialFile:
    """One published checkpoint.

    Attributes:
        name: "efficientdet-d0", "efficientdet-d0.h5", "efficientdet-d4-640", "efficientdet-d0-advprop"; of a
            classifier, which is converted as a backbone, "efficientnet-b0", "efficientnet-b0-noisystudent".
        variant: a key of `VARIANTS`, or of `BACKBONES`.
        url: address of the file, on the mirror if there is one.
        original_url: address of the original.
        hparams: official hyperparameters that names and shapes cannot tell.
        ap: on COCO val2017 in 0..100, as its authors publish it; None if they do not.
        size_bytes: of the file; None if unknown.
        sha256: of the file, in lower-case hexadecimal digits; None if unknown.
    """

    name: str
    variant: str
    url: str
    original_url: str
    hparams: Mapping[str, Any]
    ap: float | None
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def short_name(self) -> str:
        """The name without its prefix: "d0", "d4-640"."""
        return self.name.removeprefix(PREFIX)

    @property
    def is_backbone(self) -> bool:
        """Whether it is a classifier, of which a backbone can be converted."""
        return self.variant in BACKBONES

    @property
    def config(self) -> EfficientDetConfig | BackboneConfig:
        """The config of the model: the variant's, with what the hyperparameters change."""
        if self.is_backbone:
            return BackboneConfig(self.variant)
        return get_config(self.variant, **config_fields(self.hparams))

    @property
    def input_scaling(self) -> str:
        """How a detector expects a pixel x in 0..255 to be scaled, in words for a listing; "" for a backbone."""
        config = self.config
        if isinstance(config, BackboneConfig):
            return ""
        if config.normalization == "advprop":
            return "x * 2 / 255 - 1"
        return f"mean {_per_channel(config.mean_rgb)}; std {_per_channel(config.std_rgb)}"


def official_files() -> Mapping[str, OfficialFile]:
    """Return all official files by name, in the table's order.

    The environment variable `EFFDET_OFFICIAL_URL` can name a mirror: an address with the same paths below it.
    """
    return _read_files(os.environ.get(MIRROR_VARIABLE, ""))


def find_official(name: str) -> OfficialFile | None:
    """Return the official file that a user means.

    Args:
        name: see `short_name`: "d0", "EfficientDet-D0", "tf_efficientdet_d0_ap", "d4-640", "d0.h5",
            "efficientdet-lite0.tgz"; or the whole URL.

    Returns:
        None if it does not look like the name of an official file.

    Raises:
        ConfigError: It looks like one, but no such file exists; the text lists those that do. Or it is a model of the
            `effdet` package's own, which is not an official one, and is not downloaded.
    """
    if "://" in name:
        wanted = _place(name)
        files = official_files().values()
        return next((file for file in files if wanted in (_place(file.url), _place(file.original_url))), None)
    _refuse_package_model(name)
    match = _official_names().fullmatch(short_name(name))
    if match is None:
        return None
    variant, ending, suffix = match[1], match[2], match[3] or ""
    is_archive = suffix in (".tar.gz", ".tgz")
    prefix = "" if variant.startswith(BACKBONE_PREFIX) else PREFIX
    file = official_files().get(f"{prefix}{variant}{ending}{'' if is_archive else suffix}")
    if file is None or (is_archive and not file.url.endswith(suffix)):
        raise ConfigError(f"{name!r} is not an official file; {_which_exist(variant, ending)}")
    return file


def nearest_official(name: str) -> str:
    """Return how to find the official name that one with an official prefix may mean; "" for other names."""
    short = short_name(name)
    prefix = BACKBONE_PREFIX if short.startswith(BACKBONE_PREFIX) else ""
    question = did_you_mean(short, (file.short_name for file in official_files().values()), prefix)
    return (question or f"; {LIST}") if has_prefix(name) else ""


@cache
def _read_files(mirror: str) -> Mapping[str, OfficialFile]:
    table = yaml.safe_load((resources.files("mappings") / "official.yaml").read_bytes())
    files = {}
    for collection in table["collections"]:
        original = collection.get("base_url", table["base_url"])
        for variant, ap in (collection.get("ap") or dict.fromkeys(collection["variants"])).items():
            hparams = parse_hparams(collection.get("hparams", "").format(variant=variant))
            for name, path in collection["files"].items():
                name, path = name.format(variant=variant), path.format(variant=variant)
                urls = f"{mirror.rstrip('/') or original}/{path}", f"{original}/{path}"
                kind = variant if name.startswith(PREFIX) else f"{BACKBONE_PREFIX}{variant}"
                files[name] = OfficialFile(name, kind, *urls, hparams, ap, **table["checksums"].get(path, {}))
    return files


@cache
def _official_names() -> re.Pattern[str]:
    """Return the pattern of what looks like a short name: a variant, endings, a suffix."""
    names = (file.short_name.removeprefix(file.variant) for file in official_files().values())
    endings = {word for name in names for word in re.findall(r"-([a-z]\w*)", name)}
    return re.compile(rf"({_VARIANT})((?:-(?:\d+|{'|'.join(sorted(endings))}))*)(\.h5|\.tar\.gz|\.tgz)?")


def _place(url: str) -> tuple[str, str]:
    """Return host and path of a URL; it is the same file whatever the scheme, port, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # not an address at all, so no official one
        return "", url
    return (parts.hostname or "").lower(), parts.path


def _per_channel(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _refuse_package_model(name: str) -> None:
    model = name.lower()
    if model in UNSUPPORTED_MODELS:
        raise ConfigError(f"{model} of the effdet package is not supported: {UNSUPPORTED_MODELS[model]}")
    if model in PACKAGE_MODELS:
        short = short_name(model)
        official = f"; the official model is {short!r}" if PREFIX + short in official_files() else ""
        raise ConfigError(
            f"{model} is a model of the effdet package, not downloaded here: pass its .pth file{official}"
        )


def _which_exist(variant: str, ending: str) -> str:
    is_backbone = variant.startswith(BACKBONE_PREFIX)
    files = [file for file in official_files().values() if file.is_backbone == is_backbone]
    same_variant = [file.short_name for file in files if file.variant == variant]
    if not same_variant:
        variants = list(dict.fromkeys(file.variant for file in files))
        question = did_you_mean(variant, variants, BACKBONE_PREFIX if is_backbone else "")
        return f"the official variants are {', '.join(variants)}{question}"
    same_ending = [file.short_name for file in files if ending and file.short_name == file.variant + ending]
    alike = f"; available with {ending}: {', '.join(same_ending)}" if same_ending else ""
    backbone = "" if is_backbone or not ending else f"{get_config(variant).backbone}{ending}"
    of_backbone = f"; available for its backbone: {backbone}" if backbone in official_files() else ""
    if of_backbone and not same_ending:
        alike = f"; no official detector was trained like that ({ending})"
    return f"available for {variant}: {', '.join(same_variant)}{alike}{of_backbone}"
