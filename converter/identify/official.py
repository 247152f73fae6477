"""The official checkpoints by name: which exist, where they lie, and what their names and shapes cannot tell.

Source: `mappings/official.yaml`, the one table of them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import yaml

from converter.errors import MappingError
from converter.identify.hparams import READERS, config_fields, parse_hparams
from converter.plan.yaml_nodes import NodeReader
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError

MIRROR_VARIABLE = "EFFDET_OFFICIAL_URL"
PREFIX = "efficientdet-"
_FILE = "mappings/official.yaml"
_LOOKS_OFFICIAL = re.compile(r"(?:efficientdet-)?((?:d|lite)\d+[a-z]?)((?:-(?:\d+|advprop))*)(\.h5|\.tar\.gz|\.tgz)?")
_ARCHIVE = re.compile(r"\.tar\.gz|\.tgz")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[a-z0-9]+(/[a-z0-9]+([.-][a-z0-9]+)*)+")


@dataclass(frozen=True)
class OfficialFile:
    """One published checkpoint.

    Attributes:
        name: "efficientdet-d0", "efficientdet-d0.h5", "efficientdet-d4-640", "efficientdet-d0-advprop".
        variant: a key of `VARIANTS`.
        url: where it lies, or its copy on the mirror.
        original_url: where it lies.
        hparams: official hyperparameters that names and shapes cannot tell.
        ap: on COCO val2017 in 0..100, as its authors publish it.
        size_bytes: of the file; None where nobody has measured it.
        sha256: of the file, in lower-case hexadecimal digits; None where nobody has measured it.
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
        """What the model expects of a pixel x in 0..255, in words fit for a listing."""
        config = self.config
        if config.normalization == "advprop":
            return "x * 2 / 255 - 1"
        return f"mean {_per_channel(config.mean_rgb)}; std {_per_channel(config.std_rgb)}"


def official_files() -> Mapping[str, OfficialFile]:
    """Return all official files by name, in the table's order.

    The environment variable `EFFDET_OFFICIAL_URL` names a mirror: an address with the same paths below it.

    Raises:
        MappingError: The table breaks its grammar; the text names file, line and what is expected.
    """
    return _read_files(os.environ.get(MIRROR_VARIABLE, ""))


def find_official(name: str) -> OfficialFile | None:
    """Return the official file that a user means.

    Args:
        name: in any case and with or without "efficientdet-": "d0", "EfficientDet-D0", "d4-640", "d0.h5",
            "efficientdet-lite0.tgz"; or the whole URL.

    Returns:
        None for what does not look like the name of an official file.

    Raises:
        ConfigError: It looks like one, and there is none; the text says which there are.
    """
    if "://" in name:
        wanted = _place(name)
        files = official_files().values()
        return next((file for file in files if wanted in (_place(file.url), _place(file.original_url))), None)
    match = _LOOKS_OFFICIAL.fullmatch(name.lower().replace("_", "-"))
    if match is None:
        return None
    variant, ending, suffix = match[1], match[2], match[3] or ""
    is_archive = bool(_ARCHIVE.fullmatch(suffix))
    file = official_files().get(f"{PREFIX}{variant}{ending}{'' if is_archive else suffix}")
    if file is None or (is_archive and not file.url.endswith(suffix)):
        raise ConfigError(f"there is no official file {name!r}; {_which_exist(variant, ending)}")
    return file


def parse_official(text: bytes, mirror: str = "") -> Mapping[str, OfficialFile]:
    """Parse the table of official files, see `official_files`."""
    return _Parser(_FILE).table(text, mirror)


@cache
def _read_files(mirror: str) -> Mapping[str, OfficialFile]:
    return parse_official((resources.files("mappings") / "official.yaml").read_bytes(), mirror)


def _place(url: str) -> tuple[str, str]:
    """Return host and path of a URL: scheme, port, query and fragment do not make another file of it."""
    parts = urlsplit(url)
    return (parts.hostname or "").lower(), parts.path


