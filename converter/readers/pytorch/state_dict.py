"""PyTorch files as a source: the tensors of a state_dict, turned back into TensorFlow variables when they are read.

So a PyTorch file can be converted to everything that a checkpoint can. It may be a converted file, a state_dict of the
`effdet` package, or a training checkpoint that holds one: `.pth` or `.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.formats.file_kind import SAFETENSORS, recognize_content
from converter.formats.pickled import Call, Name
from converter.identify.families import DETECTOR, recognize_state_dict
from converter.identify.own_metadata import parse_metadata, plain_metadata, require_version, with_metadata
from converter.plan.copies import stored_names
from converter.plan.engine import account_state_dict, revert
from converter.plan.expand import Entry, Plan
from converter.plan.table import Table
from converter.readers.pytorch.safetensors_file import read_safetensors_file
from converter.readers.pytorch.stored_tensor import StoredTensor
from converter.readers.pytorch.torch_file import read_torch_file
from converter.source import SourceFacts, VariableInfo, VariableSource
from effdet_torch.config import is_backbone
from effdet_torch.errors import ConfigError
from effdet_torch.file_format import METADATA_KEY

Tensors = dict[str, StoredTensor]
# Keys under which training scripts save each copy: timm's, then effdet's.
COPIES = {"raw": ("state_dict", "model"), "ema": ("state_dict_ema", "model_ema")}
SAVE = "Save the state_dict of the one network to convert: torch.save(model.state_dict(), ...)."
SAVE_PLAIN = "Save plain tensors: .dequantize(), .to_dense(), .resolve_conj(), .resolve_neg()."
MAX_TENSORS = 5_000  # of D7x: 2114
BATCH_COUNTER = ".num_batches_tracked"
_MAKERS = ("torch._utils._rebuild", "torch._tensor._rebuild")
NO_METADATA = (
    "the file holds weights only: image size, input scaling, anchor scale and ratios, fusion method and activation are "
    "the variant's defaults unless --hparams says otherwise; an AdvProp model needs --hparams scale_range=true"
)
NO_BIASES = (
    "no biases in front of batch norms: right if the file was converted from TensorFlow; a model that effdet trained "
    "under a name without tf_ (efficientdet_d0) uses different padding and normalisation: a different network"
)


class StateDict(VariableSource):
    """The variables of a PyTorch file, under their TF1 names."""

    def __init__(self, path: Path) -> None:
        """Read names, shapes and metadata.

        Raises:
            SourceError: The file cannot be opened, is damaged, or does not hold the state_dict of an EfficientDet.
            AccountingError: Tensors are missing, unexpected or of another shape.
        """
        content, metadata = read_model_file(path)
        if is_backbone(metadata):
            raise UnsupportedSourceError(
                f"{path}: a converted backbone without a detector. Load it with effdet_torch.load_backbone, or convert "
                "its checkpoint again."
            )
        self._places: dict[str, tuple[StoredTensor | None, Entry, int]] = {}
        table = DETECTOR.table
        copies, notes = find_copies(path, content, table)
        facts = with_metadata(SourceFacts("PyTorch file", path, path.absolute().parent), metadata)
        # A config.yaml in the folder belongs to a checkpoint or another tool. Two copies are those of further training,
        # under their own names.
        held_view = facts.held_view if list(copies) == ["raw"] else None
        notes = [*([] if facts.given else [NO_METADATA]), *notes]
        is_folded = False
        for view, tensors in copies.items():
            plan = _plan(path, tensors)
            self._add(tensors, plan, view if held_view is None else "raw")
            is_folded = not plan.config.redundant_bias
            notes += _tensor_notes(tensors, [NO_BIASES] if is_folded and not facts.given else [])
        super().__init__(
            replace(
                facts,
                takes_config_file=False,
                held_view=held_view,
                is_folded=is_folded,
                notes=tuple(dict.fromkeys(notes)),
            )
        )
        self._variables = {
            name: VariableInfo("float32" if tensor is None else tensor.dtype, entry.shape)
            for name, (tensor, entry, _) in self._places.items()
        }

    @property
    def variables(self) -> Mapping[str, VariableInfo]:
        """All variables that the tensors represent; folded biases are zeros."""
        return self._variables

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable, computed from its tensor."""
        tensor, entry, number = self._places[name]
        try:
            return np.asarray(revert(entry, np.zeros(0) if tensor is None else tensor.array())[number])
        except CorruptFileError as error:
            raise CorruptFileError(f"{self.path}: {entry.target}: {error}. Download or copy it again.") from error
        except UnsupportedSourceError as error:
            raise UnsupportedSourceError(f"{self.path}: {entry.target}: {error}.") from error

    def files(self) -> tuple[Path, ...]:
        """Return the file."""
        return (self.path,)

    def close(self) -> None:
        """Nothing to do: the file is unmapped when the last array is gone."""

    def _add(self, tensors: Tensors, plan: Plan, view: str) -> None:
        names = stored_names(plan, view)
        for entry in plan.entries:
            tensor = None if entry.target is None else tensors.get(entry.target)
            for number, name in enumerate(entry.sources):
                self._places[names[name]] = tensor, entry, number


