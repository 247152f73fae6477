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
from converter.identify.effdet_package import no_tensorflow_original
from converter.identify.families import DETECTOR, recognize_state_dict
from converter.identify.own_metadata import (
    parse_metadata,
    plain_metadata,
    require_version,
    stated_config,
    with_metadata,
)
from converter.plan.copies import WORDS, stored_names
from converter.plan.engine import account_state_dict, revert
from converter.plan.expand import Entry, Plan
from converter.plan.ops import Shape
from converter.readers.pytorch.copies_in_file import Copies, choose_copies
from converter.readers.pytorch.find_network import Network, Tensors, find_networks
from converter.readers.pytorch.safetensors_file import read_safetensors_file
from converter.readers.pytorch.stored_tensor import StoredTensor
from converter.readers.pytorch.torch_file import read_torch_file
from converter.readers.pytorch.training_settings import Training, fitted, training_of
from converter.source import OPTIMIZER_STATE, OTHER_COPY, SourceFacts, VariableInfo, VariableSource
from effdet_torch.config import EfficientDetConfig, is_backbone
from effdet_torch.errors import ConfigError
from effdet_torch.file_format import METADATA_KEY, SAVED_BY

NOT_IN_KEYS = ("min_level", "max_level", "fpn_name", "fpn_config", "conv_bn_act_pattern", "taps")
MODEL_CARD = "config.json"  # of a Hugging Face folder, which has no fixed form
UNREAD_AVERAGES = "what lies under {!r} is called averages, but has no keys of the network: it cannot be read"
ONE_COPY = "saved from PyTorch, which has one copy of the weights; whether they are averages (EMA) is not recorded"
FOLDED_BIASES = "the biases in front of batch norms apart from the moving means"
BATCH_COUNTER = ".num_batches_tracked"
NO_METADATA = (
    "the file holds weights only; an AdvProp model needs --hparams mean_rgb=0,stddev_rgb=1,scale_range=true, one that "
    "effdet trained has the anchor ratios (1.4, 0.7) and (0.7, 1.4) instead of 2.0 and 0.5"
)

NO_BIASES = (
    "no biases in front of batch norms: right if the file was converted from TensorFlow; a model that effdet trained "
    "under a name without tf_ (efficientdet_d0) uses different padding and normalisation, and needs that name as "
    "--variant, or for a custom architecture --hparams padding=symmetric,backbone_style=pytorch"
)


class StateDict(VariableSource):
    """The variables of a PyTorch file, under their TF1 names."""

    def __init__(self, path: Path, file: Path | None = None) -> None:
        """Read names, shapes and metadata.

        Args:
            path: what the user named.
            file: the file itself, where the user named its folder.

        Raises:
            SourceError: The file cannot be opened, is damaged, or does not hold the state_dict of an EfficientDet.
            AccountingError: Tensors are missing, unexpected or of another shape.
        """
        self._file = file or path
        content, metadata = read_model_file(self._file)
        if is_backbone(metadata):
            raise UnsupportedSourceError(
                f"{path}: a converted backbone without a detector. Load it with effdet_torch.load_backbone, or convert "
                "its checkpoint again."
            )
        rules = DETECTOR.table.state_dict
        last = [key for head in ("class_channels", "seg_classes") for key in str(rules[head]["size_of"]).split()]
        networks, dictionaries = find_networks(self._file, content, last)
        copies = choose_copies(self._file, list(map(_with_usual_keys, networks)), dictionaries)
        facts = with_metadata(SourceFacts("PyTorch file", path, self._file.absolute().parent), metadata)
        trainings = {} if facts.given else {view: training_of(self._file, n) for view, n in copies.by_view.items()}
        plans = _plans(self._file, copies, stated_config(metadata))
        # Two copies are those of further training, under their own names.
        held_view = facts.held_view if list(plans) == ["raw"] else None
        self._places: dict[str, tuple[StoredTensor | None, Entry, int]] = {}
        for view, plan in plans.items():
            self._add(copies.by_view[view].tensors, plan, view if held_view is None else "raw")
        variables = {
            name: VariableInfo("float32" if tensor is None else tensor.dtype, entry.shape)
            for name, (tensor, entry, _) in self._places.items()
        }
        is_folded = not all(plan.config.redundant_bias for plan in plans.values())
        facts = replace(
            facts,
            takes_config_file=False,
            held_view=held_view,
            checksums=_checksums(copies),
            is_folded=is_folded,
            unrecoverable=(*[OTHER_COPY] * (len(plans) < 2), *[FOLDED_BIASES] * is_folded, OPTIMIZER_STATE),
            raw_reason=_raw_reason(copies, metadata, held_view),
            notes=(*copies.notes, *(note for network in copies.by_view.values() for note in _tensor_notes(network))),
        )
        if file and (file.parent / MODEL_CARD).is_file():
            facts = replace(facts, notes=(*facts.notes, f"{MODEL_CARD} in the folder is not read"))
        facts = facts if facts.given else _of_another_tool(self._file, facts, copies, plans, trainings)
        super().__init__(facts, variables)

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable, computed from its tensor."""
        tensor, entry, number = self._places[name]
        try:
            return np.asarray(revert(entry, np.zeros(0) if tensor is None else tensor.array())[number])
        except CorruptFileError as error:
            raise CorruptFileError(f"{self._file}: {entry.target}: {error}. Download or copy it again.") from error
        except UnsupportedSourceError as error:
            raise UnsupportedSourceError(f"{self._file}: {entry.target}: {error}.") from error

    def files(self) -> tuple[Path, ...]:
        """Return the file."""
        return (self._file,)

    def _add(self, tensors: Tensors, plan: Plan, view: str) -> None:
        names = stored_names(plan, view)
        for entry in plan.entries:
            tensor = None if entry.target is None else tensors.get(entry.target)
            for number, name in enumerate(entry.sources):
                self._places[names[name]] = tensor, entry, number


def _with_usual_keys(network: Network) -> Network:
    """Return the network under this project's keys; if two tensors then had the same key, as it is."""
    table = DETECTOR.table
    tensors = {table.usual_key(key): tensor for key, tensor in network.tensors.items()}
    return replace(network, tensors=tensors) if len(tensors) == len(network.tensors) else network


