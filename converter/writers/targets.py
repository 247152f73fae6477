"""What a source can become: PyTorch files, and TensorFlow's own formats again.

PyTorch targets are made by the plan's operations. TensorFlow targets hold the plan's variables as they are, which of a
PyTorch source are the inverse of the operations.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import yaml

from converter.formats.file_kind import STATE_FILE
from converter.identify.hparams import CONFIG_FILE, hparams_of
from converter.plan.copies import View, stored_names
from converter.plan.engine import convert
from converter.plan.expand import Plan
from converter.plan.ops import Array
from converter.plan.table import VIEWS
from converter.source import VariableSource
from converter.writers.pth import write_pth
from converter.writers.safetensors import write_safetensors
from converter.writers.specs import TensorSpec
from converter.writers.tensorbundle import write_tensorbundle
from effdet_torch.atomic import replacing
from effdet_torch.errors import OutputError, UsageError

if TYPE_CHECKING:
    from effdet_torch.terminal import Progress

Specs = Mapping[str, TensorSpec]
Tensors = Iterable[tuple[str, Array]]
Metadata = Mapping[str, Any] | None  # None: the bare tensors, without a word of where they are from
Writer = Callable[[IO[bytes], Specs, Tensors, Metadata], None]

PREFIX = "model"  # of the checkpoint in a folder, as in the official downloads


@dataclass(frozen=True)
class Target:
    """One kind of output.

    Attributes:
        name: as typed.
        suffixes: of its files; none for a folder.
        specs: plan -> dtype and shape of everything that is written.
        tensors: what is written, one after another.
        write: writes it to a path.
        is_tensorflow: whether it holds TensorFlow's variables, none of which is folded away.
    """

    name: str
    suffixes: tuple[str, ...]
    specs: Callable[[Plan], dict[str, TensorSpec]]
    tensors: Callable[[VariableSource, Plan, View], Iterator[tuple[str, Array]]]
    write: Callable[[Path, Plan, Specs, Tensors, Metadata], None]
    is_tensorflow: bool = False

    def convert(
        self,
        source: VariableSource,
        plan: Plan,
        view: View,
        out: Path,
        metadata: Metadata = None,
        progress: Progress | None = None,
    ) -> None:
        """Write a source; an existing output is replaced only when everything went well."""
        specs = self.specs(plan)
        self.write(out, plan, specs, _counted(self.tensors(source, plan, view), specs, progress), metadata)


def choose_target(out: Path | None, to: str | None = None) -> Target:
    """Return the target that the user asks for, by name or by the suffix of OUT; a .pth file without either.

    Raises:
        UsageError: There is none, the suffix belongs to another one, or OUT cannot be written.
    """
    if out is None:
        return TARGETS[to or "pth"]
    by_suffix = {suffix: target for target in TARGETS.values() for suffix in target.suffixes}
    if to is None and out.suffix not in by_suffix:
        known = f"one of {', '.join(by_suffix)}, or a folder and --to tf1"
        raise UsageError(f"{out} ends in {out.suffix or 'nothing'!r}; expected {known}")
    target = by_suffix[out.suffix] if to is None else TARGETS[to]
    if by_suffix.get(out.suffix, target) != target or (target.suffixes and out.suffix not in target.suffixes):
        expected = f"a name that ends in {' or '.join(target.suffixes)}" if target.suffixes else "the name of a folder"
        raise UsageError(f"{out} does not go with --to {target.name}; expected {expected}")
    if out.name.endswith(".weights.h5"):
        raise UsageError(f"{out}: Keras reserves this suffix for Keras 3 files; name it {out.name[:-11]}.h5")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"the folder {out.parent} does not exist; create it first")
    if target.suffixes and out.is_dir():
        raise UsageError(f"{out} is a folder; expected the name of a file")
    if not target.suffixes:
        _refuse_strangers(out)
    return target


def require_bare(target: Target) -> None:
    """Refuse a target that has no layout without metadata.

    Raises:
        UsageError: It is one of TensorFlow's formats.
    """
    if target.is_tensorflow:
        raise UsageError(f"--layout effdet is a layout of PyTorch files; it does not go with --to {target.name}")


def _refuse_strangers(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier output: two checkpoints in one folder would be confused."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; expected the name of a folder")
    ours = {STATE_FILE, CONFIG_FILE, f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001"}
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    if strangers:
        raise UsageError(f"the folder {folder} holds other files ({', '.join(strangers[:3])}); name a new folder")


def state_dict_specs(plan: Plan) -> dict[str, TensorSpec]:
    """Return dtype and shape of every tensor of a state_dict."""
    return {
        key: TensorSpec(np.dtype(np.float32 if entry.sources else np.int64), entry.target_shape)
        for key, entry in plan.targets.items()
    }


def variable_specs(plan: Plan) -> dict[str, TensorSpec]:
    """Return dtype and shape of every TensorFlow variable."""
    return {name: TensorSpec(np.dtype(np.float32), shape) for name, shape in plan.variables.items()}


def _variables(source: VariableSource, plan: Plan, view: View) -> Iterator[tuple[str, Array]]:
    for name in plan.variables:
        yield name, source.read(view.stored[name]).astype(np.float32, copy=False)


def _checkpoint_specs(plan: Plan) -> dict[str, TensorSpec]:
    variables = variable_specs(plan)
    copies = {stored: variables[name] for view in VIEWS for name, stored in stored_names(plan, view).items()}
    return {**copies, plan.table.training_step: TensorSpec(np.dtype(np.int64), ())}


def _checkpoint_tensors(source: VariableSource, plan: Plan, view: View) -> Iterator[tuple[str, Array]]:
    """Yield one copy under raw and under EMA names, and the step that TensorFlow's training begins with."""
    copies = [stored_names(plan, name) for name in VIEWS]
    for name, array in _variables(source, plan, view):
        yield from ((names[name], array) for names in copies)
    yield plan.table.training_step, np.zeros((), np.int64)