def _plan(path: Path, tensors: Tensors) -> Plan:
    """Return the plan that a state_dict fits."""
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    try:
        config = recognize_state_dict(shapes).config()
    except (ConfigError, UnsupportedSourceError) as error:
        raise UnsupportedSourceError(f"{path}: {error}") from error
    folded, kept = (DETECTOR.plan(replace(config, redundant_bias=bias)) for bias in (False, True))
    plan = kept if any(key in shapes for key in kept.targets.keys() - folded.targets.keys()) else folded
    account_state_dict(shapes, plan).require_complete(f"{path} is not a complete state_dict")
    return plan


def read_model_file(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return what a `.pth` or `.safetensors` file holds, and its metadata; {} if it was not written by this project.

    Raises:
        SourceError: The file cannot be opened, or is damaged.
    """
    try:
        is_safetensors = recognize_content(path) == SAFETENSORS
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error}.") from error
    if not is_safetensors:
        content = read_torch_file(path)
        metadata = plain_metadata(content.get("metadata")) if isinstance(content, dict) else {}
        return content, require_version(path, metadata)  # {} if another tool uses this key
    tensors, texts = read_safetensors_file(path)
    return tensors, parse_metadata(path, texts[METADATA_KEY]) if METADATA_KEY in texts else {}


def find_copies(path: Path, content: Any, table: Table) -> tuple[dict[str, Tensors], list[str]]:
    """Return {view: tensors of the network by their keys}, and notes on what else the file holds.

    Raises:
        UnsupportedSourceError: There is no state_dict of an EfficientDet.
    """
    held = content if isinstance(content, dict) else {}
    last = str(table.state_dict["class_channels"]["size_of"])
    named = {
        view: next((held[key] for key in keys if isinstance(held.get(key), dict)), None)
        for view, keys in COPIES.items()
    }
    if named["raw"] is None and named["ema"] is None:
        named["raw"] = held
    found = {view: _of_network(path, tensors, last) for view, tensors in named.items() if tensors is not None}
    notes = [f"{len(o)} tensors beside the network's: {', '.join(map(repr, o[:3]))}" for _, o in found.values() if o]
    used = [id(tensors) for tensors in named.values()]
    notes += [
        f"another network under {str(key)[:80]!r} is not used; to convert it, save it to a file of its own first"
        for key, value in held.items()
        if id(value) not in used and _has_network(value, last)
    ]
    return {view: tensors for view, (tensors, _) in found.items()}, notes


def _has_network(value: Any, last: str) -> bool:
    """Whether a value is a state_dict, or holds one directly."""
    if not isinstance(value, dict):
        return False
    ends = any(isinstance(key, str) and key.endswith(last) for key in value)
    return ends or any(isinstance(inner, dict) and last in inner for inner in value.values())


def _of_network(path: Path, state_dict: Mapping[Any, Any], last: str) -> tuple[Tensors, list[str]]:
    """Return the tensors of the network, without the name of a module around it, and the keys of all others."""
    tensors = {
        key: value for key, value in state_dict.items() if isinstance(value, StoredTensor) and isinstance(key, str)
    }
    prefixes = [key.removesuffix(last) for key in tensors if key == last or key.endswith(f".{last}")]
    if not prefixes:
        example = f"it begins with {next(iter(tensors))[:80]!r}" if tensors else "it holds no tensors"
        raise UnsupportedSourceError(
            f"{path}: not a state_dict of an EfficientDet with the keys of effdet: no key ends in {last}; {example}. "
            f"{SAVE}"
        )
    if len(prefixes) > 1:
        named = " and ".join(map(repr, prefixes[:3]))
        raise UnsupportedSourceError(f"{path}: {len(prefixes)} networks, whose keys begin with {named}. {SAVE}")
    prefix = prefixes[0]
    for key, value in state_dict.items():
        if isinstance(key, str) and key.startswith(prefix) and (maker := _maker(value)):
            raise UnsupportedSourceError(
                f"{path}: {key[:200]!r} is not a plain tensor: it is created by {maker}. {SAVE_PLAIN}"
            )
    network = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    if len(network) > MAX_TENSORS:
        raise UnsupportedSourceError(f"{path}: {len(network)} tensors; expected an EfficientDet. {SAVE}")
    return network, [key for key in tensors if not key.startswith(prefix)]


def _tensor_notes(tensors: Tensors, notes: list[str]) -> list[str]:
    """Add notes on what the result does not keep of a file's tensors."""
    if wide := [key for key, tensor in tensors.items() if tensor.dtype == "float64"]:
        notes.append(f"{len(wide)} tensors are float64; the result has float32")
    counters = [tensor for key, tensor in tensors.items() if key.endswith(BATCH_COUNTER)]
    if any(tensor.array().any() for tensor in counters):
        notes.append("the batch counters of batch norms are not kept, as TensorFlow has none: they start at 0")
    return notes


def _maker(value: Any) -> str | None:
    """Return the PyTorch function that would create a tensor of another kind: quantized, sparse, without values."""
    is_tensor = isinstance(value, Call) and isinstance(value.function, Name) and value.function.path.startswith(_MAKERS)
    return value.function.path if is_tensor else None
