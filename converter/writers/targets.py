"""What a source can be converted to: PyTorch files, and TensorFlow's own formats.

PyTorch targets hold the results of the plan's operations. TensorFlow targets hold the plan's variables unchanged; a
PyTorch source computes these with the inverse operations.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import yaml

from converter.formats.file_kind import STATE_FILE
from converter.hparams.fields import config_file_hparams
from converter.hparams.given import CONFIG_FILE
from converter.identify.evidence import stated_only
from converter.plan.copies import View, stored_names
from converter.plan.engine import convert
from converter.plan.expand import Plan
from converter.plan.ops import Array
from converter.plan.table import VIEWS
from converter.source import VariableSource
from converter.writers.pth import write_pth
from converter.writers.safetensors import write_safetensors
from converter.writers.specs import TensorSpec
from converter.writers.tensorbundle import writing_tensorbundle
from effdet_torch.errors import OutputError, UsageError, listed
from effdet_torch.file_format import EXPORTED_SUFFIXES
from effdet_torch.outputs.atomic import is_temporary, replacing, size_of

if TYPE_CHECKING:
    from effdet_torch.terminal.bar import Progress

Specs = Mapping[str, TensorSpec]
Tensors = Iterable[tuple[str, Array]]
Metadata = Mapping[str, Any] | None  # None: the bare tensors, without metadata
Writer = Callable[[IO[bytes], Specs, Tensors, Metadata], None]

PREFIX = "model"  # of the checkpoint in a folder, as in the official downloads
IN_FOLDER = (CONFIG_FILE, STATE_FILE, f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001")


@dataclass(frozen=True)
class Target:
    """One kind of output.

    Attributes:
        name: as passed to `--to`.
        suffixes: of its files; empty for a folder.
        specs: plan -> dtype and shape of everything that is written.
        tensors: what is written, one after another.
        writing: writes it beside a path, yields its size in bytes, and moves it into place if the block succeeds.
        is_tensorflow: whether it holds all of TensorFlow's variables, with no bias folded.
    """

    name: str
    suffixes: tuple[str, ...]
    specs: Callable[[Plan], dict[str, TensorSpec]]
    tensors: Callable[[VariableSource, Plan, View], Iterator[tuple[str, Array]]]
    writing: Callable[[Path, Plan, Specs, Tensors, Metadata], AbstractContextManager[int]]
    is_tensorflow: bool = False

    def files(self, out: Path | None) -> list[Path]:
        """Return the files that an output consists of; none without an output."""
        if out is None:
            return []
        return [out] if self.suffixes else [out / name for name in IN_FOLDER]

    def converting(
        self,
        source: VariableSource,
        plan: Plan,
        view: View,
        out: Path,
        metadata: Metadata = None,
        progress: Progress | None = None,
    ) -> AbstractContextManager[int]:
        """Write a source, see `writing`; an existing output is replaced only if everything succeeds."""
        specs = self.specs(plan)
        return self.writing(out, plan, specs, _counted(self.tensors(source, plan, view), specs, progress), metadata)


def choose_target(out: Path | None, to: str | None = None) -> Target:
    """Return the target that the user asks for, by name or by the suffix of OUT; without either, a .pth file.

    Raises:
        UsageError: The suffix is unknown or belongs to another target, or OUT cannot be written.
    """
    if out is None:
        return TARGETS[to or "pth"]
    by_suffix = {suffix: target for target in TARGETS.values() for suffix in target.suffixes}
    if to is None and out.suffix not in by_suffix:
        ending = f"ends in {out.suffix!r}" if out.suffix else "has no suffix"
        hint = "; it exists: did you swap SOURCE and OUT?" if out.exists() else ""
        if out.suffix in EXPORTED_SUFFIXES:
            hint = f"; that is an export: convert to a .pth file, and then: effdet-export FILE.pth {out.name}"
        raise UsageError(f"{out} {ending}; expected one of {', '.join(by_suffix)}, or a folder with --to tf1{hint}")
    target = by_suffix[out.suffix] if to is None else TARGETS[to]
    if by_suffix.get(out.suffix, target) != target or (target.suffixes and out.suffix not in target.suffixes):
        expected = f"a name that ends in {' or '.join(target.suffixes)}" if target.suffixes else "the name of a folder"
        raise UsageError(f"{out} does not fit --to {target.name}; expected {expected}")
    if out.name.endswith(".weights.h5"):
        raise UsageError(f"{out}: Keras reserves this suffix for Keras 3 files; name it {out.name[:-11]}.h5")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"the folder {out.parent} does not exist; create it first")
    if not target.suffixes:
        _refuse_other_files(out)
    elif out.is_dir():
        raise UsageError(f"{out} is a folder; expected the name of a file")
    return target


def require_bare(target: Target) -> None:
    """Refuse a target whose files always have metadata.

    Raises:
        UsageError: It is one of TensorFlow's formats.
    """
    if target.is_tensorflow:
        raise UsageError(f"--layout effdet is for PyTorch files; it cannot be combined with --to {target.name}")


def _refuse_other_files(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier output: two checkpoints in one folder would be confused."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; expected the name of a folder")
    names = sorted(path.name for path in folder.iterdir())
    if others := [name for name in names if not any(name == ours or is_temporary(name, ours) for ours in IN_FOLDER)]:
        raise UsageError(f"the folder {folder} holds other files ({listed(others, 3)}); use a new folder")


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
    """Yield one copy under both the raw and the EMA names, and step 0, at which TensorFlow's training starts."""
    copies = [stored_names(plan, name) for name in VIEWS]
    for name, array in _variables(source, plan, view):
        yield from ((names[name], array) for names in copies)
    yield plan.table.training_step, np.zeros((), np.int64)


@contextmanager
def _file(writer: Writer, out: Path, _: Plan, specs: Specs, tensors: Tensors, metadata: Metadata) -> Iterator[int]:
    with replacing(out) as stream:
        writer(stream, specs, tensors, metadata)
        yield size_of(stream)


@contextmanager
def _h5(out: Path, plan: Plan, specs: Specs, tensors: Tensors, metadata: Metadata) -> Iterator[int]:
    from converter.writers.keras_h5 import keras_layers, write_keras_h5  # late: h5py

    with replacing(out) as stream:
        write_keras_h5(stream, keras_layers(plan), specs, tensors, metadata)
        yield size_of(stream)


@contextmanager
def _checkpoint(out: Path, plan: Plan, specs: Specs, tensors: Tensors, metadata: Metadata) -> Iterator[int]:
    """Write checkpoint and hyperparameters into a folder; if that fails, a new folder is removed again."""
    with _folder(out), replacing(out / CONFIG_FILE) as config:
        stated = stated_only(config_file_hparams(plan.config), (metadata or {}).get("assumed", {}))
        config.write(yaml.safe_dump(stated, sort_keys=False).encode())
        with writing_tensorbundle(out / PREFIX, specs, tensors) as size_bytes:
            yield size_bytes + size_of(config)


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
        Target("pth", (".pth", ".pt"), state_dict_specs, convert, partial(_file, write_pth)),
        Target("safetensors", (".safetensors",), state_dict_specs, convert, partial(_file, write_safetensors)),
        Target("tf1", (), _checkpoint_specs, _checkpoint_tensors, _checkpoint, is_tensorflow=True),
        Target("h5", (".h5",), variable_specs, _variables, _h5, is_tensorflow=True),
    )
}