def _to_file(writer: Writer) -> Callable[[Path, Plan, Specs, Tensors, Metadata], None]:
    def write(out: Path, plan: Plan, specs: Specs, tensors: Tensors, metadata: Metadata) -> None:
        with replacing(out) as stream:
            writer(stream, specs, tensors, metadata)

    return write


def _write_h5(out: Path, plan: Plan, specs: Specs, tensors: Tensors, metadata: Metadata) -> None:
    from converter.writers.keras_h5 import keras_layers, write_keras_h5  # late: h5py

    with replacing(out) as stream:
        write_keras_h5(stream, keras_layers(plan), specs, tensors, metadata)


def _write_checkpoint(out: Path, plan: Plan, specs: Specs, tensors: Tensors, metadata: Metadata) -> None:
    """Write checkpoint and hyperparameters into a folder, which disappears again if that fails."""
    with _folder(out), replacing(out / CONFIG_FILE) as config:
        config.write(yaml.safe_dump(hparams_of(plan.config), sort_keys=False).encode())
        write_tensorbundle(out / PREFIX, specs, tensors)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    existed = path.exists()
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be created: {error.strerror}; choose another folder") from error
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _counted(tensors: Tensors, specs: Specs, progress: Progress | None) -> Iterator[tuple[str, Array]]:
    done, total = 0, sum(spec.size_bytes for spec in specs.values())
    for name, array in tensors:
        yield name, array
        done += specs[name].size_bytes
        if progress is not None:
            progress(done, total)


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("pth", (".pth", ".pt"), state_dict_specs, convert, _to_file(write_pth)),
        Target("safetensors", (".safetensors",), state_dict_specs, convert, _to_file(write_safetensors)),
        Target("tf1", (), _checkpoint_specs, _checkpoint_tensors, _write_checkpoint, is_tensorflow=True),
        Target("h5", (".h5",), variable_specs, _variables, _write_h5, is_tensorflow=True),
    )
}
