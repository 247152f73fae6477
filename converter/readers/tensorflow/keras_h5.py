"""Keras weights in HDF5 (`save_weights("model.h5")`): arrays under /<layer>/<TF1 name>:0, taken by name.

The root lists its layers in the attribute `layer_names`, every layer its arrays in `weight_names`; a list that is too
long for one attribute goes on in `weight_names0`, `weight_names1`, ...

Source: Keras 2, `hdf5_format.save_weights_to_hdf5_group`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.formats.hdf5 import Dataset, Hdf5File
from converter.identify.naming import undo_counters
from converter.identify.own_metadata import apply_metadata, parse_metadata
from converter.source import VariableInfo, VariableSource
from effdet_torch.file_format import METADATA_KEY

_LAYERS, _WEIGHTS = "layer_names", "weight_names"
_WHOLE_MODEL = "model_weights"  # where `model.save` puts what `save_weights` puts into the root
_TOP_LEVEL = "top_level_model_weights"
_KERAS_3 = {"layers", "vars", "_layer_checkpoint_dependencies"}
_OUTPUT = ":0"  # TensorFlow's first output of an operation, which ends the name of a variable


class KerasH5(VariableSource):
    """The variables of a Keras weights file; values are views of the mapped file."""

    kind = "Keras .h5 file"
    raw_reason = "a Keras .h5 file holds one copy of every variable and does not say whether it is the averages"

    def __init__(self, path: Path) -> None:
        """Read the names and places of all arrays.

        Raises:
            CorruptFileError: The file is damaged or cut off.
            UnsupportedSourceError: It is no Keras 2 weights file, or its arrays are compressed.
        """
        self.path, self.folder = path, path.absolute().parent
        with self._naming():
            self._file = Hdf5File(path)
            found = dict(self._weights(self._file.root))
            self._datasets = {name: found[given] for name, given in undo_counters(found).items()}
        if METADATA_KEY in (texts := self._file.texts(self._file.root)):
            apply_metadata(self, parse_metadata(path, "".join(texts[METADATA_KEY])))
        self._variables = {
            name: VariableInfo(dataset.dtype.name, dataset.shape) for name, dataset in self._datasets.items()
        }

    @property
    def variables(self) -> Mapping[str, VariableInfo]:
        """All arrays that a layer lists, under their TF1 names."""
        return self._variables

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable; HDF5 has no checksum that would tell damaged values."""
        return self._file.read(self._datasets[name])

    def files(self) -> tuple[Path, ...]:
        """Return the file."""
        return (self.path,)

    def close(self) -> None:
        """Nothing to do: the file is unmapped when the last array is gone."""

    def _weights(self, root: int) -> Iterator[tuple[str, Dataset]]:
        """Yield (name, array) of all layers."""
        groups = self._file.children(root)
        layers = _joined(self._file.texts(root), _LAYERS)
        if layers is None and _WHOLE_MODEL in groups:
            yield from self._weights(groups[_WHOLE_MODEL])
            return
        if layers is None:
            raise UnsupportedSourceError(_not_keras_2(set(groups)))
        seen: set[str] = set()
        for layer in [*layers, *({_TOP_LEVEL} & groups.keys())]:
            group = self._find(root, layer)
            for weight in _joined(self._file.texts(group), _WEIGHTS) or ():
                name = weight.removesuffix(_OUTPUT)
                if name in seen:
                    raise UnsupportedSourceError(f"two arrays are called {name!r}; expected one model")
                seen.add(name)
                yield name, self._dataset(self._find(group, weight), weight)

    def _find(self, group: int, path: str) -> int:
        """Return the object at a path of names, which may be of any depth."""
        for part in path.split("/"):
            children = self._file.children(group)
            if part not in children:
                raise CorruptFileError(f"{path!r} is listed, but {part!r} is not there")
            group = children[part]
        return group

    def _dataset(self, address: int, weight: str) -> Dataset:
        try:
            return self._file.dataset(address)
        except SourceError as error:
            raise type(error)(f"{weight}: {error}") from error

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except CorruptFileError as error:
            raise CorruptFileError(f"{self.path}: damaged HDF5 file: {error}. Download or copy it again.") from error
        except UnsupportedSourceError as error:
            raise UnsupportedSourceError(f"{self.path}: HDF5 file, {error}.") from error


def _joined(texts: Mapping[str, list[str]], name: str) -> list[str] | None:
    """Return a list that may be split over several attributes; None if there is no such list."""
    if name in texts:
        return texts[name]
    parts = itertools.takewhile(lambda part: part in texts, (f"{name}{number}" for number in itertools.count()))
    return [text for part in parts for text in texts[part]] or None


def _not_keras_2(groups: set[str]) -> str:
    if groups & _KERAS_3:
        return (
            "weights of Keras 3, which go by places in the model and not by names of variables; save the model with "
            "tf-keras (Keras 2) as .h5, or give its checkpoint"
        )
    held = ", ".join(sorted(groups)[:5]) or "nothing"
    return f"but no Keras weights (no attribute {_LAYERS!r}; it holds {held})"
