"""TF2 checkpoints, including those of training (`emackpt-N`): a TensorBundle read by TF1 names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.readers.tensorflow.object_graph import Names, read_names
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle, lost_of_training
from converter.source import AVERAGE, OTHER_COPY, RAW_VALUES, SourceFacts, VariableSource

ONE_COPY = "holds one copy of every variable and does not say whether it is the averages"
_AVERAGES_PREFIX = "emackpt"


class ObjectCheckpoint(VariableSource):
    """The variables of a checkpoint whose keys are paths of Python attributes, under their TF1 names.

    If training kept averages, every variable of the model has one: its own, or itself if it has none. Only trainable
    variables are averaged; the others (moving statistics) are used together with the averages.
    """

    def __init__(self, bundle: TensorBundle) -> None:
        """Read the names of a bundle's keys; the source closes the bundle.

        Raises:
            MissingFileError: The data file, which holds the names, does not exist.
            CorruptFileError: The object graph is damaged.
            UnsupportedSourceError: Two keys hold variables of the same name.
        """
        self._bundle = bundle
        graph = b"".join(bundle.read(OBJECT_GRAPH).flat)
        try:
            names = read_names(graph, bundle.variables)
        except (CorruptFileError, UnsupportedSourceError) as error:
            raise type(error)(f"{bundle.path}: {error}. Pass another checkpoint of the same model.") from error
        implied, facts = self._implied_averages(names)
        self._keys = {**names.model, **names.others, **implied}
        super().__init__(facts, {name: bundle.variables[key] for name, key in self._keys.items()})

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable, see `TensorBundle.read`."""
        return self._bundle.read(self._keys[name])

    def checksum(self, name: str) -> int | None:
        """Return the checksum of a variable's values."""
        return self._bundle.checksum(self._keys[name])

    def files(self) -> tuple[Path, ...]:
        """Return the files of the bundle."""
        return self._bundle.files()

    def close(self) -> None:
        """Close the bundle."""
        self._bundle.close()

    def _implied_averages(self, names: Names) -> tuple[dict[str, str], SourceFacts]:
        """Return {name: key} of the averages that have no slot, and what is known about both copies."""
        facts, lost = self._bundle.facts, lost_of_training({*names.model, *names.others})
        averaged = {name: key for name, key in names.model.items() if f"{name}/{AVERAGE}" in names.others}
        if not averaged:
            reason = f"a {facts.kind} {ONE_COPY}"
            if self._bundle.prefix.name.startswith(_AVERAGES_PREFIX):
                reason += f"; its name ({self._bundle.prefix.name}) says that it is"
            return {}, replace(facts, raw_reason=reason, unrecoverable=(OTHER_COPY, *lost))
        pairs = [(key, names.others[f"{name}/{AVERAGE}"]) for name, key in averaged.items()]
        checksums = [(self._bundle.checksum(own), self._bundle.checksum(average)) for own, average in pairs]
        same = all(own is not None and own == average for own, average in checksums)
        state = "they equal the variables, whose raw values are not stored" if same else "the variables are raw values"
        notes = (f"training kept averages of {len(averaged)} variables; {state}",)
        implied = {
            f"{name}/{AVERAGE}": key
            for name, key in names.model.items()
            if name not in averaged and self._bundle.variables[key].dtype.startswith(("float", "bfloat"))
        }
        return implied, replace(facts, notes=notes, unrecoverable=(*([RAW_VALUES] if same else []), *lost))
