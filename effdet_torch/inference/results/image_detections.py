"""What was found in one image, with all that can be made of it: drawings, files, the types of other packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effdet_torch.errors import EffdetError, UsageError
from effdet_torch.inference.images import ImageSource, to_rgb
from effdet_torch.inference.results.detections import Detections, as_array
from effdet_torch.inference.results.saved import (
    PICTURES,
    csv_text,
    json_text,
    save_picture,
    save_text,
    voc_text,
    yolo_text,
)
from effdet_torch.inference.results.visualize import draw_detections


@dataclass(frozen=True, eq=False)
class ImageDetections(Detections):
    """What a `Predictor` finds in one image; see `Detections` for its attributes."""

    def plot(self, image: ImageSource | None = None) -> Image.Image:
        """Return the image with boxes, names and scores drawn on it.

        Args:
            image: the image; by default the one that was passed to the predictor.

        Raises:
            UsageError: The image was not kept, or `image` has another size.
            ImageError: The image cannot be read.
        """
        source = self.source if image is None else image
        if source is None:
            raise UsageError("the image was not kept with its detections; pass it: plot(image)")
        pixels = np.asarray(as_array(to_rgb(source)))
        if self.size not in (None, pixels.shape[:2]):
            raise UsageError(f"image is {pixels.shape[:2]}, the detections are for {self.size}, (height, width)")
        return draw_detections(pixels, self.numpy())

    def save(self, path: str | Path, image: ImageSource | None = None) -> Path:
        """Write the detections to a file, in the form of its suffix.

        Args:
            path: .jpg or .png for a drawing, .json, .csv, .txt (YOLO) or .xml (PASCAL VOC); folders are created.
            image: of a drawing, see `plot`.

        Returns:
            The path.

        Raises:
            UsageError: The suffix is another one; or see `plot`, `to_yolo` and `to_voc`.
            OutputError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() in PICTURES:
            save_picture(self.plot(image), path)
        else:
            save_text(self, path)
        return path

    def to_json(self) -> str:
        """Return a list of objects with the fields of `Detection`, as JSON."""
        return json_text(self)

    def to_csv(self) -> str:
        """Return a table with the columns name, score, xmin, ymin, xmax, ymax and category_id."""
        return csv_text(self)

    def to_yolo(self, *, scores: bool = False) -> str:
        """Return one line `class x y width height` per detection, as YOLO's label files have them.

        Classes count from 0 (category id - 1), centres and sides are shares of the image's sides; a box is cut at the
        border, and left out if nothing of it is inside.

        Args:
            scores: append the score to every line; annotation tools expect none.

        Raises:
            UsageError: The size of the image is unknown.
        """
        return yolo_text(self, scores)

    def to_voc(self) -> str:
        """Return an annotation file of PASCAL VOC, as XML; it has no scores, and sides are whole pixels.

        Raises:
            UsageError: The size of the image is unknown.
        """
        return voc_text(self)

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`: xyxy, confidence, class_id (the category ids) and data["class_name"].

        Raises:
            EffdetError: The package supervision is not installed.
        """
        try:
            from supervision import Detections
        except ModuleNotFoundError as error:
            raise EffdetError("to_supervision needs the package supervision; run pip install supervision") from error
        arrays = self.numpy()
        names = np.array(self.names, dtype=np.str_)
        columns = {"xyxy": arrays.boxes_xyxy, "confidence": arrays.scores, "class_id": arrays.category_ids}
        return Detections(**columns, data={"class_name": names})
