"""The API's variables under their official names, in the arrangement that the reference computes in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.errors import ReferenceModelError
from verify.reference.object_detection_api.names import PREDICTOR, Names

Array = NDArray[Any]
RATIOS = 3  # of the anchors, unless the settings say otherwise
CODER = {"y_scale": 10.0, "x_scale": 10.0, "height_scale": 5.0, "width_scale": 5.0}
MAX_PIPELINE_BYTES = 1 << 20


class ApiVariables(Mapping[str, Array]):
    """{official name: array}, read when asked for.

    The API predicts by aspect ratio, then by octave; the official code by octave, then by aspect ratio. What the API
    predicts for boxes is larger by its box coder.

    Args:
        stored: {the API's full name: array}.
        octaves: number of octave scales of the anchors.
        coder: what the API multiplies (ty, tx, th, tw) by.
    """

    def __init__(self, stored: Mapping[str, Array], octaves: int, coder: tuple[float, ...]) -> None:
        self.names = Names(stored)
        self._stored, self._octaves, self._coder = stored, octaves, np.array(coder)

    def __getitem__(self, official: str) -> Array:
        name, place = self._stored_name(official)
        array = self._stored[name]
        if place is not None:
            return np.asarray(array[place, 0])
        if official.endswith(("predict/pointwise_kernel", "predict/bias")):
            return self._arranged(array, official.partition("_net/")[0])
        return array

    def __contains__(self, official: object) -> bool:
        try:
            return self._stored_name(str(official))[0] in self._stored
        except ReferenceModelError:
            return False

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("names are translated one way only")

    def __len__(self) -> int:
        return len(self._stored)

    def _stored_name(self, official: str) -> tuple[str, int | None]:
        """Return the API's name, and the place in that variable if the official one is a part of it."""
        scope, _, leaf = official.rpartition("/")
        if leaf.startswith("WSM"):
            return f"{self.names.scope(scope)}/combine/bifpn_combine_weights", int(leaf[4:] or 0)
        return f"{self.names.scope(scope)}/{leaf}", None

    def _arranged(self, array: Array, head: str) -> Array:
        boxes = self._stored[f"{PREDICTOR}/WeightSharedConvolutionalBoxHead/BoxPredictor/bias"]
        anchors = len(boxes) // 4
        by_ratio = array.reshape(*array.shape[:-1], anchors // self._octaves, self._octaves, array.shape[-1] // anchors)
        by_octave = by_ratio.swapaxes(-3, -2)
        if head == "box":
            by_octave = by_octave / self._coder  # in float64: rounded where it is computed with
        arranged: Array = by_octave.reshape(array.shape)
        return arranged


def seen_in_api(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the official hyperparameters that {the API's full name: shape} show."""
    names = Names(shapes)
    if not names.nodes:
        return {}
    tower = f"{PREDICTOR}/ClassPredictionTower"
    heads = (f"{PREDICTOR}/WeightSharedConvolutional{head}Head/{head}Predictor/bias" for head in ("Class", "Box"))
    classes, boxes = (shapes[name][0] for name in heads)
    has_weights = any(name.endswith("/bifpn_combine_weights") for name in shapes)
    version = re.search(r"-[DB](\d)", names.nodes[0])
    return {
        **({} if version is None else {"backbone_name": f"efficientnet-b{version[1]}"}),
        "min_level": names.levels[0],
        "max_level": names.levels[-1],
        "num_classes": 4 * classes // boxes,
        **({} if boxes // 4 % RATIOS else {"num_scales": boxes // 4 // RATIOS}),
        "box_class_repeats": len({name.split("/")[2] for name in shapes if name.startswith(f"{tower}/")}),
        "fpn_num_filters": shapes[f"{tower}/conv2d_0/bias"][0],
        "fpn_cell_repeats": len(names.cells),
        "fpn_weight_method": "fastattn" if has_weights else "sum",
    }


def read_coder(paths: Iterable[Path]) -> tuple[float, ...]:
    """Return what the pipeline of a checkpoint multiplies (ty, tx, th, tw) by; the API's own where there is none.

    Args:
        paths: where the pipeline may lie, nearest first.

    Raises:
        ReferenceModelError: The file cannot be read.
    """
    file = next(filter(Path.is_file, paths), None)
    if file is None:
        return tuple(CODER.values())
    try:
        with file.open("rb") as stream:
            text = re.sub(r"#.*", "", stream.read(MAX_PIPELINE_BYTES).decode())
        found = {name: re.search(rf"\b{name}\s*:\s*([-+.\w]+)", text) for name in CODER}
        return tuple(float(match[1]) if (match := found[name]) else usual for name, usual in CODER.items())
    except (OSError, ValueError) as error:
        raise ReferenceModelError(f"{file} cannot be read: {error}") from error