def _plans(path: Path, copies: Copies, stated: EfficientDetConfig | None) -> dict[str, Plan]:
    """Return {view: the plan that its state_dict fits}; finding one takes longer than reading the file."""
    shapes = {
        view: {key: tensor.shape for key, tensor in network.tensors.items()} for view, network in copies.by_view.items()
    }
    plans: dict[str, Plan] = {}
    for view, found in shapes.items():
        alike = [plan for other, plan in plans.items() if shapes[other] == found]
        plans[view] = alike[0] if alike else _plan(path, found, stated)
    return plans


def _plan(path: Path, shapes: Mapping[str, Shape], stated: EfficientDetConfig | None) -> Plan:
    """Return the plan that tensors of these shapes fit; a stated config says what their keys do not show."""
    try:
        config = recognize_state_dict(shapes).config()
        if stated is not None:
            config = replace(config, **{name: getattr(stated, name) for name in NOT_IN_KEYS})
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


def _checksums(copies: Copies) -> str:
    """Return which checksums the file has of the network's tensors; "" for none."""
    tensors = [tensor for network in copies.by_view.values() for tensor in network.tensors.values()]
    return next((tensor.storage.algorithm for tensor in tensors if tensor.storage.checksum is not None), "")


def _of_another_tool(
    file: Path, facts: SourceFacts, copies: Copies, plans: Mapping[str, Plan], trainings: Mapping[str, Training]
) -> SourceFacts:
    """Return the facts about a file of another tool: what it says of its training, and what it leaves open."""
    configs = {view: plan.config for view, plan in plans.items()}
    known = [fitted(file, training, configs[view]) for view, training in trainings.items()]
    training = next((training for training in known if training.hparams), Training())
    is_official = not any(map(no_tensorflow_original, configs.values()))
    open_questions = [NO_METADATA, *([NO_BIASES] if facts.is_folded else [])]
    if training.is_whole or not is_official:
        open_questions = []
    notes = [*open_questions, *training.notes, *_place_notes(copies), *facts.notes]
    given = ((training.origin, training.hparams),) if training.hparams else ()
    return replace(facts, given=given, notes=tuple(dict.fromkeys(notes)))


def _place_notes(copies: Copies) -> list[str]:
    """Return a note on where each network lies, unless its keys are the outermost ones."""
    return [
        f"the {WORDS[view]} are the network under {network}"
        for view, network in copies.by_view.items()
        if network.place or network.prefix
    ]


def _raw_reason(copies: Copies, metadata: Mapping[str, Any], held_view: str | None) -> str:
    if copies.unread:
        return UNREAD_AVERAGES.format(copies.unread[:80])
    tool = metadata.get("tool")
    is_saved = isinstance(tool, dict) and tool.get("name") == SAVED_BY
    return ONE_COPY if is_saved and held_view is None and list(copies.by_view) == ["raw"] else ""


def _tensor_notes(network: Network) -> list[str]:
    """Return notes on what the result does not keep of a network's dictionary."""
    notes = []
    if beside := network.beside:
        notes.append(f"{len(beside)} tensors beside the network's: {', '.join(map(repr, beside[:3]))}")
    if wide := [key for key, tensor in network.tensors.items() if tensor.dtype == "float64"]:
        notes.append(f"{len(wide)} tensors are float64; the result has float32")
    counters = [tensor for key, tensor in network.tensors.items() if key.endswith(BATCH_COUNTER)]
    if any(tensor.array().any() for tensor in counters):
        notes.append("the batch counters of batch norms are not kept, as TensorFlow has none: they start at 0")
    return notes
