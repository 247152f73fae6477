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
from effdet_torch.architecture.names import did_you_mean, has_prefix, short_name
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError

MIRROR_VARIABLE = "EFFDET_OFFICIAL_URL"
PREFIX = "efficientdet-"
_LOOKS_OFFICIAL = re.compile(r"((?:d|lite)\d+[a-z]?)((?:-(?:\d+|advprop))*)(\.h5|\.tar\.gz|\.tgz)?")


@dataclass(frozen=True)
class OfficialFile:
    """One published checkpoint.

    Attributes:
        name: "efficientdet-d0", "efficientdet-d0.h5", "efficientdet-d4-640", "efficientdet-d0-advprop".
        variant: a key of `VARIANTS`.
        url: address of the file, on the mirror if there is one.
        original_url: address of the original.
        hparams: official hyperparameters that names and shapes cannot tell.
        ap: on COCO val2017 in 0..100, as its authors publish it.
        size_bytes: of the file; None if unknown.
        sha256: of the file, in lower-case hexadecimal digits; None if unknown.
    """

    name: str
    variant: str
    url: str
    original_url: str
    hparams: Mapping[str, Any]
    ap: float
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def short_name(self) -> str:
        """The name without its prefix: "d0", "d4-640"."""
        return self.name.removeprefix(PREFIX)

    @property
    def config(self) -> EfficientDetConfig:
        """The config of the model: the variant's, with what the hyperparameters change."""
        return get_config(self.variant, **config_fields(self.hparams))

    @property
    def input_scaling(self) -> str:
        """How the model expects a pixel x in 0..255 to be scaled, in words for a listing."""
        config = self.config
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
        ConfigError: It looks like one, but no such file exists; the text lists those that do.
    """
    if "://" in name:
        wanted = _place(name)
        files = official_files().values()
        return next((file for file in files if wanted in (_place(file.url), _place(file.original_url))), None)
    match = _LOOKS_OFFICIAL.fullmatch(short_name(name))
    if match is None:
        return None
    variant, ending, suffix = match[1], match[2], match[3] or ""
    is_archive = suffix in (".tar.gz", ".tgz")
    file = official_files().get(f"{PREFIX}{variant}{ending}{'' if is_archive else suffix}")
    if file is None or (is_archive and not file.url.endswith(suffix)):
        raise ConfigError(f"{name!r} is not an official file; {_which_exist(variant, ending)}")
    return file


def nearest_official(name: str) -> str:
    """Return a question with the official name that is closest to one with an official prefix; "" for other names."""
    names = [file.short_name for file in official_files().values()] if has_prefix(name) else []
    return did_you_mean(short_name(name), names)


@cache
def _read_files(mirror: str) -> Mapping[str, OfficialFile]:
    table = yaml.safe_load((resources.files("mappings") / "official.yaml").read_bytes())
    original = table["base_url"]
    files = {}
    for collection in table["collections"]:
        for variant, ap in collection["ap"].items():
            hparams = parse_hparams(collection["hparams"].format(variant=variant))
            for name, path in collection["files"].items():
                name, path = name.format(variant=variant), path.format(variant=variant)
                urls = f"{mirror.rstrip('/') or original}/{path}", f"{original}/{path}"
                files[name] = OfficialFile(name, variant, *urls, hparams, ap, **table["checksums"].get(path, {}))
    return files


def _place(url: str) -> tuple[str, str]:
    """Return host and path of a URL; it is the same file whatever the scheme, port, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # not an address at all, so no official one
        return "", url
    return (parts.hostname or "").lower(), parts.path


def _per_channel(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _which_exist(variant: str, ending: str) -> str:
    files = official_files().values()
    same_variant = [file.short_name for file in files if file.variant == variant]
    if not same_variant:
        variants = list(dict.fromkeys(file.variant for file in files))
        return f"the official variants are {', '.join(variants)}{did_you_mean(variant, variants)}"
    same_ending = [file.short_name for file in files if ending and file.short_name == file.variant + ending]
    alike = f"; available with {ending}: {', '.join(same_ending)}" if same_ending else ""
    return f"available for {variant}: {', '.join(same_variant)}{alike}"
