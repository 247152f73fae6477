"""Serve a converted or exported file over HTTP with LitServe (`pip install litserve`).

python litserve_detector.py d0.onnx --port 8000
curl -F image=@photo.jpg http://127.0.0.1:8000/predict
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import litserve
from fastapi import HTTPException, Request
from numpy.typing import NDArray

from effdet_torch import ImageDetections, Predictor
from effdet_torch.inference.images import ImageError, read_image


class Detector(litserve.LitAPI):  # type: ignore[misc]
    """An image file in the field `image` of a form -> {"detections": [{name, score, box_xyxy, category_id}, ...]}."""

    def __init__(self, model: Path, score: float) -> None:
        super().__init__()
        self.model, self.score = model, score

    def setup(self, device: str) -> None:
        """Load the model, in the process that runs it."""
        self.predictor = Predictor(self.model, device=device, score_threshold=self.score)

    def decode_request(self, request: Request) -> NDArray[Any]:
        """Read the image as the commands do: turned as its EXIF orientation says, and refused if it is damaged."""
        if not hasattr(upload := request.get("image"), "file"):
            raise HTTPException(422, "expected a form with an image file in the field `image`")
        with tempfile.NamedTemporaryFile() as file:
            file.write(upload.file.read())
            file.flush()
            try:
                return read_image(Path(file.name), apply_exif=True)
            except ImageError as error:
                raise HTTPException(400, str(error).replace(file.name, "image")) from error

    def predict(self, image: NDArray[Any]) -> ImageDetections:
        """Detect in one image."""
        return self.predictor(image)[0]

    def encode_response(self, found: ImageDetections) -> dict[str, Any]:
        """Return what becomes JSON; boxes are in pixels of the image."""
        return {"detections": [one._asdict() for one in found]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--score", type=float, default=0.3)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    server = litserve.LitServer(Detector(options.model, options.score), accelerator="cpu", max_payload_size=50_000_000)
    server.run(host=options.host, port=options.port, generate_client_file=False)