def _per_channel(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _which_exist(variant: str, ending: str) -> str:
    files = official_files().values()
    same_variant = [file.short_name for file in files if file.variant == variant]
    if not same_variant:
        variants = list(dict.fromkeys(file.variant for file in files))
        closest = difflib.get_close_matches(variant, variants, n=1)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        return f"the official variants are {', '.join(variants)}{hint}"
    same_ending = [file.short_name for file in files if ending and file.short_name == file.variant + ending]
    alike = f"; with {ending} there are {', '.join(same_ending)}" if same_ending else ""
    return f"of {variant} there are {', '.join(same_variant)}{alike}"


class _Parser(NodeReader):
    """The grammar: one method per construct."""

    def table(self, text: bytes, mirror: str) -> Mapping[str, OfficialFile]:
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise MappingError(f"{self.file} is not YAML: {error}") from error
        sections = ("base_url", "collections", "checksums")
        root = self.fields(node, sections, required=sections)
        base_url = self.text(root["base_url"])
        if not base_url.startswith("https://"):
            raise self.error(root["base_url"], f"{base_url!r} is no https address")
        base_url, mirror = base_url.rstrip("/"), mirror.rstrip("/")
        checksum_nodes = self.mapping(root["checksums"])
        checksums = {path: self.checksum(node) for path, node in checksum_nodes.items()}
        files: dict[str, OfficialFile] = {}
        for collection in self.sequence(root["collections"]):
            for name, path, file in self.collection(collection):
                if name in files:
                    raise self.error(collection, f"file {name!r} stands in two collections")
                file |= {"url": f"{mirror or base_url}/{path}", "original_url": f"{base_url}/{path}"}
                files[name] = OfficialFile(name, **file, **checksums.pop(path, {}))
        if checksums:
            path = min(checksums)
            raise self.error(checksum_nodes[path], f"{path!r} is the path of no file above")
        return files

    def collection(self, node: yaml.Node) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (name, path, other fields) of every file in a collection."""
        keys = ("name", "hparams", "files", "ap")
        fields = self.fields(node, keys, required=keys)
        self.text(fields["name"])
        paths = {key: self.path(path) for key, path in self.mapping(fields["files"]).items()}
        files = []
        for variant, ap_node in self.mapping(fields["ap"]).items():
            if variant not in VARIANTS:
                raise self.error(ap_node, f"variant {variant!r} does not exist; known are {', '.join(VARIANTS)}")
            hparams, ap = self.hparams(fields["hparams"], variant), self.ap(ap_node)
            for name, path in paths.items():
                name = name.replace("{variant}", variant)
                if not (name.startswith(PREFIX) and _LOOKS_OFFICIAL.fullmatch(name)):
                    raise self.error(fields["files"], f"{name!r} is not a name that could be asked for")
                values = {"variant": variant, "hparams": hparams, "ap": ap}
                files.append((name, path.replace("{variant}", variant), values))
        return files

    def path(self, node: yaml.Node) -> str:
        path = self.template(node, "variant")
        if not _PATH.fullmatch(path.replace("{variant}", "d0")):
            raise self.error(node, f"{path!r} is not the path of a file below the base URL")
        return path

    def hparams(self, node: yaml.Node, variant: str) -> Mapping[str, Any]:
        text = self.template(node, "variant").replace("{variant}", variant)
        try:
            values = parse_hparams(text)
            get_config(variant, **config_fields(values))
        except ConfigError as error:
            raise self.error(node, str(error)) from error
        if unknown := sorted(set(values) - {*READERS, "name"}):
            raise self.error(node, f"hyperparameter {unknown[0]!r} is unknown; known are name, {', '.join(READERS)}")
        return values

    def ap(self, node: yaml.Node) -> float:
        is_number = node.tag in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int")
        if not is_number or not re.fullmatch(r"\d{1,2}(\.\d+)?", node.value):
            raise self.error(node, f"expected an AP in 0..100, found {node.value!r}")
        return float(node.value)

    def checksum(self, node: yaml.Node) -> dict[str, Any]:
        fields = self.fields(node, ("size_bytes", "sha256"), required=())
        found: dict[str, Any] = {}
        if "size_bytes" in fields:
            found["size_bytes"] = self.integer(fields["size_bytes"])
        if "sha256" in fields:
            found["sha256"] = self.text(fields["sha256"])
            if not _SHA256.fullmatch(found["sha256"]):
                raise self.error(fields["sha256"], "expected 64 hexadecimal digits in lower case")
        return found
